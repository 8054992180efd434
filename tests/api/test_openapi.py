"""The OpenAPI document describes every request and every response.

The clients of all API tests check responses against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema_rs
import pytest

from api.conformance import Description
from docs.test_complete import application
from opsjobs.api.openapi import permissions


@pytest.fixture(scope="module")
def document() -> Any:
    return application().openapi()


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str) or isinstance(value.get("anyOf"), list):
            yield value
        for item in value.values():
            yield from schemas(item)
    elif isinstance(value, list):
        for item in value:
            yield from schemas(item)


def test_every_operation_describes_its_answers(document: Any) -> None:
    lacking = [
        f"{name} {status} {media_type}"
        for name, operation in operations(document)
        for status, answer in operation["responses"].items()
        for media_type, content in (answer.get("content") or {"no content": {}}).items()
        if status not in ("204", "303") and not content.get("schema")  # these have no body
    ]
    assert lacking == []
    assert len(list(operations(document))) > 100


def test_every_operation_describes_its_refusals(document: Any) -> None:
    for name, operation in operations(document):
        for status in ("4XX", "5XX"):
            content = dict(operation["responses"][status]["content"])
            assert content.pop("application/problem+json") == {
                "schema": {"$ref": "#/components/schemas/Problem"}
            }, name
            # Browsers get a refusal as a page, because no script reads it.
            assert set(content) == ({"text/html"} if "/auth/oidc" in name else set()), name


def test_every_list_in_a_query_has_a_limit(document: Any) -> None:
    lists = [
        (name, parameter["name"], schema)
        for name, operation in operations(document)
        for parameter in operation.get("parameters", ())
        for schema in [parameter["schema"], *parameter["schema"].get("anyOf", ())]
        if parameter["in"] == "query" and schema.get("type") == "array"
    ]
    assert len(lists) > 100
    assert [one[:2] for one in lists if "maxItems" not in one[2]] == []


def test_defaults_and_examples_fit_their_schemas(document: Any) -> None:
    for schema in schemas(document):
        whole = {**schema, "components": document["components"]}
        for value in [
            *([schema["default"]] if "default" in schema else []),
            *schema.get("examples", []),
        ]:
            assert jsonschema_rs.is_valid(whole, value), (schema, value)


def test_a_launch_describes_the_answer_to_prefer_wait(document: Any) -> None:
    for path in ("/jobs/{id}/execute", "/run", "/executions/{id}/retry", "/schedules/{id}/trigger"):
        answers = document["paths"][path]["post"]["responses"]
        assert {"200", "202"} <= set(answers), path
        assert "#/components/schemas/Execution" in str(answers["200"]), path


def test_logs_and_files_describe_their_media_types(document: Any) -> None:
    def media_types(path: str) -> set[str]:
        return set(document["paths"][path]["get"]["responses"]["200"]["content"])

    assert media_types("/executions/{id}/log") == {
        "application/json", "text/plain", "application/octet-stream", "application/x-ndjson",
    }  # fmt: skip
    assert media_types("/executions/{id}/events") == {"text/event-stream"}
    assert (
        media_types("/files/{id}/content")
        == media_types("/artifacts/{id}")
        == {"application/octet-stream"}
    )
    assert media_types("/audit/export") == {"application/x-ndjson"}
    assert media_types("/metrics") == {"text/plain"}


def test_if_match_is_required_only_where_its_absence_is_refused(document: Any) -> None:
    required = {
        name: parameter["required"]
        for name, operation in operations(document)
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "if-match"
    }
    assert required["PUT /jobs/{id}"] is True
    assert required["PUT /schedules/{id}"] is True
    assert required["DELETE /jobs/{id}"] is False


def test_the_document_names_its_servers(document: Any) -> None:
    assert [server["url"] for server in document["servers"]] == ["/api/v1", "/"]


def test_operation_ids_are_unique_and_usable_by_generated_clients(document: Any) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len({*names}) == len(names)
    assert {
        "list_jobs",
        "execute_job",
        "get_execution",
        "list_results",
        "replace_target",
        "change_target",
    } <= {*names}


def test_operations_keep_their_permissions(document: Any) -> None:
    named = {
        name: operation["x-permission"]
        for name, operation in operations(document)
        if "x-permission" in operation
    }
    assert named == {
        f"{method} {path}": found.name
        for (method, path), found in permissions(application()).items()
    }


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (200, {"status": "ok"}, None),
        (200, {"status": "fine"}, "not as described"),
        (200, {"status": "ok", "more": 1}, "not as described"),
        (200, {}, "not as described"),
        (201, {"status": "ok"}, "not described"),
        (404, {"detail": "Not Found"}, "application/json is not described"),
    ],
)
async def test_an_answer_that_differs_from_its_schema_fails_a_test(
    status: int, body: Any, why: str | None
) -> None:
    answer = httpx2.Response(
        status, json=body, request=httpx2.Request("GET", "http://opsjobs/api/v1/livez")
    )
    description = Description(application())
    if why is None:
        await description.check(answer)
    else:
        with pytest.raises(AssertionError, match=why):
            await description.check(answer)


def test_a_body_that_may_be_left_out_is_described_without_null(document: Any) -> None:
    bodies = {
        name: operation["requestBody"]
        for name, operation in operations(document)
        if "requestBody" in operation
    }
    optional = {name for name, body in bodies.items() if not body.get("required")}
    assert {"POST /jobs/{id}/execute", "POST /executions/{id}/cancel"} <= optional
    for name, body in bodies.items():
        assert {"type": "null"} not in list(schemas(body)), name
