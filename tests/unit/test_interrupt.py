"""Orders to stop a run: which of them stays when several come."""

from __future__ import annotations

import pytest

from opsjobs.engine.runs.cancellation import Interrupted, Stops, Why


def ordered(*reasons: Why) -> Stops:
    stops = Stops()
    for why in reasons:
        stops.order(why)
    return stops


@pytest.mark.parametrize("then", [Why.CANCEL, Why.DEADLINE])
def test_what_ends_the_run_outlives_the_timeout_of_an_attempt_that_came_first(then: Why) -> None:
    stops = ordered(Why.ACTION_TIMEOUT, then)
    assert stops.why is Why.ACTION_TIMEOUT
    stops.over(Why.ACTION_TIMEOUT)
    assert stops.why is then
    with pytest.raises(Interrupted), stops.here():
        pass


def test_the_timeout_of_an_attempt_alone_stops_nothing_later() -> None:
    stops = ordered(Why.ACTION_TIMEOUT)
    stops.over(Why.ACTION_TIMEOUT)
    with stops.here():
        assert stops.why is None


def test_the_first_reason_stays_but_losing_the_run_overrules_all() -> None:
    assert ordered(Why.CANCEL, Why.DEADLINE).why is Why.CANCEL
    assert ordered(Why.CANCEL, Why.ACTION_TIMEOUT).why is Why.CANCEL
    assert ordered(Why.ACTION_TIMEOUT, Why.DEADLINE, Why.NOT_OURS).why is Why.NOT_OURS
