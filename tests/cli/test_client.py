"""The HTTP client: refusals in words, safe retries, streams that break and continue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.fake_api import ApiRequest, ApiResponse, problem, serve_api
from opsjobs.cli.client import Client, RequestRefused
from opsjobs.cli.endpoint import ServiceEndpoint
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.event_stream import Event
from opsjobs.model.secret import Secret


def frame(position: int, event: str = "output", data: object = None) -> bytes:
    return f"id: {position}\nevent: {event}\ndata: {json.dumps(data)}\n\n".encode()


def followed(
    reply: Callable[[ApiRequest], ApiResponse],
) -> tuple[list[Event], list[str], list[ApiRequest]]:
    told: list[str] = []
    with serve_api(reply) as api, api.client() as client:
        events = [event for portion in client.follow(7, told.append) for event in portion]
    return events, told, api.requests


def test_a_broken_stream_resumes_without_gap_or_repeat() -> None:
    frames = [frame(n) for n in range(1, 10)]
    answers = iter(
        [
            ApiResponse(portions=[*frames[:3], frames[3][:9]], cut=True),
            ApiResponse(503, {"status": 503}),
            ApiResponse(portions=frames[2:6], cut=True),  # repeats 3, as a service would not
            ApiResponse(portions=[*frames[6:], frame(9, "end", {"status": "completed"})]),
        ]
    )
    events, told, asked = followed(lambda _: next(answers))
    assert [int(e.id) for e in events] == [*range(1, 10), 9]
    assert events[-1].event == "end"
    assert [a.headers["last-event-id"] for a in asked] == ["0", "3", "3", "6"]
    assert told == [told[0], "reconnected", told[0], "reconnected"]
    assert "The execution continues" in told[0]


def test_a_stream_that_ends_early_is_reconnected_silently() -> None:
    answers = iter([ApiResponse(portions=[frame(1)]), ApiResponse(portions=[frame(1, "end")])])
    events, told, _ = followed(lambda _: next(answers))
    assert [e.event for e in events] == ["output", "end"]
    assert told == []


def test_a_stream_with_an_expired_token_is_resumed_and_a_rate_limit_is_reported() -> None:
    over = frame(
        1, "refused", {"status": 401, "code": "token_invalid", "detail": "The token has expired."}
    )
    busy = problem(429, "too_many_streams", "ada has 100 streams open. Close one first.")
    answers = iter(
        [
            ApiResponse(portions=[over]),
            busy,
            ApiResponse(portions=[frame(1), over]),
            ApiResponse(portions=[frame(2, "end")]),
        ]
    )
    events, told, asked = followed(lambda _: next(answers))
    assert [e.event for e in events] == ["output", "end"]
    assert [a.headers["last-event-id"] for a in asked] == ["0", "0", "0", "1"]
    assert told[0].startswith("ada has 100 streams open")
    assert told[1:] == ["reconnected"]


def test_a_stream_that_cannot_resume_is_an_error() -> None:
    with pytest.raises(RequestRefused) as caught:
        followed(
            lambda _: problem(
                410, "log_expired", "The log of execution 7 was dropped by retention."
            )
        )
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def test_a_post_without_response_is_repeated_with_the_same_idempotency_key() -> None:
    answers = iter([ApiResponse(201, cut=True, portions=[b"{"]), ApiResponse(201, {"id": 1})])
    with serve_api(lambda _: next(answers)) as api, api.client() as client:
        assert client.post("/run", {"actions": []}) == {"id": 1}
    keys = [asked.headers["idempotency-key"] for asked in api.requests]
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert api.requests[0].headers["authorization"] == "Bearer opsc_ada"


def test_a_refusal_keeps_its_code_pointers_and_errors() -> None:
    errors = [
        {
            "pointer": "/targets/ids/1",
            "detail": "There is no target 'web-9'.",
            "code": "unknown_target",
        }
    ]
    reply = problem(422, "unknown_target", "There is no target 'web-9'.", errors)
    with (
        serve_api(lambda _: reply) as api,
        api.client() as client,
        pytest.raises(RequestRefused) as caught,
    ):
        client.post("/run", {})
    assert (caught.value.exit_code, caught.value.code, caught.value.pointers) == (
        ExitCode.NOT_FOUND,
        "unknown_target",
        ("/targets/ids/1",),
    )
    assert str(caught.value) == "There is no target 'web-9': `opsjobs targets list` shows them."


def test_a_refused_token_says_what_to_do() -> None:
    reply = problem(401, "invalid_token", "This token is not known.")
    with (
        serve_api(lambda _: reply) as api,
        api.client() as client,
        pytest.raises(RequestRefused, match="OPSJOBS_TOKEN") as caught,
    ):
        client.get("/jobs")
    assert caught.value.exit_code is ExitCode.NOT_ALLOWED


def test_a_server_that_is_not_opsjobs_is_reported() -> None:
    reply = ApiResponse(502, portions=[b"<html>Bad gateway</html>"], media_type="text/html")
    with (
        serve_api(lambda _: reply) as api,
        api.client() as client,
        pytest.raises(RequestRefused, match="HTTP status 502"),
    ):
        client.get("/jobs")


def test_an_unreachable_local_service_is_reported_with_how_to_start_it() -> None:
    with serve_api(lambda _: ApiResponse()) as api:
        url = api.url
    with (
        Client(ServiceEndpoint(url, None, local=True, data_dir=Path("/x"))) as client,
        pytest.raises(CommandFailed) as caught,
    ):
        client.get("/status")
    assert str(caught.value) == f"no answer from {url}. Start the service with `opsjobs up`."


def test_lists_are_paginated() -> None:
    def reply(asked: ApiRequest) -> ApiResponse:
        begin, limit = int(asked.query.get("cursor", ["0"])[0]), int(asked.query["limit"][0])
        items = [{"id": n} for n in range(begin, min(begin + limit, 450))]
        return ApiResponse(
            body={"items": items, "next": str(begin + limit) if begin + limit < 450 else None}
        )

    with serve_api(reply) as api, api.client() as client:
        assert (
            len(client.items("/targets", limit=0)[0]),
            client.items("/targets", limit=0)[1],
        ) == (450, False)
        found, more = client.items("/targets", limit=250)
    assert ([item["id"] for item in found], more) == (list(range(250)), True)
    assert "status" not in api.requests[0].query


def test_a_name_of_digits_is_found() -> None:
    def reply(asked: ApiRequest) -> ApiResponse:
        if asked.path == "/jobs/42":
            return problem(404, "job_not_found", "There is no job 42.")
        return ApiResponse(body={"items": [{"id": 7, "name": "42"}], "next": None})

    with serve_api(reply) as api, api.client() as client:
        assert client.by_name("job", "42")["id"] == 7


def test_an_unknown_name_exits_4_and_names_the_list_command() -> None:
    empty = ApiResponse(body={"items": [], "next": None})
    with (
        serve_api(lambda _: empty) as api,
        api.client() as client,
        pytest.raises(RequestRefused, match="`opsjobs jobs list`") as caught,
    ):
        client.by_name("job", "nightly")
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def test_the_token_is_in_no_repr() -> None:
    assert "opsc_ada" not in repr(
        ServiceEndpoint("http://x", Secret("opsc_ada"), local=False, data_dir=Path("/x"))
    )
