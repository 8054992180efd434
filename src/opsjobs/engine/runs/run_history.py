"""The recorded progress of a run's actions, as a worker finds it when it takes the run up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opsjobs.model.execution import RunStatus
from opsjobs.store.ledger import Claimed, Progress


@dataclass(frozen=True, slots=True)
class ActionHistory:
    """The recorded progress of one action.

    `end` is set if it has ended for good, `open` if an attempt is still running. If neither is set,
    `attempt` is the number of the next attempt, due in `again_seconds`.
    """

    attempt: int = 1
    tries: int = 0
    """Attempts that count towards the limit."""
    end: Progress | None = None
    open: Progress | None = None
    again_seconds: float = 0.0
    skipped: bool = False
    """True if its condition did not hold."""


NO_HISTORY = ActionHistory()


class RunHistory:
    """The recorded progress of a run, by action; read once."""

    def __init__(self, claimed: Claimed, progress: Sequence[Progress]) -> None:
        by_action: dict[str, list[Progress]] = {}
        for attempt in progress:
            by_action.setdefault(attempt.action, []).append(attempt)
        # The run's own attempt number: templates must render it identically after a takeover.
        self.attempt = max(
            (attempt.attempt for attempt in progress if attempt.inherited_from is None), default=1
        )
        self._of: Mapping[str, ActionHistory] = {
            key: _summarize(claimed, attempts) for key, attempts in by_action.items()
        }

    def of_action(self, key: str) -> ActionHistory:
        """Return what is recorded of an action."""
        return self._of.get(key, NO_HISTORY)

    def final_results(self) -> Iterable[Progress]:
        """Return the ends that are final."""
        return [before.end for before in self._of.values() if before.end is not None]

    def open_actions(self) -> Iterable[str]:
        """Return the actions that have started and not ended."""
        return [key for key, before in self._of.items() if before.open is not None]


def _summarize(claimed: Claimed, attempts: Sequence[Progress]) -> ActionHistory:
    last = max(attempts, key=lambda progress: progress.attempt)
    tries = sum(not progress.voided and progress.status.final for progress in attempts)
    if last.status is RunStatus.RUNNING:
        return ActionHistory(last.attempt, tries, open=last)
    if last.status is RunStatus.SKIPPED and not last.voided:
        return ActionHistory(last.attempt, tries, skipped=True)
    if last.voided or last.again_seconds is not None or _lost_before(claimed, last):
        return ActionHistory(
            last.attempt + 1, tries, again_seconds=max(last.again_seconds or 0.0, 0.0)
        )
    return ActionHistory(last.attempt, tries, end=last)


def _lost_before(claimed: Claimed, last: Progress) -> bool:
    """True if the attempt was lost before the run's current attempt, and names no spool."""
    ours = last.identity is not None or last.direct
    return last.status is RunStatus.LOST and last.attempt < claimed.attempt and not ours
