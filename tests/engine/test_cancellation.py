"""Orders to stop a run: which of several wins."""

from __future__ import annotations

import asyncio

import pytest

from opsjobs.engine.runs import cancellation
from opsjobs.engine.runs.cancellation import Interrupted, StopReason, StopSignal


def ordered(*reasons: StopReason) -> StopSignal:
    stops = StopSignal()
    for why in reasons:
        stops.request(why)
    return stops


@pytest.mark.parametrize("then", [StopReason.CANCEL, StopReason.DEADLINE])
def test_what_ends_the_run_outlives_the_timeout_of_an_attempt_that_came_first(
    then: StopReason,
) -> None:
    stops = ordered(StopReason.ACTION_TIMEOUT, then)
    assert stops.reason is StopReason.ACTION_TIMEOUT
    stops.clear(StopReason.ACTION_TIMEOUT)
    assert stops.reason is then
    with pytest.raises(Interrupted), stops.interruptible():
        pass


def test_the_timeout_of_an_attempt_alone_stops_nothing_later() -> None:
    stops = ordered(StopReason.ACTION_TIMEOUT)
    stops.clear(StopReason.ACTION_TIMEOUT)
    with stops.interruptible():
        assert stops.reason is None


def test_the_first_reason_stays_but_losing_the_run_overrules_all() -> None:
    assert ordered(StopReason.CANCEL, StopReason.DEADLINE).reason is StopReason.CANCEL
    assert ordered(StopReason.CANCEL, StopReason.ACTION_TIMEOUT).reason is StopReason.CANCEL
    assert (
        ordered(StopReason.ACTION_TIMEOUT, StopReason.DEADLINE, StopReason.OWNERSHIP_LOST).reason
        is StopReason.OWNERSHIP_LOST
    )


async def test_an_order_that_comes_with_an_answer_is_told_again_until_it_is_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancellation, "AGAIN_SECONDS", 0.01)
    stops, answer = StopSignal(), asyncio.get_running_loop().create_future()

    async def work() -> int:
        stops.bind()
        try:
            with stops.interruptible():
                await asyncio.wait_for(
                    answer, 60
                )  # Python 3.11 drops a cancel that arrives together with the result
                await asyncio.sleep(60)
        except Interrupted:
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()
        return -1

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    answer.set_result(None)
    stops.request(StopReason.CANCEL)
    async with asyncio.timeout(30):
        assert await working == 0, "nothing of the cancels stays with the task"
