"""What is on record of a run's actions from before this worker had it, action by action."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opsjobs.model.execution import RunStatus
from opsjobs.store.ledger import Claimed, Progress


@dataclass(frozen=True, slots=True)
class ActionHistory:
    """Of one action: `end` as it stands, or `open`, or neither: then `attempt` is the next one, due in `again_seconds`.

    `tries`: attempts that count. `skipped`: its condition did not hold.
    """

    attempt: int = 1
    tries: int = 0
    end: Progress | None = None
    open: Progress | None = None
    again_seconds: float = 0.0
    skipped: bool = False


NOTHING = ActionHistory()


class RunHistory:
    """The record, read once."""

    def __init__(self, claimed: Claimed, progress: Sequence[Progress]) -> None:
        seen: dict[str, list[Progress]] = {}
        for attempt in progress:
            seen.setdefault(attempt.action, []).append(attempt)
        # Where the run's own attempt stands: templates that show it must say the same to an heir.
        self.attempt = max((attempt.attempt for attempt in progress if attempt.inherited_from is None), default=1)
        self._of: Mapping[str, ActionHistory] = {key: _before(claimed, attempts) for key, attempts in seen.items()}

    def of(self, key: str) -> ActionHistory:
        """What is on record of an action."""
        return self._of.get(key, NOTHING)

    def ended(self) -> Iterable[Progress]:
        """The ends that stand."""
        return [before.end for before in self._of.values() if before.end is not None]

    def open(self) -> Iterable[str]:
        """The actions that have begun and not ended."""
        return [key for key, before in self._of.items() if before.open is not None]


def _before(claimed: Claimed, attempts: Sequence[Progress]) -> ActionHistory:
    last = max(attempts, key=lambda seen: seen.attempt)
    tries = sum(not seen.voided and seen.status.final for seen in attempts)
    if last.status is RunStatus.RUNNING:
        return ActionHistory(last.attempt, tries, open=last)
    if last.status is RunStatus.SKIPPED and not last.voided:
        return ActionHistory(last.attempt, tries, skipped=True)
    if last.voided or last.again_seconds is not None or _lost_before(claimed, last):
        return ActionHistory(last.attempt + 1, tries, again_seconds=max(last.again_seconds or 0.0, 0.0))
    return ActionHistory(last.attempt, tries, end=last)


def _lost_before(claimed: Claimed, last: Progress) -> bool:
    """Lost before the run's own attempt: so a worker of the release before, which names no store, says that it is tried again."""
    ours = last.identity is not None or last.direct
    return last.status is RunStatus.LOST and last.attempt < claimed.attempt and not ours
