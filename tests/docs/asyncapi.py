"""Writes docs/reference/asyncapi.yaml from the event types and the schemas of their data.

    PYTHONPATH=tests .venv/bin/python -m docs.asyncapi

test_asyncapi.py fails if the file is out of date.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema
from ruamel.yaml import YAML

from docs.pages import ROOT, rows
from opsjobs import __version__
from opsjobs.api.schemas.approvals import ApprovalOut
from opsjobs.api.schemas.base import AnswerModel
from opsjobs.api.schemas.deliveries import WebhookOut
from opsjobs.api.schemas.executions import ExecutionOut, TargetRunOut
from opsjobs.api.schemas.jobs import JobOut
from opsjobs.api.schemas.schedules import ScheduleOut
from opsjobs.api.schemas.targets import CircuitOut
from opsjobs.model.events import CHANNEL, JOB_TWIN, SOURCE, EventType

FILE = ROOT / "docs/reference/asyncapi.yaml"
MODELS: Mapping[str, type[AnswerModel]] = {
    "job": JobOut,
    "execution": ExecutionOut,
    "target_run": TargetRunOut,
    "schedule": ScheduleOut,
    "approval": ApprovalOut,
    "circuit": CircuitOut,
    "webhook": WebhookOut,
}
WORKER = {
    "type": "object",
    "required": ["id", "name", "zone"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "name": {"type": "string"},
        "zone": {"type": "string"},
    },
}
# Responses of the API contain links and the text of commands; events do not.
WITHOUT = ("links", "summary")


def data_schema(event: EventType) -> str:
    """Return the name of the schema of an event's data."""
    if event in JOB_TWIN.values():
        return "Execution"
    noun = event.value.partition(".")[0]
    return MODELS[noun].__name__.removesuffix("Out") if noun in MODELS else "Worker"


def schemas() -> dict[str, Any]:
    """Return the schemas of the data, and those that they refer to."""
    _, made = models_json_schema(
        [(model, "serialization") for model in MODELS.values()],
        ref_template="#/components/schemas/{model}",
    )
    text = json.dumps(made["$defs"])
    found: dict[str, Any] = {}
    for name, schema in json.loads(text).items():
        for field in WITHOUT:
            schema.get("properties", {}).pop(field, None)
            if field in schema.get("required", []):
                schema["required"].remove(field)
        found[name] = schema
    renamed = json.loads(json.dumps(found).replace('Out"', '"'))
    used = {MODELS[noun].__name__.removesuffix("Out") for noun in MODELS}
    queue = [*used]
    while queue:
        for ref in _refs(renamed[queue.pop()]):
            if ref not in used:
                used.add(ref)
                queue.append(ref)
    return {**{name: renamed[name] for name in sorted(used)}, "Worker": WORKER}


def _refs(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _refs(value)
    if isinstance(schema, list):
        for value in schema:
            yield from _refs(value)


def payload(event: EventType) -> dict[str, Any]:
    """Return the schema of a whole event."""
    return {
        "allOf": [
            {"$ref": "#/components/schemas/CloudEvent"},
            {
                "type": "object",
                "properties": {
                    "type": {"const": f"io.opsconductor.{event.value}.v1"},
                    "data": {"$ref": f"#/components/schemas/{data_schema(event)}"},
                },
            },
        ]
    }


ENVELOPE = {
    "type": "object",
    "required": ["specversion", "id", "source", "type", "subject", "time", "data"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "description": "Stable: ignore one that you have seen"},
        "source": {"const": SOURCE},
        "type": {"type": "string"},
        "subject": {"type": "string", "format": "uuid"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "traceparent": {
            "type": "string",
            "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$",
            "description": "W3C trace context in which the event was written; absent without one",
        },
        "data": {"type": "object"},
    },
}
SIGNED = {
    "type": "object",
    "required": ["webhook-id", "webhook-timestamp", "webhook-signature"],
    "properties": {
        "webhook-id": {"type": "string", "description": "The same at every attempt"},
        "webhook-timestamp": {"type": "string", "pattern": "^[0-9]+$"},
        "webhook-signature": {"type": "string", "pattern": "^v1,"},
    },
}


def document() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    when = {row[0].strip("`"): row[1] for row in rows("docs/reference/events.md")}
    messages = {
        event.value: {
            "name": event.value,
            "summary": when[event.value],
            "contentType": "application/json",
            "payload": payload(event),
        }
        for event in EventType
    }
    refs = {name: {"$ref": f"#/components/messages/{name}"} for name in messages}
    channels: dict[str, Any] = {
        "all": {
            "address": CHANNEL,
            "title": "Redis pub/sub: all events",
            "messages": refs,
        }
    }
    for event in EventType:
        channels[event.value] = {
            "address": f"{CHANNEL}.{event.value}",
            "title": f"Redis pub/sub: {event.value}",
            "messages": {event.value: refs[event.value]},
        }
    channels["stream"] = {
        "address": "/events",
        "title": "GET /events: all events as Server-Sent Events, with replay",
        "messages": refs,
    }
    channels["webhook"] = {
        "address": None,
        "title": "POST to the URL of a webhook, with the headers of Standard Webhooks",
        "description": "The headers are those of the schema WebhookHeaders.",
        "messages": refs,
    }
    operations = {
        f"send.{name}": {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
            **({"bindings": {"http": {"method": "POST"}}} if name == "webhook" else {}),
        }
        for name in channels
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "opsjobs events",
            "version": __version__,
            "description": "What happens in opsjobs, as CloudEvents 1.0. Delivered at least once, in "
            "the order of each subject. docs/reference/events.md explains them.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {"CloudEvent": ENVELOPE, "WebhookHeaders": SIGNED, **schemas()},
        },
    }


def written() -> str:
    """Return the text of the file."""
    yaml = YAML()
    yaml.width = 100
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda _: True
    stream = io.StringIO()
    stream.write("# Written by `PYTHONPATH=tests .venv/bin/python -m docs.asyncapi`.\n")
    yaml.dump(document(), stream)
    return stream.getvalue()


if __name__ == "__main__":
    FILE.write_text(written())
