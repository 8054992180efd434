"""Description of the API: OpenAPI 3.1, and a self-contained page made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import Request
from starlette.responses import HTMLResponse

from opsjobs.api.authentication import OPEN_ROUTES
from opsjobs.api.dependencies import Permission
from opsjobs.api.http import REQUIRED
from opsjobs.api.paths import PREFIX
from opsjobs.api.problems import MEDIA_TYPE, PAGE_MEDIA_TYPE, PAGE_PATHS

_ERROR = {
    "type": "object",
    "required": ["detail", "code"],
    "properties": {
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "pointer": {"type": "string", "description": "JSON Pointer into the body"},
        "in": {"type": "string", "enum": ["query", "header", "path"]},
        "parameter": {"type": "string"},
    },
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable, for programs"},
        "request_id": {"type": "string"},
        "errors": {"type": "array", "items": _ERROR},
    },
}
_PROBLEM_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFUSED = {"description": "Refused: a problem document (RFC 9457)", "content": _PROBLEM_CONTENT}
_REFUSED_PAGE = {
    "description": "Refused: a problem document (RFC 9457), for a browser as a page",
    "content": {**_PROBLEM_CONTENT, PAGE_MEDIA_TYPE: {"schema": {"type": "string"}}},
}
# application/json is accepted, too; only one is described, as generators fail with two.
_PATCH_TYPE = "application/merge-patch+json"
_PATCH = {
    "type": "object",
    "additionalProperties": True,
    "description": (
        "A JSON Merge Patch (RFC 7396): fields of the body of PUT. "
        "Null removes a field, objects are merged, lists are replaced."
    ),
}
_PATCH_REF = {"$ref": "#/components/schemas/MergePatch"}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
code{{font-family:ui-monospace,monospace}}h3{{margin:1.2rem 0 0}}p{{margin:.2rem 0}}</style>
<h1>{title}</h1>
<p>The whole description, for programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).
Send <code>Authorization: Bearer opsc_…</code> with every request.</p>{operations}</html>"""


def describe(app: FastAPI, *, docs: bool) -> None:
    """Make `app.openapi()` describe refusals, tokens, permissions; serve the page if `docs`.

    `x-permission` of an operation is the permission that its caller must hold. `x-within` is how it
    treats a caller who holds it only within a scope (values of Within in api/authorization.py).
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _schema(app)
        return app.openapi_schema

    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(
            _html(app.openapi()),
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI says it is done
    if docs:
        app.add_route("/docs", page, include_in_schema=False)


def operation_id(route: APIRoute) -> str:
    """Return a route's name for generated clients: its summary, as `list_job_versions`."""
    words = re.findall(r"[a-z]+", (route.summary or route.name).lower().replace("'s", ""))
    return "_".join(word for word in words if word not in ("a", "an", "the"))


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        servers=[{"url": PREFIX}, {"url": "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas |= {"Problem": _PROBLEM, "MergePatch": _PATCH}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"token": []}]
    required = permissions(app)
    for path, operations in schema.get("paths", {}).items():
        for method, operation in operations.items():
            if (permission := required.get((method.upper(), path))) is not None:
                operation |= {"x-permission": permission.name, "x-within": permission.within.value}
            operation["responses"].pop("422", None)
            refused = _REFUSED_PAGE if path in PAGE_PATHS else _REFUSED
            operation["responses"] |= {"4XX": refused, "5XX": refused}
            _require_parameters(operation)
            _describe_optional_body(operation)
            if method == "patch":
                operation["requestBody"]["content"] = {_PATCH_TYPE: {"schema": _PATCH_REF}}
            if path in OPEN_ROUTES:
                operation["security"] = []
    tags = sorted(
        {
            tag
            for operations in schema["paths"].values()
            for one in operations.values()
            for tag in one["tags"]
        }
    )
    schema["tags"] = [{"name": tag} for tag in tags]
    return _with_plain_names(schema)


def _require_parameters(operation: Mapping[str, Any]) -> None:
    """Mark parameters as required that are optional in code only for a better refusal.

    Such a route refuses the missing parameter with its own message.
    """
    for parameter in operation.get("parameters", ()):
        if parameter["schema"].pop(REQUIRED, False):
            parameter["required"] = True


def _describe_optional_body(operation: Mapping[str, Any]) -> None:
    """Describe an optional body as optional, without null.

    FastAPI adds null as an alternative, and generated clients then cannot leave the body out.
    """
    for content in operation.get("requestBody", {}).get("content", {}).values():
        match content["schema"]:
            case {"anyOf": [{"$ref": reference}, {"type": "null"}]}:
                content["schema"] = {"$ref": reference}


def _with_plain_names(schema: dict[str, Any]) -> dict[str, Any]:
    """Name the schemas of responses by their nouns: `Execution`, not the class `ExecutionOut`."""
    schemas = schema["components"]["schemas"]
    plain = {name: name.removesuffix("Out") for name in schemas}
    assert len({*plain.values()}) == len(plain), "two schemas have one name"

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(item) for item in value]
        if not isinstance(value, dict):
            return value
        found = {key: renamed(item) for key, item in value.items()}
        if isinstance(reference := found.get("$ref"), str):
            path, _, name = reference.rpartition("/")
            found["$ref"] = f"{path}/{plain.get(name, name)}"
        if isinstance(title := found.get("title"), str):
            found["title"] = plain.get(title, title)
        return found

    schema = renamed(schema)
    schema["components"]["schemas"] = {
        plain[name]: body for name, body in schema["components"]["schemas"].items()
    }
    return schema


def permissions(app: FastAPI) -> dict[tuple[str, str], Permission]:
    """Return the permission that each route requires, by method and path."""
    routes = [context.original_route for context in iter_route_contexts(app.routes)]
    return {
        (method, route.path): dependency.call
        for route in routes
        if isinstance(route, APIRoute)
        for dependency in route.dependant.dependencies
        if isinstance(dependency.call, Permission)
        for method in route.methods or ()
    }


def _html(schema: Mapping[str, Any]) -> str:
    blocks = [
        f"<h3><code>{method.upper()} {escape(path)}</code></h3>"
        f"<p><b>{escape(operation.get('summary', ''))}.</b> "
        f"{escape(remove_summary(operation))}{_needs(operation)}</p>"
        for path, operations in sorted(schema["paths"].items())
        for method, operation in operations.items()
    ]
    return _PAGE.format(title=escape(schema["info"]["title"]), operations="".join(blocks))


def remove_summary(operation: Mapping[str, Any]) -> str:
    """Return an operation's description without a first sentence that repeats its summary."""
    description: str = operation.get("description", "")
    return description.removeprefix(f"{operation.get('summary', '')}.").lstrip()


def _needs(operation: Mapping[str, Any]) -> str:
    permission = operation.get("x-permission")
    return f" Needs <code>{escape(permission)}</code>." if permission is not None else ""
