"""Delete what is older than its retention period: one process at a time, in small parts.

It continues while there is work and time left.
"""

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
    """Delete everything that is past its retention limit."""

    def __init__(
        self, turn: Turn, retention: Retention, keep: RetentionLimits, seals: Seals
    ) -> None:
        self._turn = turn
        self._retention = retention
        self._seals = seals
        self._keep = keep

    async def run_once(self) -> Counts:
        """Do one turn, if it is this process's; return how much was deleted, by kind."""
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
        """Delete the beginning of the audit log's chain; return how many rows.

        Nothing is deleted if the log is kept for ever, or the chain is not intact.
        """
        if not keep.audit_seconds:
            return 0
        try:
            return await self._seals.retain(keep.audit_seconds)
        except UnverifiedChain as refused:
            log.error("audit_not_retained", reason=str(refused))
            return 0
