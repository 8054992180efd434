"""Ledger operations: the only code that changes executions and target runs.

Each operation is guarded by owner and fence, and runs in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from opsjobs import failpoints
from opsjobs.model.access import Principal
from opsjobs.model.approval import Approval, ApprovalTerms
from opsjobs.model.errors import Refusal
from opsjobs.model.run_views import Execution
from opsjobs.store.ledger import approvals as _approvals
from opsjobs.store.ledger import cancelled_runs as _cancelled_runs
from opsjobs.store.ledger import claim as _claim
from opsjobs.store.ledger import control as _control
from opsjobs.store.ledger import launch as _launch
from opsjobs.store.ledger import maintenance as _maintenance
from opsjobs.store.ledger import remote_cleanup as _aftercare
from opsjobs.store.ledger import settle as _settle
from opsjobs.store.ledger import takeover as _takeover
from opsjobs.store.ledger.approvals import Ruling
from opsjobs.store.ledger.cancelled_runs import CancelledRuns
from opsjobs.store.ledger.claim import Claim, Claimed, Progress, Spec
from opsjobs.store.ledger.control import Resumed
from opsjobs.store.ledger.flush import Flush
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.ledger.maintenance import Maintenance
from opsjobs.store.ledger.remote_cleanup import Folder, LateLookup
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.transaction import Connection, Database


class Ledger:
    """All operations of the ledger but those of `Reconciler`.

    Each opens its own transaction, and retries it after a deadlock.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._aside = _claim.SetAside()

    async def launch(self, connection: Connection, new: NewExecution) -> Execution:
        """Write an execution in the caller's transaction.

        The caller records its idempotency key in the same transaction.
        """
        return await _launch.launch(connection, new)

    async def claim(self, *, owner: UUID, worker: str, zone: str, limit: int, floor: int) -> Claim:
        """Claim up to `limit` ready runs of the zone, with turns from `floor` up."""
        async with failpoints.at("claim"):
            return await self._database.retry(
                lambda: _claim.claim(
                    self._database,
                    owner=owner,
                    worker=worker,
                    zone=zone,
                    limit=limit,
                    floor=floor,
                    aside=self._aside,
                )
            )

    async def take_over(
        self, *, owner: UUID, worker: str, zone: str, limit: int, waited: bool = False
    ) -> list[Claimed]:
        """Take over up to `limit` runs of dead workers, under this owner and the next fence.

        A run whose owners died too often in a row without recorded progress of the run ends `dead`
        instead. From the second death on, such runs are handed out one by one: the next one once
        the last has made progress, or if the caller has `waited` long enough for that.
        """
        return await self._database.retry(
            lambda: _takeover.take_over(
                self._database, owner=owner, worker=worker, zone=zone, limit=limit, waited=waited
            )
        )

    async def find_unknown_runs(self, *, owner: UUID, known: Sequence[int]) -> list[Claimed]:
        """Return runs that belong to this owner in the ledger, but are missing in `known`."""
        return await _claim.find_unknown_runs(self._database, owner=owner, known=known)

    async def load_specs(self, execution_ids: Sequence[int]) -> dict[int, Spec]:
        """Return the specs of these executions, by id."""
        return await _claim.load_specs(self._database, execution_ids)

    async def load_progress(self, run_ids: Sequence[int]) -> dict[int, list[Progress]]:
        """Return the recorded results of these runs' actions, in the order in which they began."""
        return await _claim.load_progress(self._database, run_ids)

    async def read_stdout(self, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
        """Return the start of an attempt's recorded stdout, up to the first gap."""
        return await _claim.read_stdout(self._database, run, seen, max_bytes)

    async def settle(self, flush: Flush) -> Settled:
        """Commit output, results and ends of many runs at once.

        Raises Unavailable if the flush was not committed; the caller may then try it again.
        """
        return await _settle.settle(self._database, flush)

    async def cancel(self, execution_id: int, *, by: str, reason: str | None) -> None:
        """Request the cancel of an execution, and end its waiting runs.

        Raises NotFound, or Conflict if the execution has ended.
        """
        await self._database.retry(
            lambda: _control.request_cancel(self._database, execution_id, by=by, reason=reason)
        )

    async def cancel_runs(
        self, execution_id: int, targets: Sequence[str], *, by: str, reason: str | None
    ) -> CancelledRuns:
        """Cancel only the runs of these targets (ids or names); the others continue.

        Raises NotFound, Conflict if the execution has ended, or Invalid with unknown targets.
        """
        return await _cancelled_runs.cancel_runs(
            self._database, execution_id, targets, by=by, reason=reason
        )

    async def pause(self, execution_id: int, *, by: str, reason: str | None) -> None:
        """Pause an execution: no further run is started.

        Raises NotFound, or Conflict if the execution is being cancelled or has ended.
        """
        await self._database.retry(
            lambda: _control.pause(self._database, execution_id, by=by, reason=reason)
        )

    async def resume(self, execution_id: int, *, by: str) -> Resumed:
        """Resume an execution; if it is paused at a gate, pass the gate. Raises as `pause`."""
        return await self._database.retry(
            lambda: _control.resume(self._database, execution_id, by=by)
        )

    async def request_approval(
        self,
        execution_id: int,
        action: str,
        terms: ApprovalTerms,
        *,
        hash_: str | None = None,
        salt: bytes | None = None,
    ) -> Approval:
        """Return the approval of an action of an execution; the first call requests it."""
        return await self._database.retry(
            lambda: _approvals.request_approval(
                self._database, execution_id, action, terms, hash_=hash_, salt=salt
            )
        )

    async def decide(self, approval_id: int, ruling: Ruling) -> Approval:
        """Record a decision; once enough are in, the waiting runs continue, start or end.

        Raises NotFound, Conflict (already decided, or made for a different plan), Forbidden (the
        principal may not decide), Invalid (an override without a reason).
        """
        return await self._database.retry(
            lambda: _approvals.decide(self._database, approval_id, ruling)
        )

    async def check_decision(self, approval_id: int, ruling: Ruling) -> None:
        """Raise as `decide` would now; change nothing."""
        await _approvals.check_decision(self._database, approval_id, ruling)

    async def find_approvable(
        self, principal: Principal, find_requester: _approvals.RequesterLookup
    ) -> list[int]:
        """Return the pending approvals, by id, that the principal may approve, newest first."""
        return await _approvals.find_approvable(self._database, principal, find_requester)

    async def find_control_refusals(self, execution_id: int) -> Mapping[str, Refusal | None]:
        """Return for `cancel`, `pause` and `resume` how each would be refused now."""
        return await _control.find_refusals(self._database, execution_id)

    async def expire_changed(self, approval_id: int) -> None:
        """Close an approval whose plan has changed since the request.

        Raises NotFound, or Conflict if it is already decided.
        """
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
        """Start or change the maintenance of a target: its runs wait.

        Without `until` and `seconds` it lasts until it is ended.
        """
        await self._database.retry(
            lambda: _maintenance.hold_target(
                self._database, target_id, slots, until=until, seconds=seconds, reason=reason, by=by
            )
        )

    async def release_target(self, target_id: str) -> None:
        """End the maintenance of a target: its waiting runs continue at once."""
        await self._database.retry(lambda: _maintenance.release_target(self._database, target_id))

    async def resize_slots(self, target_id: str, slots: int) -> None:
        """Set the number of slots of a target.

        Slots in use above that number are removed as they are freed.
        """
        await self._database.retry(
            lambda: _maintenance.resize_slots(self._database, target_id, slots)
        )

    async def load_maintenances(self, target_ids: Sequence[str]) -> dict[str, Maintenance]:
        """Return the current maintenance of these targets, by target id."""
        return await _maintenance.load_maintenances(self._database, target_ids)

    async def lease_cleanups(self, zone: str, limit: int) -> list[Folder]:
        """Lease up to `limit` runs whose folders on their target are due for removal.

        They ended a day ago in the spool of their target. The lease lasts one hour.
        """
        return await self._database.retry(
            lambda: _aftercare.lease_cleanups(self._database, zone, limit)
        )

    async def mark_cleaned(self, run_ids: Sequence[int]) -> None:
        """Record that the folders of these runs are removed."""
        await self._database.retry(lambda: _aftercare.mark_cleaned(self._database, run_ids))

    async def postpone_cleanup(self, run_ids: Sequence[int], *, refused: bool = False) -> None:
        """Record that the folders of these runs could not be removed.

        They are due again in an hour, until a week after they were first due. `refused`: opsjobs
        may not become their users, or the target keeps the files; they are due again in a day, so
        that a password is not tried there more often.
        """
        await self._database.retry(
            lambda: _aftercare.postpone_cleanup(self._database, run_ids, refused=refused)
        )

    async def lease_late_lookups(self, zone: str, limit: int) -> list[LateLookup]:
        """Lease up to `limit` ended runs with an unknown outcome to look up now, for 10 minutes."""
        return await self._database.retry(
            lambda: _aftercare.lease_late_lookups(self._database, zone, limit)
        )

    async def record_late_result(self, sweep: LateLookup, late_result: Mapping[str, Any]) -> None:
        """Record the outcome of an ended run's command, found later.

        Changes no state and publishes no event. A later result does not replace the first one.
        """
        await self._database.retry(
            lambda: _aftercare.record_late_result(self._database, sweep, late_result)
        )

    async def postpone_late_lookup(self, run_ids: Sequence[int]) -> None:
        """Record that nothing was found; try again after 2, 4, … 60 minutes.

        This ends a week after the end of the run.
        """
        await self._database.retry(lambda: _aftercare.postpone_late_lookup(self._database, run_ids))
