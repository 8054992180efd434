"""docs/reference/asyncapi.yaml is up to date, and a document of AsyncAPI 3.

The JSON Schema of AsyncAPI is in no Python package, so the structure is checked here against the
requirements of its specification. The file was validated against the schema of `@asyncapi/specs`
when the generator was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from ruamel.yaml import YAML

from docs.asyncapi import FILE, payload, written
from opsjobs.model.events import EventType


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    read: dict[str, Any] = YAML(typ="safe").load(FILE.read_text())
    return read


def test_the_file_is_what_is_generated() -> None:
    assert FILE.read_text() == written(), "run PYTHONPATH=tests .venv/bin/python -m docs.asyncapi"


def test_the_document_has_what_asyncapi_3_demands(document: dict[str, Any]) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(document["info"])
    known = {"asyncapi", "id", "info", "defaultContentType", "servers", "channels", "operations", "components"}  # fmt: skip
    assert set(document) <= known
    for name, channel in document["channels"].items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        assert set(channel) <= {"address", "title", "summary", "description", "messages"}
        assert channel["messages"], name
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in document["channels"]
    for message in document["components"]["messages"].values():
        assert set(message) <= {"name", "title", "summary", "contentType", "payload", "headers"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = list(references(document))
    assert len(found) > 100
    for ref in found:
        at: Any = document
        for step in ref.removeprefix("#/").split("/"):
            at = at[step]
        assert at, ref


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    if isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_event_is_a_message_with_a_channel(document: dict[str, Any]) -> None:
    every = {event.value for event in EventType}
    assert set(document["components"]["messages"]) == every
    assert set(document["channels"]) == every | {"all", "stream", "webhook"}


def test_the_schemas_are_schemas_and_tell_events_apart(document: dict[str, Any]) -> None:
    def schema(event: EventType) -> dict[str, Any]:
        return {**payload(event), "components": document["components"]}

    event = {
        "specversion": "1.0", "id": "a/7", "source": "/opsjobs", "type": "io.opsconductor.worker.lost.v1",
        "subject": "01a20e5a-24fc-7134-a54e-2cc22ebb4205", "time": "2026-11-24T16:18:38.752Z", "datacontenttype": "application/json",
        "data": {"id": "01a20e5a-24fc-7134-a54e-2cc22ebb4205", "name": "worker-1", "zone": "default"},
    }  # fmt: skip
    for kind in EventType:
        jsonschema_rs.validator_for(schema(kind))
        assert jsonschema_rs.is_valid(schema(kind), event) is (kind is EventType.WORKER_LOST)
    incomplete = {**event, "data": {}}
    assert not jsonschema_rs.is_valid(schema(EventType.WORKER_LOST), incomplete)
