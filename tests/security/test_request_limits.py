"""Point 25: all input has a limit: sizes, depths, pages, rates.

Beyond it there is a refusal in words, never a 500. Redis is unavailable in all of these (a Bus
without an address): no limit needs it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from api.kit import ApiClient, api_client, job, problem
from opsjobs.api.rate_limits import BURST_SECONDS, TokenBuckets
from opsjobs.clock import TurnedClock
from opsjobs.store.transaction import Database

LISTS = [
    "/jobs", "/executions", "/schedules", "/targets", "/target-groups", "/credentials", "/calendars", "/api-keys", "/users",
    "/circuits", "/files", "/audit", "/webhooks",
]  # fmt: skip
MIB, KIB = 1 << 20, 1 << 10
JSON = {"Content-Type": "application/json"}


def script(size: int) -> dict[str, Any]:
    return job(actions=[{"type": "script", "interpreter": "sh", "script": "#" * size}])


def in_base64(size: int) -> dict[str, Any]:
    # Four characters are three bytes.
    return job(
        actions=[
            {
                "type": "script",
                "interpreter": "sh",
                "script_base64": "IyMj" * (size // 3) + "IyM="[: 4 * (size % 3 > 0)],
            }
        ]
    )


def deep(levels: int) -> bytes:
    """Return an object with so many nested levels, including itself."""
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


async def test_sizes_and_depths_are_refused_at_the_first_byte_too_many(database: Database) -> None:
    async with api_client(database) as ada:
        assert (await ada.http.post("/jobs", json=script(256 * KIB))).status_code == 201
        body = problem(await ada.http.post("/jobs", json=script(256 * KIB + 1)), 422, "invalid")
        assert body["errors"][0]["pointer"] == "/actions/0/script"
        assert (await ada.http.post("/jobs", json=in_base64(256 * KIB + 3))).status_code == 422
        assert (await ada.http.post("/jobs", content=deep(32), headers=JSON)).json()[
            "code"
        ] == "invalid"
        for levels in (34, 1_000, 100_000):
            problem(
                await ada.http.post("/jobs", content=deep(levels), headers=JSON), 422, "too_deep"
            )
        problem(await ada.http.post("/jobs", content=b"[" * 500_000, headers=JSON), 422, "too_deep")
        whole = json.dumps({"name": "x", "description": ""}).encode()
        full = whole + b" " * (MIB - len(whole))
        assert (await ada.http.post("/jobs", content=full, headers=JSON)).json()[
            "code"
        ] == "invalid"
        problem(
            await ada.http.post("/jobs", content=full + b" ", headers=JSON), 413, "body_too_large"
        )
        read = await _endless(ada)
        assert read <= MIB + 64 * KIB, "no more was asked for than the limit and a piece"


async def _endless(ada: ApiClient) -> int:
    """Return how much of a body without end and without a length was read."""
    given = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 64 * KIB
            yield b" " * 64 * KIB

    problem(await ada.http.post("/jobs", content=pieces(), headers=JSON), 413, "body_too_large")
    return given


async def test_no_list_gives_more_than_200_a_page_and_no_parameter_is_endless(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        for path in LISTS:
            assert (await ada.http.get(path, params={"limit": 200})).status_code == 200, path
            for params in (
                {"limit": "201"},
                {"limit": "0"},
                {"limit": "9" * 400},
                {"cursor": "x" * 60_000},
                {"nonsense": "y"},
            ):
                answer = await ada.http.get(path, params=params)
                assert answer.status_code == 422, (path, params, answer.text[:200])
            many = [("name", str(n)) for n in range(101)]
            assert (await ada.http.get(path, params=many)).status_code == 422, path


async def test_a_caller_who_asks_too_often_is_told_when_to_come_back_and_others_are_not_hindered(
    database: Database,
) -> None:
    clock = TurnedClock()
    async with api_client(database, clock=clock, requests_a_second=2) as ada:
        ben = await ada.token_of("viewer")
        for _ in range(2 * BURST_SECONDS):
            assert (await ada.http.get("/auth/me")).status_code == 200
        refused = await ada.http.post("/jobs", content=_never(), headers=JSON)
        assert "ada" in problem(refused, 429, "too_many_requests")["detail"]
        assert refused.headers["Retry-After"] == "1"
        assert (await ada.http.get("/auth/me", headers=ben)).status_code == 200
        assert (await ada.http.get("/livez")).status_code == 200
        clock.turn(0.5)
        assert (await ada.http.get("/auth/me")).status_code == 200
        problem(await ada.http.get("/nowhere"), 429, "too_many_requests")
        clock.turn(float(refused.headers["Retry-After"]))
        assert (await ada.http.get("/auth/me")).status_code == 200


async def _never() -> AsyncIterator[bytes]:
    raise AssertionError("the body of what is refused is not read")
    yield b""


def test_buckets_are_forgotten_once_they_are_full_and_what_is_refused_costs_nothing() -> None:
    clock = TurnedClock()
    buckets: TokenBuckets[str] = TokenBuckets(10, clock, kept=1_000)
    for n in range(1_000):
        assert not buckets.take(f"caller-{n}")
    clock.turn(10)
    for _ in range(10 * BURST_SECONDS):
        assert not buckets.take("ada")
    for _ in range(100):
        assert 0 < buckets.take("ada") <= 0.1
    assert len(buckets) == 1
    clock.turn(0.1)
    assert not buckets.take("ada")
    unlimited: TokenBuckets[str] = TokenBuckets(0, clock, kept=1)
    assert not any(unlimited.take("ada") for _ in range(1_000))


def test_who_has_a_million_addresses_has_not_a_million_buckets() -> None:
    buckets: TokenBuckets[int] = TokenBuckets(10, TurnedClock(), kept=100)
    assert [who for who in range(10_000) if not buckets.take(who)] == [
        *range(100),
        *range(100, 100 + 10 * BURST_SECONDS),
    ]
    assert len(buckets) == 101
    assert not buckets.take(7), "who was there before has his own"
