"""Point 25, callers without a valid token: a rate per address.

Other callers are not affected, and probes are answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from ipaddress import ip_network

import httpx2
import pytest

from api.kit import ApiClient, api_client, problem
from opsjobs.api.body import UNAUTHENTICATED_BYTES_MAX
from opsjobs.api.rate_limits import (
    AT_ONCE_MAX,
    BURST_SECONDS,
    HOOK_BODIES_BYTES_MAX,
    VERIFIED_AT_ONCE_MAX,
    OpenRequest,
    UnauthenticatedLimiter,
)
from opsjobs.clock import TurnedClock
from opsjobs.model.errors import TooMany, Unauthorised, Unavailable
from opsjobs.store.system_status import HEAD
from opsjobs.store.transaction import Database

A_SECOND = 5
AT_ONCE = A_SECOND * BURST_SECONDS
JSON = {"Content-Type": "application/json"}
NOBODY = {"Authorization": ""}
ELSEWHERE = "203.0.113.9"
V6 = "2001:db8:0:1::5"


def at(ada: ApiClient, address: str) -> httpx2.AsyncClient:
    """Return a client without a token, at another address."""
    app = ada.http._transport.app  # type: ignore[attr-defined]
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app, client=(address, 4711)), base_url="http://opsjobs"
    )


async def test_an_address_without_a_good_token_is_told_when_to_come_back(
    database: Database,
) -> None:
    clock = TurnedClock()
    async with (
        api_client(database, clock=clock, unauthenticated_a_second=A_SECOND) as ada,
        at(ada, ELSEWHERE) as mallory,
    ):
        ways = (
            lambda: mallory.get("/jobs"),
            lambda: mallory.get("/jobs", headers={"Authorization": "Bearer opsc_guess"}),
            lambda: mallory.get("/openapi.json"),
        )
        for n in range(AT_ONCE):
            assert (await ways[n % len(ways)]()).status_code in (200, 401), n
        for way in ways:
            refused = await way()
            told = problem(refused, 429, "too_many_requests")
            assert ELSEWHERE in told["detail"]
            assert refused.headers["Retry-After"] == "1"
        # A refused request is not read, and costs the address nothing.
        problem(
            await mallory.post("/auth/login", content=_never(), headers=JSON),
            429,
            "too_many_requests",
        )
        problem(
            await mallory.post("/files", content=_never(), headers=NOBODY), 429, "too_many_requests"
        )
        clock.turn(1 / A_SECOND)
        problem(await mallory.get("/jobs"), 401, "token_missing")
        problem(await mallory.get("/jobs"), 429, "too_many_requests")


async def test_a_login_goes_on_whatever_else_comes_from_its_address_but_that_door_has_its_count_too(
    database: Database,
) -> None:
    async with (
        api_client(database, clock=TurnedClock(), unauthenticated_a_second=A_SECOND) as ada,
        at(ada, ELSEWHERE) as mallory,
    ):
        assert [(await mallory.get("/jobs")).status_code for _ in range(AT_ONCE + 1)] == [
            401
        ] * AT_ONCE + [429]
        guess = {"refresh_token": "guess"}
        told = [
            (await mallory.post("/auth/refresh", json=guess)).status_code
            for _ in range(AT_ONCE + 1)
        ]
        assert told == [401] * AT_ONCE + [429]


async def test_a_good_token_that_comes_many_times_at_once_is_not_counted(
    database: Database,
) -> None:
    async with api_client(database, clock=TurnedClock(), unauthenticated_a_second=A_SECOND) as ada:
        new = await ada.token_of("operator")
        first = await asyncio.gather(
            *(ada.http.get("/auth/me", headers=new) for _ in range(AT_ONCE))
        )
        assert [answer.status_code for answer in first] == [200] * AT_ONCE
        answers = [
            (await ada.http.get("/jobs", headers=NOBODY)).status_code for _ in range(AT_ONCE + 1)
        ]
        assert answers == [401] * AT_ONCE + [429]


def test_from_where_too_much_comes_a_few_tokens_are_judged_at_a_time() -> None:
    strangers = UnauthenticatedLimiter(A_SECOND, TurnedClock())
    for _ in range(AT_ONCE):
        strangers.count_missing_token(ELSEWHERE)
    with ExitStack() as judged:
        for n in range(VERIFIED_AT_ONCE_MAX):
            judged.enter_context(strangers.verifying(ELSEWHERE, f"new-{n}"))
        with pytest.raises(TooMany), strangers.verifying(ELSEWHERE, "one more"):
            raise AssertionError("nobody looks at it")
        with strangers.verifying("198.51.100.7", "one more"):
            pass
    with pytest.raises(TooMany), strangers.verifying(ELSEWHERE, "bad"):
        raise Unauthorised("token_invalid", "It is bad.")
    for _ in range(2 * VERIFIED_AT_ONCE_MAX):  # none of the earlier ones blocks it any more
        with pytest.raises(Unavailable), strangers.verifying(ELSEWHERE, "good"):
            raise Unavailable("away")
        with strangers.verifying(ELSEWHERE, "good"):
            pass


async def _never() -> AsyncIterator[bytes]:
    raise AssertionError("the body of what is refused is not read")
    yield b""


async def test_a_good_token_is_not_hindered_by_others_at_its_address_until_it_is_good_no_more(
    database: Database,
) -> None:
    async with api_client(database, clock=TurnedClock(), unauthenticated_a_second=A_SECOND) as ada:
        ben = await ada.token_of("viewer")
        late = await ada.token_of("operator")
        for _ in range(3 * AT_ONCE):
            # A valid token is not counted; what its first request took is given back.
            assert (await ada.http.get("/auth/me")).status_code == 200
            assert (await ada.http.get("/auth/me", headers=ben)).status_code == 200
        answers = [
            (await ada.http.get("/jobs", headers=NOBODY)).status_code for _ in range(AT_ONCE + 1)
        ]
        assert answers == [401] * AT_ONCE + [429]
        assert (await ada.http.get("/auth/me")).status_code == 200
        # It is not known yet whether this one is valid, so it is verified; an invalid one is over
        # the limit.
        assert (await ada.http.get("/auth/me", headers=late)).status_code == 200
        problem(
            await ada.http.get("/auth/me", headers={"Authorization": "Bearer opsc_guess"}),
            429,
            "too_many_requests",
        )
        key = next(
            k
            for k in (await ada.http.get("/api-keys")).json()["items"]
            if k["name"] == "ben-viewer"
        )
        assert (await ada.http.delete(f"/api-keys/{key['id']}")).status_code == 204
        problem(await ada.http.get("/auth/me", headers=ben), 401, "token_invalid")
        problem(await ada.http.get("/auth/me", headers=ben), 429, "too_many_requests")


async def test_probes_are_answered_always_and_ask_postgresql_once_a_second(
    database: Database,
) -> None:
    async with (
        api_client(database, clock=TurnedClock(), unauthenticated_a_second=A_SECOND) as ada,
        at(ada, ELSEWHERE) as prober,
    ):
        asked = 0

        class Fleet:
            async def schema(self) -> str:
                nonlocal asked
                asked += 1
                return HEAD

            async def restore_unfinished(self) -> bool:
                return False

        ada.services.system_status = Fleet()
        for path in ("/health", "/readyz", "/livez"):
            for _ in range(AT_ONCE):
                assert (await prober.get(path)).status_code == 200
        assert AT_ONCE < asked < 2 * AT_ONCE
        problem(await prober.get("/jobs"), 429, "too_many_requests")
        # At another address they are verified each time.
        before = asked
        async with at(ada, "198.51.100.7") as orchestrator:
            assert [(await orchestrator.get("/readyz")).status_code for _ in range(3)] == [
                200,
                200,
                200,
            ]
        assert asked == before + 3


async def test_a_network_of_ipv6_is_one_address_and_what_a_caller_says_of_himself_is_none(
    database: Database,
) -> None:
    async with api_client(database, clock=TurnedClock(), unauthenticated_a_second=A_SECOND) as ada:
        for n in range(AT_ONCE):
            async with at(ada, f"2001:db8:0:1::{n:x}") as mallory:
                assert (
                    await mallory.get("/jobs", headers={"X-Forwarded-For": f"198.51.100.{n}"})
                ).status_code == 401
        async with at(ada, V6) as mallory:
            problem(
                await mallory.get("/jobs", headers={"X-Forwarded-For": "192.0.2.1"}),
                429,
                "too_many_requests",
            )
        async with at(ada, "2001:db8:0:2::1") as neighbour:
            assert (await neighbour.get("/jobs")).status_code == 401


async def test_behind_a_proxy_of_ours_each_has_his_own_count(database: Database) -> None:
    proxy = "10.0.0.1"
    limits = {"unauthenticated_a_second": A_SECOND, "trusted_proxies": (ip_network("10.0.0.0/8"),)}
    async with api_client(database, clock=TurnedClock(), **limits) as ada, at(ada, proxy) as http:
        told = [
            (
                await http.get("/jobs", headers={"X-Forwarded-For": f"9.9.9.9, {ELSEWHERE}"})
            ).status_code
            for _ in range(AT_ONCE + 1)
        ]
        assert told == [401] * AT_ONCE + [429]
        assert (
            await http.get("/jobs", headers={"X-Forwarded-For": f"{ELSEWHERE}, 198.51.100.7"})
        ).status_code == 401


async def test_without_a_token_a_body_is_small_and_few_are_open_at_once(database: Database) -> None:
    async with (
        api_client(database, unauthenticated_a_second=1_000) as ada,
        at(ada, ELSEWHERE) as mallory,
    ):
        large = b'{"username": "ada", "password": "' + b"x" * UNAUTHENTICATED_BYTES_MAX + b'"}'
        problem(
            await mallory.post("/auth/login", content=large, headers=JSON), 413, "body_too_large"
        )
        come, go = asyncio.Semaphore(0), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            come.release()
            await go.wait()
            yield b"{}"

        slow = [
            asyncio.create_task(mallory.post("/auth/login", content=slowly(), headers=JSON))
            for _ in range(AT_ONCE_MAX)
        ]
        for _ in slow:
            await asyncio.wait_for(come.acquire(), 60)
        problem(
            await mallory.post("/auth/login", content=_never(), headers=JSON),
            429,
            "too_many_requests",
        )
        assert (await mallory.get("/livez")).status_code == 200
        assert (await ada.http.get("/auth/me")).status_code == 200
        go.set()
        for answer in await asyncio.gather(*slow):
            problem(answer, 422, "invalid")
        assert (await mallory.post("/auth/login", content=b"{}", headers=JSON)).status_code == 422


def test_the_bodies_of_calls_of_triggers_have_a_limit_together() -> None:
    limiter = UnauthenticatedLimiter(0, TurnedClock(), body_bytes=HOOK_BODIES_BYTES_MAX // 5)
    with ExitStack() as answered:
        for n in range(5):
            answered.enter_context(limiter.open_request(f"203.0.113.{n}", OpenRequest.HOOK))
        with pytest.raises(TooMany), limiter.open_request("203.0.113.9", OpenRequest.HOOK):
            raise AssertionError("its body is not read")
        with limiter.open_request("203.0.113.9", OpenRequest.OTHER):
            pass
    with limiter.open_request("203.0.113.9", OpenRequest.HOOK):
        pass
