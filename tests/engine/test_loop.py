"""The loop of background work: an error ends the round, a wake-up begins the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from opsjobs.engine.loop import Loop
from opsjobs.model.errors import Unavailable
from opsjobs.telemetry.metrics import Metrics


class Rounds:
    """A scripted `run_once` that can be waited for."""

    def __init__(self, *faults: Exception | None) -> None:
        self.count = 0
        self._faults = [*faults]
        self._changed = asyncio.Condition()

    async def __call__(self) -> Mapping[str, int]:
        async with self._changed:
            self.count += 1
            self._changed.notify_all()
        fault = self._faults.pop(0) if self._faults else None
        if fault is not None:
            raise fault
        return {"done": self.count}

    async def reach(self, count: int) -> None:
        async with self._changed, asyncio.timeout(60):
            await self._changed.wait_for(lambda: self.count >= count)


@asynccontextmanager
async def looping(
    rounds: Rounds, interval_seconds: float, metrics: Metrics | None = None
) -> AsyncIterator[Loop]:
    loop = Loop("rounds", rounds, interval_seconds=interval_seconds, metrics=metrics or Metrics())
    loop.start()
    try:
        yield loop
    finally:
        await loop.stop()


async def test_an_error_ends_a_round_and_not_the_loop() -> None:
    metrics = Metrics()
    rounds = Rounds(ZeroDivisionError("a bug"), Unavailable("away"))
    async with looping(rounds, 0.001, metrics):
        await rounds.reach(4)
    assert metrics.bugs.labels("rounds")._value.get() == 1
    count = rounds.count
    await asyncio.sleep(0.01)
    assert rounds.count == count, "it went on after its stop"


async def test_a_loop_that_stops_closes_what_its_rounds_have_left() -> None:
    rounds, closed = Rounds(), []

    async def close() -> None:
        closed.append(rounds.count)

    loop = Loop("rounds", rounds, interval_seconds=0.001, metrics=Metrics(), close=close)
    loop.start()
    await rounds.reach(2)
    assert closed == []
    await loop.stop()
    assert closed == [rounds.count], "no round begins after it"


async def test_a_loop_ends_even_if_its_cancel_comes_with_an_answer() -> None:
    asked, answer = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def round_() -> Mapping[str, int]:
        asked.set()
        await asyncio.wait_for(
            answer, 60
        )  # Python 3.11 drops a cancel that arrives together with the result
        return {}

    loop = Loop("rounds", round_, interval_seconds=3_600, metrics=Metrics())
    loop.start()
    await asked.wait()
    answer.set_result(None)
    async with asyncio.timeout(30):
        await loop.stop()


async def test_a_loop_is_woken_before_its_time() -> None:
    rounds = Rounds()
    async with looping(rounds, 3_600) as loop:
        for count in (1, 2, 3):
            await rounds.reach(count)
            loop.wake()
        await rounds.reach(4)


async def test_a_loop_that_never_started_can_be_stopped() -> None:
    await Loop("rounds", Rounds(), interval_seconds=1, metrics=Metrics()).stop()
