"""Allowed values by URL: fetched within limits, cached, and never from private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, FakeApi, serve_api
from opsjobs.clock import SystemClock
from opsjobs.integrations import caller_urls
from opsjobs.integrations.caller_urls import (
    BYTES_MAX,
    CHOICES_CONNECTIONS_MAX,
    Choices,
)
from opsjobs.model.errors import Invalid
from opsjobs.model.parameter import ParameterDraft, Scalar

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine gets time to answer; no test here is about the limit."""
    monkeypatch.setattr(caller_urls, "SECONDS_MAX", 60.0)


def asking(url: str) -> list[ParameterDraft]:
    return [ParameterDraft(name="version", type="choice", choices_url=url)]


async def refusal(url: str, choices: Choices) -> str:
    with pytest.raises(Invalid) as refused:
        await choices.fetch_all(asking(url))
    assert [(e.pointer, e.code) for e in refused.value.errors] == [
        ("/parameters/version", "no_choices")
    ]
    return refused.value.detail


def answering(body: Any = None, **fields: Any) -> Callable[[object], ApiResponse]:
    return lambda _: ApiResponse(body=body, **fields)


async def test_a_list_of_allowed_values_is_fetched_and_cached() -> None:
    with serve_api(answering(["1.0", 2, {"value": "3", "label": "three"}])) as api:
        choices = Choices(SystemClock(), allow=LOOPBACK)
        for _ in range(2):
            assert await choices.fetch_all(asking(f"{api.url}/versions?x=1")) == {
                "version": ["1.0", 2, "3"]
            }
        assert [(one.method, one.path, one.query) for one in api.requests] == [
            ("GET", "/versions", {"x": ["1"]})
        ]
        assert api.requests[0].headers["host"] == api.url.removeprefix("http://")


async def test_the_urls_of_a_job_are_fetched_side_by_side_and_each_once() -> None:
    together = threading.Barrier(CHOICES_CONNECTIONS_MAX)

    def reply(asked: ApiRequest) -> ApiResponse:
        together.wait(60)
        return ApiResponse(body=[asked.path])

    with serve_api(reply) as desk:
        parameters = [
            ParameterDraft(name=f"p{n}", type="choice", choices_url=f"{desk.url}/{n}")
            for n in range(CHOICES_CONNECTIONS_MAX)
        ]
        parameters.append(parameters[0].model_copy(update={"name": "again"}))
        found = await Choices(SystemClock(), allow=LOOPBACK).fetch_all(parameters)
    assert found == {
        **{f"p{n}": [f"/{n}"] for n in range(CHOICES_CONNECTIONS_MAX)},
        "again": ["/0"],
    }


class HeldDesk:
    """A server that answers the first request once it is released, and all others at once."""

    def __init__(self, first: ApiResponse) -> None:
        self.asked, self.release = threading.Event(), threading.Event()
        self._first: list[ApiResponse] = [first]

    def __call__(self, _: object) -> ApiResponse:
        if not self._first:
            return ApiResponse(body=["later"])
        answer = self._first.pop()
        self.asked.set()
        assert self.release.wait(60)
        return answer

    async def asked_by(
        self, callers: int, choices: Choices, url: str
    ) -> list[asyncio.Task[dict[str, Sequence[Scalar]]]]:
        """Callers at once, of whose requests the first one has arrived."""
        tasks = [asyncio.create_task(choices.fetch_all(asking(url))) for _ in range(callers)]
        assert await asyncio.to_thread(self.asked.wait, 60)
        return tasks


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_urls, "SECONDS_MAX", 60.0)


@pytest.mark.usefixtures("_patient")
async def test_many_callers_at_once_share_one_request() -> None:
    desk = HeldDesk(ApiResponse(body=["1.0"]))
    with serve_api(desk) as api:
        callers = await desk.asked_by(200, Choices(SystemClock(), allow=LOOPBACK), api.url)
        desk.release.set()
        assert await asyncio.gather(*callers) == [{"version": ["1.0"]}] * 200
        assert len(api.requests) == 1


@pytest.mark.usefixtures("_patient")
async def test_a_failure_is_shared_by_those_who_wait_and_is_not_cached() -> None:
    desk = HeldDesk(ApiResponse(body=["1.0"], status=500))
    choices = Choices(SystemClock(), allow=LOOPBACK)
    with serve_api(desk) as api:
        callers = await desk.asked_by(3, choices, api.url)
        desk.release.set()
        failed = await asyncio.gather(*callers, return_exceptions=True)
        assert [isinstance(one, Invalid) and "answers 500" in one.detail for one in failed] == [
            True
        ] * 3
        assert len(api.requests) == 1
        assert await choices.fetch_all(asking(api.url)) == {"version": ["later"]}


@pytest.mark.usefixtures("_patient")
async def test_a_caller_that_is_cancelled_does_not_end_the_request_of_others() -> None:
    desk = HeldDesk(ApiResponse(body=["1.0"]))
    with serve_api(desk) as api:
        callers = await desk.asked_by(2, Choices(SystemClock(), allow=LOOPBACK), api.url)
        callers[0].cancel()
        await asyncio.wait(callers[:1])
        desk.release.set()
        assert await callers[1] == {"version": ["1.0"]}
        assert callers[0].cancelled()
        assert len(api.requests) == 1


async def test_if_several_urls_fail_the_first_parameter_is_named() -> None:
    with serve_api(answering(["x"], status=404)) as api:
        parameters = [
            ParameterDraft(name=name, type="choice", choices_url=f"{api.url}/{name}")
            for name in ("version", "zone")
        ]
        with pytest.raises(Invalid) as refused:
            await Choices(SystemClock(), allow=LOOPBACK).fetch_all(parameters)
    assert [error.pointer for error in refused.value.errors] == ["/parameters/version"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"body": {"a": 1}}, "list of 1 to"), ({"body": []}, "list of 1 to"), ({"body": [[1]]}, "list of 1 to"),
        ({"body": ["x"], "status": 404}, "answers 404"), ({"body": ["x"], "status": 302}, "answers 302"),
        ({"body": ["x" * BYTES_MAX]}, "more than"), ({"portions": [b"not json"]}, "JSON"),
        ({"portions": [b"[" * 50_000]}, "JSON"), ({"portions": [b"[NaN]"]}, "JSON"),
        ({"portions": [b"[1e999]"]}, "JSON"), ({"portions": [b'["\\ud800"]']}, "JSON"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_no_list_of_values_is_refused(
    answer: dict[str, Any], words: str
) -> None:
    def reply(_: object) -> ApiResponse:
        return ApiResponse(**answer)

    with serve_api(reply) as api:
        assert words in await refusal(api.url, Choices(SystemClock(), allow=LOOPBACK))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://2130706433:{port}/",
        "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://[64:ff9b::7f00:1]/", "http://0.0.0.0:{port}/",
    ],
)  # fmt: skip
async def test_a_private_address_is_not_requested(url: str) -> None:
    with serve_api(answering(["x"])) as api:
        there = url.replace("{port}", port(api))
        assert "no public address" in await refusal(there, Choices(SystemClock()))
        assert api.requests == []


def port(api: FakeApi) -> str:
    return api.url.rsplit(":", 1)[1]
