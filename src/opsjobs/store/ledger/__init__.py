"""The ledger's verbs: every change of an execution or a target run passes through here, guarded and in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from opsjobs import failpoints
from opsjobs.model.approval import Approval, ApprovalTerms
from opsjobs.model.execution import Execution
from opsjobs.store.ledger import approvals as _approvals
from opsjobs.store.ledger import cancel as _cancel
from opsjobs.store.ledger import claim as _claim
from opsjobs.store.ledger import launch as _launch
from opsjobs.store.ledger import maintenance as _maintenance
from opsjobs.store.ledger import pausing as _pausing
from opsjobs.store.ledger import reconcile as _reconcile
from opsjobs.store.ledger import remote_cleanup as _aftercare
from opsjobs.store.ledger import settle as _settle
from opsjobs.store.ledger import takeover as _takeover
from opsjobs.store.ledger.approvals import Ruling
from opsjobs.store.ledger.claim import Claim, Claimed, Progress, Spec
from opsjobs.store.ledger.flush import ContactChange, Flush, LogLine, ResultState, RunMove
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.ledger.maintenance import Maintenance
from opsjobs.store.ledger.pausing import Resumed
from opsjobs.store.ledger.pending_approval import PendingApproval
from opsjobs.store.ledger.remote_cleanup import Folder, LateLookup
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.transaction import Connection, Database

__all__ = [
    "Claim",
    "Claimed",
    "ContactChange",
    "Flush",
    "Folder",
    "LateLookup",
    "Ledger",
    "LogLine",
    "Maintenance",
    "NewExecution",
    "PendingApproval",
    "Progress",
    "ResultState",
    "Ruling",
    "RunMove",
    "Settled",
    "Spec",
]


class Ledger:
    """One face for the verbs; each opens its own transaction and repeats itself after a deadlock (10-ledger.md)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reconciler = _reconcile.Reconciler(database)

    async def launch(self, connection: Connection, new: NewExecution) -> Execution:
        """Write an execution into a transaction of the caller, who records its idempotency key there, too."""
        return await _launch.launch(connection, new)

    async def claim(self, *, owner: UUID, worker: str, zone: str, limit: int, floor: int) -> Claim:
        """Up to `limit` ready runs of the zone with turns from `floor` up, now running under this owner."""
        async with failpoints.at("claim"):
            return await self._database.retry(
                lambda: _claim.claim(self._database, owner=owner, worker=worker, zone=zone, limit=limit, floor=floor)
            )

    async def take_over(self, *, owner: UUID, worker: str, zone: str, limit: int, waited: bool = False) -> list[Claimed]:
        """Up to `limit` runs whose owner was buried, now under this owner and the next fence.

        A run whose owners died too often without a sign of life of it ends `dead` instead (10-ledger.md rule 12). From the second
        death on such runs are handed out one by one: the next once the last has given a sign, or was `waited` for long enough.
        """
        return await self._database.retry(
            lambda: _takeover.take_over(self._database, owner=owner, worker=worker, zone=zone, limit=limit, waited=waited)
        )

    async def find_unknown_runs(self, *, owner: UUID, known: Sequence[int]) -> list[Claimed]:
        """Runs that are this owner's by the ledger, but not in `known`."""
        return await _claim.find_unknown_runs(self._database, owner=owner, known=known)

    async def load_specs(self, execution_ids: Sequence[int]) -> dict[int, Spec]:
        """What these executions do, by id."""
        return await _claim.load_specs(self._database, execution_ids)

    async def load_progress(self, run_ids: Sequence[int]) -> dict[int, list[Progress]]:
        """What was recorded of these runs' actions before, in the order in which they began."""
        return await _claim.load_progress(self._database, run_ids)

    async def read_stdout(self, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
        """The beginning of what an attempt's stdout has on record, up to a gap in it."""
        return await _claim.read_stdout(self._database, run, seen, max_bytes)

    async def settle(self, flush: Flush) -> Settled:
        """Commit output, results and ends of many runs at once. Raises Unavailable; then it may be given again."""
        return await _settle.settle(self._database, flush)

    async def cancel(self, execution_id: int, *, by: str, reason: str | None) -> None:
        """Ask for a cancel and end what waits. Raises NotFound, or Conflict once the execution has ended."""
        await self._database.retry(lambda: _cancel.ask_cancel(self._database, execution_id, by=by, reason=reason))

    async def pause(self, execution_id: int, *, by: str, reason: str | None) -> None:
        """Start nothing new of it. Raises NotFound, or Conflict where it is being cancelled or has ended."""
        await self._database.retry(lambda: _pausing.pause(self._database, execution_id, by=by, reason=reason))

    async def resume(self, execution_id: int, *, by: str) -> Resumed:
        """Go on, past the gate where it stands at one. Raises as `pause`."""
        return await self._database.retry(lambda: _pausing.resume(self._database, execution_id, by=by))

    async def request_approval(
        self, execution_id: int, action: str, terms: ApprovalTerms, *, hash_: str | None = None, salt: bytes | None = None
    ) -> Approval:
        """The approval of this action in this execution: asked with the first call, later as it stands."""
        return await self._database.retry(
            lambda: _approvals.request_approval(self._database, execution_id, action, terms, hash_=hash_, salt=salt)
        )

    async def decide(self, approval_id: int, ruling: Ruling) -> Approval:
        """Count what somebody says; with the last word that it takes, what waits goes on, begins or ends.

        Raises NotFound, Conflict (decided, about something else), Forbidden (who may not), Invalid (an override without reason).
        """
        return await self._database.retry(lambda: _approvals.decide(self._database, approval_id, ruling))

    async def expire_changed(self, approval_id: int) -> None:
        """Close an approval whose execution would do something else by now. Raises NotFound, Conflict where it is decided."""
        await self._database.retry(lambda: _approvals.expire_changed(self._database, approval_id))

    async def hold_target(
        self,
        target_id: str,
        slots: int,
        *,
        until: datetime | None = None,
        seconds: float | None = None,
        reason: str | None,
        by: str,
    ) -> None:
        """Begin or change a target's maintenance: its runs wait. Neither `until` nor `seconds`: until further notice."""
        await self._database.retry(
            lambda: _maintenance.hold_target(self._database, target_id, slots, until=until, seconds=seconds, reason=reason, by=by)
        )

    async def release_target(self, target_id: str) -> None:
        """End a target's maintenance: its runs go on at once."""
        await self._database.retry(lambda: _maintenance.release_target(self._database, target_id))

    async def resize_slots(self, target_id: str, slots: int) -> None:
        """The target has so many slots from now on; those in use above that number are taken away as they are freed."""
        await self._database.retry(lambda: _maintenance.resize_slots(self._database, target_id, slots))

    async def load_maintenances(self, target_ids: Sequence[str]) -> dict[str, Maintenance]:
        """Which of these targets are under maintenance now."""
        return await _maintenance.load_maintenances(self._database, target_ids)

    async def try_start_round(self, pause_seconds: float) -> bool:
        """Return whether this process is to reconcile now; another one no earlier than after the pause."""
        return await self._reconciler.take_turn(pause_seconds)

    async def reconcile(self) -> Mapping[str, int]:
        """Find and mend what was left behind; says how much, by kind."""
        return await self._reconciler.run_once()

    async def recount(self) -> Mapping[str, int]:
        """Check slots and counters against the runs; a difference in counters is a bug of ours."""
        return await self._reconciler.recount()

    async def lease_cleanups(self, zone: str, limit: int) -> list[Folder]:
        """Up to `limit` runs that ended a day ago in a store of their target; the caller's for an hour."""
        return await self._database.retry(lambda: _aftercare.lease_cleanups(self._database, zone, limit))

    async def mark_cleaned(self, run_ids: Sequence[int]) -> None:
        """Their folders are gone."""
        await self._database.retry(lambda: _aftercare.mark_cleaned(self._database, run_ids))

    async def postpone_cleanup(self, run_ids: Sequence[int], *, refused: bool = False) -> None:
        """Their folders could not be removed: they come again in an hour, until a week after they were first due.

        `refused`: their users are not ours to be; a password is not offered there more often than once a day.
        """
        await self._database.retry(lambda: _aftercare.postpone_cleanup(self._database, run_ids, refused=refused))

    async def lease_late_lookups(self, zone: str, limit: int) -> list[LateLookup]:
        """Up to `limit` ended runs whose command's end is unknown and to be looked for now; the caller's for 10 minutes."""
        return await self._database.retry(lambda: _aftercare.lease_late_lookups(self._database, zone, limit))

    async def record_late_result(self, sweep: LateLookup, late_result: Mapping[str, Any]) -> None:
        """Note what became of an ended run's command. No state changes, no event; given again: the first word stays."""
        await self._database.retry(lambda: _aftercare.record_late_result(self._database, sweep, late_result))

    async def postpone_late_lookup(self, run_ids: Sequence[int]) -> None:
        """Nothing found out: they come again after 2, 4, … 60 minutes, until a week after their end."""
        await self._database.retry(lambda: _aftercare.postpone_late_lookup(self._database, run_ids))
