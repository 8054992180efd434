"""The clock that tests set, and ids that sort by time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as some

from opsjobs.clock import SystemClock, TurnedClock, uuid7

START = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = some.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=some.just(UTC))  # noqa: DTZ001  the strategy adds the zone


async def test_sleepers_wake_when_the_clock_passes_them_and_not_before() -> None:
    clock, woken = TurnedClock(START), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleeper(s)) for s in (3, 1, 2, 0)]
    await asyncio.sleep(0)
    clock.turn(0.5)
    await tasks[3]
    assert woken == [0]
    clock.turn(1.5)
    await asyncio.gather(tasks[1], tasks[2])
    assert woken == [0, 1, 2]
    assert not tasks[0].done()
    clock.turn(100)
    await tasks[0]
    assert clock.now() == START + timedelta(seconds=102)
    assert clock.monotonic() == 102


async def test_a_call_for_later_comes_once_or_is_called_off() -> None:
    clock, called = TurnedClock(), []
    clock.later(5, lambda: called.append("kept"))
    off = clock.later(5, lambda: called.append("called off"))
    off.cancel()
    clock.turn(4.9)
    await asyncio.sleep(0)
    assert called == []
    clock.turn(0.1)
    await asyncio.sleep(0)
    clock.turn(10)
    await asyncio.sleep(0)
    assert called == ["kept"]
    off.cancel()


async def test_the_machines_clock_is_aware_and_calls_later() -> None:
    clock, called = SystemClock(), asyncio.Event()
    assert clock.now().utcoffset() == timedelta(0)
    before = clock.monotonic()
    clock.later(0.001, called.set)
    await asyncio.wait_for(called.wait(), 60)
    assert clock.monotonic() > before


@given(MOMENTS)
def test_an_id_is_a_version_7_and_says_its_millisecond(at: datetime) -> None:
    made = uuid7(at)
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == int(at.timestamp() * 1000)
    assert made != uuid7(at)


@given(MOMENTS, some.timedeltas(timedelta(milliseconds=2), timedelta(days=100)))
def test_ids_sort_by_their_moment(at: datetime, later: timedelta) -> None:
    if at.year < 9998:
        assert uuid7(at) < uuid7(at + later)
