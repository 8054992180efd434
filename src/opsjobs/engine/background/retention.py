"""The loop that lets go of what is old: one process at a time, in small parts, as long as there is something and time."""

from __future__ import annotations

from functools import partial

from opsjobs.engine.service import Counts
from opsjobs.engine.turn import Turn
from opsjobs.store.audit_chain import UnverifiedChain
from opsjobs.store.audit_sealer import Seals
from opsjobs.store.retention import Retention, RetentionLimits
from opsjobs.telemetry import log

SERVICE = "retention"


class RetentionService:
    """Keeps what is to be kept, and nothing else."""

    def __init__(
        self, turn: Turn, retention: Retention, keep: RetentionLimits, seals: Seals
    ) -> None:
        self._turn = turn
        self._retention = retention
        self._seals = seals
        self._keep = keep

    async def run_once(self) -> Counts:
        """Do one turn, if it is this process's; return what went, by kind."""
        steps = {
            "log_days_dropped": self._retention.drop_days,
            "executions_deleted": self._retention.delete_executions,
            "surplus_executions_deleted": self._retention.delete_surplus,
            "artifacts_deleted": self._retention.delete_artifacts,
            "files_deleted": self._retention.delete_files,
            "firings_deleted": self._retention.delete_firings,
            "names_forgotten": self._retention.forget_names,
            "audit_rows_deleted": self._delete_audit,
        }
        return await self._turn.run(
            {name: partial(verb, self._keep) for name, verb in steps.items()}
        )

    async def _delete_audit(self, keep: RetentionLimits) -> int:
        """Let go of the beginning of the audit log's chain, if it is not kept for ever, and is whole."""
        if not keep.audit_seconds:
            return 0
        try:
            return await self._seals.retain(keep.audit_seconds)
        except UnverifiedChain as refused:
            log.error("audit_not_retained", reason=str(refused))
            return 0
