"""The next action of a run, as SQL finds it.

The end of a waiting or poisonous run is recorded there.
"""

from __future__ import annotations

from typing import Any

import pytest

from kit.ledger_fixtures import NOW, STORE, Owner, launch, machines
from opsjobs.model.execution import ErrorCode, RunError, RunStatus, WaitingFor
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.flush import ResultState, RunMove
from opsjobs.store.transaction import Database

NOTHING = (0, 0)
GONE = RunError(ErrorCode.LOST, "contact was lost")


@pytest.mark.parametrize(
    ("where", "attempt", "following"),
    [
        (
            {},
            2,
            ("step-1", 2),
        ),  # as the release before writes it, without a spool: it is tried again
        ({}, None, ("step-2", 1)),
        ({"direct": True}, 2, ("step-2", 1)),
        ({"identity": STORE}, 2, ("step-2", 1)),
    ],
)
async def test_an_action_lost_in_an_earlier_attempt_is_retried_only_if_it_names_no_spool(
    database: Database, where: dict[str, Any], attempt: int | None, following: tuple[str, int]
) -> None:
    execution = await launch(database, machines(1), actions=3)
    owner = Owner(database)
    (run,) = (await owner.claim()).runs
    lost = ResultState(
        run.id,
        "step-1",
        1,
        True,
        RunStatus.LOST,
        NOTHING,
        NOTHING,
        NOTHING,
        NOW,
        NOW,
        error=GONE,
        **where,
    )
    waits = RunMove(
        run.id,
        execution.id,
        "1",
        run.fence,
        RunStatus.WAITING,
        attempt=attempt,
        waiting_for=WaitingFor.BACKOFF,
        wake_seconds=30,
    )
    await owner.settle(owner.say([waits], [lost]))
    await Ledger(database).cancel(execution.id, by="ada", reason=None)
    (ended,) = await database.fetch(
        "select action, attempt from job_execution_results where status = 'cancelled'"
    )
    assert (ended["action"], ended["attempt"]) == following
