"""Writes the types of the API for the console, from the description that the service serves.

`Schemas` has a type for each schema by its name; `Operations` one for each route, as `ask` needs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from docs.reference import application

HEAD = """// Made by `scripts/console types` from the description of the API. Not committed.
/* biome-ignore-all lint: generated */
"""
_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*")


def written() -> str:
    """The file `console/src/api/types.ts`."""
    schema = application().openapi()
    schemas = schema["components"]["schemas"]
    parts = [HEAD]
    parts += [_declaration(name, schemas[name]) for name in sorted(schemas)]
    parts += ["export interface Operations {"]
    for path, operations in schema["paths"].items():
        parts += [_operation(path, method, one) for method, one in operations.items()]
    return "\n".join([*parts, "}", ""])


def _declaration(name: str, schema: Mapping[str, Any]) -> str:
    about = f"/** {schema['description'].split(chr(10))[0]} */\n" if "description" in schema else ""
    return f"{about}export type {_name(name)} = {_type(schema)};"


def _name(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    given = {place: dict[str, Any]() for place in ("path", "query")}
    for one in operation.get("parameters", ()):
        if one["in"] in given:
            given[one["in"]][one["name"]] = one
    fields = [f"path: {_parameters(given['path'])}", f"query: {_parameters(given['query'])}"]
    body = operation.get("requestBody")
    fields.append(f"body: {_content(body['content']) if body else 'undefined'}")
    fields.append(f"answer: {_answer(operation['responses'])}")
    return f"  {json.dumps(f'{method.upper()} {path}')}: {{ {'; '.join(fields)} }};"


def _parameters(given: Mapping[str, Any]) -> str:
    return _object(
        {name: one["schema"] for name, one in given.items()},
        {name for name, one in given.items() if one.get("required")},
    )


def _content(content: Mapping[str, Any]) -> str:
    for media, found in content.items():
        if "json" in media:
            return _type(found["schema"]) if "schema" in found else "unknown"
    return "BodyInit"


def _answer(responses: Mapping[str, Any]) -> str:
    for status, response in responses.items():
        if status.startswith("2"):
            return _content(response["content"]) if response.get("content") else "undefined"
    return "unknown"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _name(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _union(_type(one) for one in schema[key])
    return _by_type(schema)


def _by_type(schema: Mapping[str, Any]) -> str:
    match schema.get("type"):
        case list() as several:
            return _union(_by_type({**schema, "type": one}) for one in several)
        case "string":
            return "string"
        case "integer" | "number":
            return "number"
        case "boolean":
            return "boolean"
        case "null":
            return "null"
        case "array":
            return f"({_type(schema.get('items', {}))})[]"
        case "object":
            return _object_type(schema)
    return "unknown"


def _object_type(schema: Mapping[str, Any]) -> str:
    if "properties" in schema:
        return _object(schema["properties"], set(schema.get("required", ())))
    more = schema.get("additionalProperties", True)
    return f"Record<string, {_type(more) if isinstance(more, dict) else 'unknown'}>"


def _object(properties: Mapping[str, Any], required: set[str]) -> str:
    fields = (
        f"{name if _IDENTIFIER.fullmatch(name) else json.dumps(name)}"
        f"{'' if name in required else '?'}: {_type(schema)}"
        for name, schema in properties.items()
    )
    return f"{{ {'; '.join(fields)} }}"


def _union(types: Iterator[str]) -> str:
    return " | ".join(dict.fromkeys(types))
