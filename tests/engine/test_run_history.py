"""The history of a run's actions, read from its record."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import uuid4

import pytest

from opsjobs.engine.runs.run_state import RunHistory
from opsjobs.model.execution import RunStatus
from opsjobs.model.program import SpoolIdentity
from opsjobs.store.ledger.claim import Claimed, Progress

STORE = SpoolIdentity("store-1", "boot-1")


def claimed(attempt: int) -> Claimed:
    return Claimed(1, uuid4(), 1, date(2026, 1, 1), "1", "web-1", 0, 1, attempt, 1, None)


def progress(attempt: int, status: RunStatus, **more: Any) -> Progress:
    return Progress("work", attempt, status, None, (0, 0), None, **more)


@pytest.mark.parametrize("where", [{"identity": STORE}, {"direct": True}])
def test_a_lost_action_stays_lost_while_another_one_is_at_its_second_attempt(
    where: dict[str, Any],
) -> None:
    past = RunHistory(claimed(2), [progress(1, RunStatus.LOST, **where)])
    assert past.of_action("work").end is not None
    assert past.of_action("work").attempt == 1


def test_a_lost_action_without_a_spool_is_retried_at_the_runs_next_attempt() -> None:
    assert RunHistory(claimed(2), [progress(1, RunStatus.LOST)]).of_action("work").attempt == 2
    assert RunHistory(claimed(1), [progress(1, RunStatus.LOST)]).of_action("work").end is not None
