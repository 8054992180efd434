"""`opsjobs dead-letters` and `executions retry`: their requests and their output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, FakeApi, problem, serve_api
from opsjobs.cli.app import run

LETTER = {
    "id": 41,
    "execution_id": 7,
    "job_id": 1,
    "job_name": "nightly",
    "target": {"id": "1", "name": "web-1", "host": "10.0.0.1"},
    "status": "lost",
    "error": {"code": "lost", "message": "contact was lost"},
    "attempts": 1,
    "at": "2026-11-25T09:00:00.000Z",
    "late_result": None,
}


def execution(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "job_name": "nightly",
        "total_targets": 2,
        "parent": 7,
        "status": "queued",
    }


@contextmanager
def answering(
    monkeypatch: pytest.MonkeyPatch, reply: Callable[[ApiRequest], ApiResponse]
) -> Iterator[FakeApi]:
    with serve_api(reply) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada_of_the_tests")
        yield api


def test_dead_letters_are_listed_by_filters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(
        monkeypatch, lambda _: ApiResponse(body={"items": [LETTER], "next": None})
    ) as api:
        assert (
            run(
                [
                    "dead-letters",
                    "list",
                    "--job",
                    "nightly",
                    "--error",
                    "lost",
                    "--execution",
                    "7",
                    "--since",
                    "2h",
                ]
            )
            == 0
        )
    query = api.requests[0].query
    assert (query["job"], query["error"], query["execution"], query["limit"]) == (
        ["nightly"],
        ["lost"],
        ["7"],
        ["50"],
    )
    ago = datetime.now(UTC) - datetime.fromisoformat(query["since"][0])
    assert timedelta(hours=2) <= ago < timedelta(hours=3)
    assert "nightly" in (out := capsys.readouterr().out)
    assert "web-1" in out


def test_since_accepts_an_absolute_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(monkeypatch, lambda _: ApiResponse(body={"items": [], "next": None})) as api:
        assert run(["dead-letters", "list", "--since", "2026-11-25T09:00:00Z"]) == 0
    assert api.requests[0].query["since"] == ["2026-11-25T09:00:00Z"]


def test_revive_repeats_until_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [
        {"executions": [execution(8)], "more": True},
        {"executions": [execution(9)], "more": False},
    ]
    with answering(monkeypatch, lambda _: ApiResponse(202, answers.pop(0))) as api:
        assert run(["dead-letters", "revive", "--target", "web-1", "--reason", "it is back"]) == 0
    assert [asked.body for asked in api.requests] == [
        {"filter": {"target": "web-1"}, "reason": "it is back"}
    ] * 2
    assert len({asked.headers["idempotency-key"] for asked in api.requests}) == 2
    told = capsys.readouterr()
    assert told.out == "8\n9\n"
    assert "execution 8 of nightly retries 2 targets of execution 7" in told.err


def test_dead_letters_are_discarded_by_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(monkeypatch, lambda _: ApiResponse(body={"discarded": [41, 42]})) as api:
        assert run(["dead-letters", "discard", "41", "42", "--reason", "scrapped"]) == 0
    assert api.requests[0].body == {"ids": [41, 42], "reason": "scrapped"}
    assert "discarded 2 dead letters" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead-letters", "revive"],
        ["dead-letters", "revive", "41", "--all"],
        ["dead-letters", "revive", "41", "--job", "nightly"],
        ["dead-letters", "revive", "nightly"],
        ["dead-letters", "discard", "41"],
        ["executions", "retry", "7", "--which", "failed", "-t", "web-1"],
        ["executions", "retry", "7", "--which", "all"],
    ],
)
def test_an_ambiguous_selection_of_dead_letters_is_a_usage_error(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(monkeypatch, lambda _: ApiResponse(500)) as api:
        assert run(arguments) == 2
    assert api.requests == []


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ([], {"which": "unsuccessful"}),
        (["--which", "not_started"], {"which": "not_started"}),
        (
            ["-t", "web-1,web-2", "-t", "db-1", "--reason", "again"],
            {"targets": ["web-1", "web-2", "db-1"], "reason": "again"},
        ),
    ],
)
def test_retry_options_become_the_request(
    arguments: Sequence[str],
    body: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering(monkeypatch, lambda _: ApiResponse(202, execution(8))) as api:
        assert run(["executions", "retry", "7", "--detach", *arguments]) == 0
    assert (api.requests[0].path, api.requests[0].body) == ("/executions/7/retry", body)
    assert capsys.readouterr().out == "8\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(409, "execution_not_ended", "Execution 7 has not ended."), 6),
        (problem(422, "nothing_to_retry", "No run ended failed."), 2),
        (problem(422, "unknown_target", "Execution 7 has no target 'web-9'."), 4),
    ],
)
def test_a_refused_retry_is_reported(
    answer: ApiResponse,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering(monkeypatch, lambda _: answer):
        assert run(["executions", "retry", "7", "-t", "web-9"]) == code
    assert answer.body["detail"] in capsys.readouterr().err
