"""The timeline of target runs: one phase after the other, as far as it is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from opsjobs.model.execution import RunStatus, WaitingFor
from opsjobs.model.run_views import TargetRun


class Phase(StrEnum):
    """The phases of a run.

    `queue`: waiting to be claimed; `slot`: waiting for a slot of the target; `connect`: connecting
    to the machine, `auth`: logging in there, if a connection was made for it; `exec` and
    `transfer`: an action; `commit`: from the end of the last action to the end of the run."""

    QUEUE = "queue"
    SLOT = "slot"
    CONNECT = "connect"
    AUTH = "auth"
    EXEC = "exec"
    TRANSFER = "transfer"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class Acted:
    """One attempt at an action, with times of its worker's clock.

    `auth_at`, `entered_at`: the start and the end of its login, if it waited for one."""

    run_id: int
    action: str
    type: str
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    auth_at: datetime | None = None
    entered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A phase of one run; `finished_at` is None while it lasts."""

    run: TargetRun
    phase: Phase
    started_at: datetime
    finished_at: datetime | None
    action: str | None = None
    attempt: int = 1


def timeline(launched_at: datetime, run: TargetRun, acted: Sequence[Acted]) -> list[Stretch]:
    """Return the phases of one run, in order.

    `acted`: its own attempts, in the order in which they began."""
    claimed_at = run.started_at
    stretches = [Stretch(run, _waiting(run), launched_at, claimed_at or run.finished_at)]
    if claimed_at is None:
        return stretches
    if (first := next((a for a in acted if a.started_at >= claimed_at), None)) or (
        run.status is RunStatus.RUNNING and not acted
    ):
        stretches += _entering(run, claimed_at, first)
    stretches += [
        Stretch(run, _acting(a), a.started_at, a.finished_at, a.action, a.attempt) for a in acted
    ]
    ends = [a.finished_at for a in acted if a.finished_at is not None]
    if run.finished_at is not None and ends:
        stretches.append(
            Stretch(run, Phase.COMMIT, max(ends), run.finished_at, attempt=run.attempt)
        )
    return sorted(stretches, key=lambda stretch: stretch.started_at)


def _entering(run: TargetRun, claimed_at: datetime, first: Acted | None) -> list[Stretch]:
    """Return the phases of connecting and, if recorded, of the login."""
    until = first.started_at if first is not None else None
    if first is None or first.auth_at is None or first.entered_at is None:
        return [Stretch(run, Phase.CONNECT, claimed_at, until, attempt=run.attempt)]
    # Another run may have begun the same connection before this one was claimed.
    began = max(first.auth_at, claimed_at)
    entered = max(first.entered_at, began)
    return [
        Stretch(run, Phase.CONNECT, claimed_at, began, attempt=run.attempt),
        Stretch(run, Phase.AUTH, began, entered, attempt=run.attempt),
    ]


def _waiting(run: TargetRun) -> Phase:
    return Phase.SLOT if run.waiting_for is WaitingFor.SLOT else Phase.QUEUE


def _acting(acted: Acted) -> Phase:
    return Phase.TRANSFER if acted.type == "file_transfer" else Phase.EXEC
