"""The loop that lets go of what is old: one process at a time, in small parts, as long as there is something and time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from opsjobs.engine.service import Counts
from opsjobs.store.audit_chain import Unproven
from opsjobs.store.retention import Keep, Retention
from opsjobs.store.sealing import Seals
from opsjobs.telemetry import log

# Between two turns, whoever has them; and how many parts of a kind one turn does at most.
PAUSE_SECONDS = 60.0
PARTS_A_TURN = 20


class Keeper:
    """Keeps what is to be kept, and nothing else."""

    def __init__(self, retention: Retention, keep: Keep, seals: Seals) -> None:
        self._retention = retention
        self._seals = seals
        self._keep = keep

    async def run_once(self) -> Counts:
        """One turn, where it is ours; says what went, by kind."""
        if not await self._retention.take_turn(PAUSE_SECONDS):
            return {}
        done = {
            "log_days_dropped": await self._all(self._retention.drop_days),
            "executions_deleted": await self._all(self._retention.delete_executions),
            "artifacts_deleted": await self._all(self._retention.delete_artifacts),
            "files_deleted": await self._all(self._retention.delete_files),
            "firings_deleted": await self._all(self._retention.delete_firings),
            "names_forgotten": await self._all(self._retention.forget_names),
            "audit_rows_deleted": await self._all(self._delete_audit),
        }
        if any(done.values()):
            log.info("retention", **done)
        return done

    async def _delete_audit(self, keep: Keep) -> int:
        """Let go of the beginning of the audit log's chain, where it is not kept for ever, and is whole."""
        if not keep.audit_seconds:
            return 0
        try:
            return await self._seals.retain(keep.audit_seconds)
        except Unproven as refused:
            log.error("audit_not_retained", reason=str(refused))
            return 0

    async def _all(self, verb: Callable[[Keep], Awaitable[int]]) -> int:
        total = 0
        for _ in range(PARTS_A_TURN):
            if not (part := await verb(self._keep)):
                break
            total += part
        return total
