"""Point 4, long-lived responses: after the loss of a token or a right they end with a notice.

Their number per caller is limited.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from api.kit import api_client, problem
from api.live import LiveApi, live_api
from opsjobs.api import long_lived
from opsjobs.api.connections import DROP
from opsjobs.api.follower import Pace
from opsjobs.api.rate_limits import Streams
from opsjobs.clock import TurnedClock
from opsjobs.model.errors import Unavailable
from opsjobs.store.transaction import Database

DEADLINE_SECONDS = 60
CHECK_SECONDS = 0.2
PASSWORD = "correct horse battery"
EVENTS = "/executions/1/events"


@dataclass
class Viewer:
    """A viewer of an open stream, and the lines so far."""

    lines: AsyncIterator[str]
    told: list[str]

    async def until(self, wanted: str) -> None:
        """Read until a line contains this."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for line in self.lines:
                self.told.append(line)
                if wanted in line:
                    return
        raise AssertionError(f"the stream ended without {wanted}: {self.told[-5:]}")

    async def rest(self) -> list[str]:
        """Return the lines until the stream ends, without keep-alives."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return [line async for line in self.lines if line and not line.startswith(":")]


@asynccontextmanager
async def viewer(api: LiveApi, headers: dict[str, str]) -> AsyncIterator[Viewer]:
    async with api.http.stream("GET", EVENTS, headers=headers) as answer:
        assert answer.status_code == 200
        yield Viewer(aiter(answer.aiter_lines()), [])


@asynccontextmanager
async def open_stream_api(
    database: Database,
) -> AsyncIterator[tuple[LiveApi, TurnedClock, list[str]]]:
    """Start an execution and yield streams that a stopped clock checks.

    The list has each check of a token.
    """
    clock, checked = TurnedClock(), list[str]()
    async with live_api(database, clock=clock) as api:
        api.services.limits = replace(api.services.limits, stream_reauth_seconds=CHECK_SECONDS)
        api.followers.pace = Pace(merge_seconds=0.005, poll_seconds=0.02)
        authenticator = api.services.authentication.authenticator
        principal = authenticator.principal

        async def counted(token: str) -> Any:
            checked.append(token)
            return await principal(token)

        authenticator.principal = counted
        await api.scripted.start()
        yield api, clock, checked


async def login(api: LiveApi, grants: list[dict[str, Any]]) -> dict[str, str]:
    """Create the user ben and log in; return the headers."""
    body = {"name": "ben", "password": PASSWORD, "grants": grants}
    assert (await api.http.post("/users", json=body)).status_code == 201
    given = await api.http.post("/auth/login", json={"username": "ben", "password": PASSWORD})
    return {"Authorization": f"Bearer {given.json()['access_token']}"}


async def _deleted(api: LiveApi, _clock: TurnedClock) -> None:
    assert (await api.http.delete("/users/1")).status_code == 204


async def _disabled(api: LiveApi, _clock: TurnedClock) -> None:
    assert (await api.http.post("/users/1/disable")).status_code == 200


async def _narrowed(api: LiveApi, _clock: TurnedClock) -> None:
    body = {"name": "ben", "grants": [{"role": "viewer", "scope": "env=nowhere"}]}
    assert (await api.http.put("/users/1", json=body)).status_code == 200


async def _demoted(api: LiveApi, _clock: TurnedClock) -> None:
    body = {"name": "ben", "grants": [{"permissions": ["jobs:read"]}]}
    assert (await api.http.put("/users/1", json=body)).status_code == 200


async def _too_old(_desk: LiveApi, clock: TurnedClock) -> None:
    clock.turn(20 * 60)


LOSSES = [
    (_deleted, 401, "token_invalid"),
    (_disabled, 401, "token_invalid"),
    (_too_old, 401, "token_invalid"),
    (_narrowed, 404, "execution_not_found"),
    (_demoted, 403, "forbidden"),
]


@pytest.mark.parametrize(("lose", "status", "code"), LOSSES)
async def test_who_may_no_more_is_told_so_and_sees_no_further_line(
    database: Database,
    lose: Callable[[LiveApi, TurnedClock], Awaitable[None]],
    status: int,
    code: str,
) -> None:
    async with open_stream_api(database) as (api, clock, checked):
        ben = await login(api, [{"role": "viewer"}])
        async with viewer(api, ben) as seen, viewer(api, {}) as other:
            await api.scripted.write("web-1", b"before\n")
            await seen.until("before")
            await lose(api, clock)
            clock.turn(CHECK_SECONDS)
            await api.scripted.write("web-1", b"secret\n")
            rest = await seen.rest()
            assert "secret" not in "".join(rest)
            last_id, event, data = rest[-3:]
            assert event == "event: refused"
            told = json.loads(data.removeprefix("data: "))
            assert (told["status"], told["code"]) == (status, code)
            assert told["detail"]
            # A caller who keeps the right continues to see it.
            await other.until("secret")
        position = {"Last-Event-ID": last_id.removeprefix("id: ")}
        answer = await api.http.get(EVENTS, headers={**ben, **position})
        problem(answer, status, code)
        assert len(checked) < 30


async def test_a_stream_that_a_cookie_opened_ends_with_its_session(database: Database) -> None:
    async with open_stream_api(database) as (api, clock, _):
        made = (await api.http.post("/auth/codes")).json()
        begun = await api.http.post("/auth/session", json={"code": made["code"]})
        api.http.cookies.clear()
        cookie = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
        cookie |= {"Sec-Fetch-Site": "same-origin"}
        del api.http.headers["Authorization"]
        async with viewer(api, cookie) as seen:
            await api.scripted.write("web-1", b"before\n")
            await seen.until("before")
            assert (await api.http.delete("/auth/session", headers=cookie)).status_code == 204
            clock.turn(CHECK_SECONDS)
            await api.scripted.write("web-1", b"secret\n")
            rest = await seen.rest()
            assert "secret" not in "".join(rest)
            assert json.loads(rest[-1].removeprefix("data: "))["code"] == "session_ended"


async def test_a_stream_is_asked_about_once_in_its_time_and_goes_on_without_a_gap(
    database: Database,
) -> None:
    async with open_stream_api(database) as (api, clock, checked):
        key = {
            "Authorization": f"Bearer {await api.services.identities.create_key('ben', 'viewer')}"
        }
        async with viewer(api, key) as seen:
            await seen.until("id: 1")
            before = len(checked)
            for n in range(20):
                await api.scripted.write("web-1", b"line %d\n" % n)
                await seen.until(f"line {n}")
            assert len(checked) == before, "what is not due is not asked"
            for n in range(3):
                clock.turn(CHECK_SECONDS)
                await api.scripted.write("web-1", b"later %d\n" % n)
                await seen.until(f"later {n}")
            assert len(checked) == before + 3
            await api.scripted.finish("web-1")
            await seen.until("event: end")
        ids = [int(line[4:]) for line in seen.told if line.startswith("id: ")]
        assert ids == list(range(1, len(ids) + 1))


async def test_while_nobody_can_say_nothing_goes_out_and_then_it_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lived, "PATIENCE_SECONDS", 0.2)
    async with open_stream_api(database) as (api, clock, _):
        key = {
            "Authorization": f"Bearer {await api.services.identities.create_key('ben', 'viewer')}"
        }
        async with viewer(api, key) as seen:
            await seen.until("id: 1")

            async def away(_token: str) -> Any:
                raise Unavailable("away")

            api.services.authentication.authenticator.principal = away
            clock.turn(CHECK_SECONDS)
            await api.scripted.write("web-1", b"secret\n")
            assert "secret" not in "".join(await seen.rest())


async def test_streams_and_downloads_of_one_caller_are_few_and_others_have_their_own(
    database: Database,
) -> None:
    async with open_stream_api(database) as (api, _clock, _):
        api.app.state.streams = Streams(2)
        ben = await api.as_role("viewer")
        async with viewer(api, ben), viewer(api, ben):
            for path in (EVENTS, "/executions/1/log?format=ndjson"):
                async with asyncio.timeout(
                    DEADLINE_SECONDS
                ):  # one that is not refused would not end
                    refused = await api.http.get(path, headers=ben)
                told = problem(refused, 429, "too_many_streams")
                assert "ben-viewer" in told["detail"]
                assert "OPSJOBS_STREAMS_PER_CALLER" in told["detail"]
                assert int(refused.headers["Retry-After"]) > 0
            assert (await api.http.get("/executions/1/log", headers=ben)).status_code == 200
            async with viewer(api, {}) as other:
                await other.until("id: 1")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (
                await api.http.get("/executions/1/log?format=ndjson", headers=ben)
            ).status_code == 429:
                await asyncio.sleep(0.02)  # until the server has noticed that both have left


class Connection:
    """The client's end of one request, played by the test.

    `on_piece` is awaited at each piece of the body.
    """

    def __init__(self, app: Any, on_piece: Callable[[], Awaitable[None]]) -> None:
        self._app = app
        self._on_piece = on_piece
        self.bytes = 0
        self.whole = False
        self.dropped = False

    async def get(self, path: str, token: str) -> None:
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "http_version": "1.1", "scheme": "http", "server": ("opsjobs", 80), "client": ("127.0.0.1", 1),
            "headers": [(b"authorization", f"Bearer {token}".encode())], "extensions": {DROP: self._drop},
        }  # fmt: skip
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self._app(scope, self._receive, self._send)

    def _drop(self) -> None:
        self.dropped = True

    async def _receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            self.whole = not message.get("more_body", False)
            if message["body"]:
                self.bytes += len(message["body"])
                await self._on_piece()


async def test_a_download_ends_where_the_right_to_it_or_its_time_does_and_is_never_taken_for_whole(
    database: Database,
) -> None:
    clock = TurnedClock()
    async with api_client(
        database, clock=clock, stream_reauth_seconds=15.0, download_seconds=60.0
    ) as ada:
        app = ada.http._transport.app  # type: ignore[attr-defined]
        size = 3 * (256 << 10)
        stored = (await ada.http.post("/files?name=large", content=b"x" * size)).json()
        path = f"/files/{stored['id']}/content"
        token = await ada.services.identities.create_key("ben", "viewer")

        async def nothing() -> None:
            return

        whole = Connection(app, nothing)
        await whole.get(path, token)
        assert (whole.bytes, whole.whole, whole.dropped) == (size, True, False)

        async def revoke() -> None:
            clock.turn(15)
            for key in (await ada.http.get("/api-keys", params={"name": "ben"})).json()["items"]:
                assert (await ada.http.delete(f"/api-keys/{key['id']}")).status_code == 204

        cut = Connection(app, revoke)
        await cut.get(path, token)
        assert 0 < cut.bytes < size
        assert (cut.whole, cut.dropped) == (False, True)

        ada.services.limits = replace(ada.services.limits, download_seconds=0.05)

        async def for_ever() -> None:
            await asyncio.Event().wait()

        slow = Connection(app, for_ever)
        await slow.get(path, ada.token)
        assert (slow.whole, slow.dropped) == (False, True)
