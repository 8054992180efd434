"""The HTTP client: refusals in words, retries that do no harm, streams that break and go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.desk import Answer, Asked, open_desk, problem
from opsjobs.cli.client import Client, RequestRefused
from opsjobs.cli.endpoint import ServiceEndpoint
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.event_stream import Event
from opsjobs.model.secret import Secret


def frame(position: int, event: str = "output", data: object = None) -> bytes:
    return f"id: {position}\nevent: {event}\ndata: {json.dumps(data)}\n\n".encode()


def followed(reply: Callable[[Asked], Answer]) -> tuple[list[Event], list[str], list[Asked]]:
    told: list[str] = []
    with open_desk(reply) as desk, desk.client() as client:
        events = [event for portion in client.follow(7, told.append) for event in portion]
    return events, told, desk.asked


def test_a_stream_that_breaks_goes_on_where_it_broke_and_each_event_comes_once() -> None:
    frames = [frame(n) for n in range(1, 10)]
    answers = iter(
        [
            Answer(portions=[*frames[:3], frames[3][:9]], cut=True),
            Answer(503, {"status": 503}),
            Answer(portions=frames[2:6], cut=True),  # repeats 3, as a service would not
            Answer(portions=[*frames[6:], frame(9, "end", {"status": "completed"})]),
        ]
    )
    events, told, asked = followed(lambda _: next(answers))
    assert [int(e.id) for e in events] == [*range(1, 10), 9]
    assert events[-1].event == "end"
    assert [a.headers["last-event-id"] for a in asked] == ["0", "3", "3", "6"]
    assert told == [told[0], "reconnected", told[0], "reconnected"]
    assert "The execution continues" in told[0]


def test_a_stream_that_just_ends_is_asked_for_again_in_silence() -> None:
    answers = iter([Answer(portions=[frame(1)]), Answer(portions=[frame(1, "end")])])
    events, told, _ = followed(lambda _: next(answers))
    assert [e.event for e in events] == ["output", "end"]
    assert told == []


def test_a_stream_whose_token_is_over_is_asked_for_with_the_next_one_and_too_many_say_why() -> None:
    over = frame(
        1, "refused", {"status": 401, "code": "token_invalid", "detail": "The token has expired."}
    )
    busy = problem(429, "too_many_streams", "ada has 100 streams open. Close one first.")
    answers = iter(
        [
            Answer(portions=[over]),
            busy,
            Answer(portions=[frame(1), over]),
            Answer(portions=[frame(2, "end")]),
        ]
    )
    events, told, asked = followed(lambda _: next(answers))
    assert [e.event for e in events] == ["output", "end"]
    assert [a.headers["last-event-id"] for a in asked] == ["0", "0", "0", "1"]
    assert told[0].startswith("ada has 100 streams open")
    assert told[1:] == ["reconnected"]


def test_a_stream_that_is_gone_for_good_is_an_error() -> None:
    with pytest.raises(RequestRefused) as caught:
        followed(
            lambda _: problem(
                410, "log_expired", "The log of execution 7 was dropped by retention."
            )
        )
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def test_a_post_whose_answer_is_lost_is_sent_again_under_the_same_key() -> None:
    answers = iter([Answer(201, cut=True, portions=[b"{"]), Answer(201, {"id": 1})])
    with open_desk(lambda _: next(answers)) as desk, desk.client() as client:
        assert client.post("/run", {"actions": []}) == {"id": 1}
    keys = [asked.headers["idempotency-key"] for asked in desk.asked]
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert desk.asked[0].headers["authorization"] == "Bearer opsc_ada"


def test_a_refusal_keeps_its_code_its_pointers_and_what_was_wrong_where() -> None:
    errors = [
        {
            "pointer": "/targets/ids/1",
            "detail": "There is no target 'web-9'.",
            "code": "unknown_target",
        }
    ]
    reply = problem(422, "unknown_target", "There is no target 'web-9'.", errors)
    with (
        open_desk(lambda _: reply) as desk,
        desk.client() as client,
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
        open_desk(lambda _: reply) as desk,
        desk.client() as client,
        pytest.raises(RequestRefused, match="OPSJOBS_TOKEN") as caught,
    ):
        client.get("/jobs")
    assert caught.value.exit_code is ExitCode.NOT_ALLOWED


def test_something_that_is_no_opsjobs_is_told_as_such() -> None:
    reply = Answer(502, portions=[b"<html>Bad gateway</html>"], media_type="text/html")
    with (
        open_desk(lambda _: reply) as desk,
        desk.client() as client,
        pytest.raises(RequestRefused, match="HTTP status 502"),
    ):
        client.get("/jobs")


def test_a_service_that_does_not_run_is_told_how_to_start() -> None:
    with open_desk(lambda _: Answer()) as desk:
        url = desk.url
    with (
        Client(ServiceEndpoint(url, None, local=True, data_dir=Path("/x"))) as client,
        pytest.raises(CommandFailed) as caught,
    ):
        client.get("/status")
    assert str(caught.value) == f"no answer from {url}. Start the service with `opsjobs up`."


def test_lists_are_read_over_their_pages() -> None:
    def reply(asked: Asked) -> Answer:
        begin, limit = int(asked.query.get("cursor", ["0"])[0]), int(asked.query["limit"][0])
        items = [{"id": n} for n in range(begin, min(begin + limit, 450))]
        return Answer(
            body={"items": items, "next": str(begin + limit) if begin + limit < 450 else None}
        )

    with open_desk(reply) as desk, desk.client() as client:
        assert (
            len(client.items("/targets", limit=0)[0]),
            client.items("/targets", limit=0)[1],
        ) == (450, False)
        found, more = client.items("/targets", limit=250)
    assert ([item["id"] for item in found], more) == (list(range(250)), True)
    assert "status" not in desk.asked[0].query


def test_a_name_of_digits_is_found_too() -> None:
    def reply(asked: Asked) -> Answer:
        if asked.path == "/jobs/42":
            return problem(404, "job_not_found", "There is no job 42.")
        return Answer(body={"items": [{"id": 7, "name": "42"}], "next": None})

    with open_desk(reply) as desk, desk.client() as client:
        assert client.by_name("job", "42")["id"] == 7


def test_an_unknown_name_is_not_found_and_says_where_to_look() -> None:
    empty = Answer(body={"items": [], "next": None})
    with (
        open_desk(lambda _: empty) as desk,
        desk.client() as client,
        pytest.raises(RequestRefused, match="`opsjobs jobs list`") as caught,
    ):
        client.by_name("job", "nightly")
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def test_the_token_is_in_no_repr() -> None:
    assert "opsc_ada" not in repr(
        ServiceEndpoint("http://x", Secret("opsc_ada"), local=False, data_dir=Path("/x"))
    )
