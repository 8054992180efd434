"""The audit log as it is forwarded: sealed rows by their numbers, and how many wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.model.audit_chain import FIELDS, stamp
from opsjobs.store.transaction import Database

AUDIT_SERVICE = "audit_service"
"""The source of deliveries whose position is a number of the audit log, not of an event."""
COUNTED_MAX = 1_000_000

_ROWS = f"""
select {", ".join(FIELDS)}, encode(hash, 'hex') as hash from audit_log
where seal > %s order by seal limit %s"""
_LAST = "select coalesce(max(seal), 0) as last from audit_log"
_PENDING = """
select count(*) as n from (
  select from deliveries d join delivery_receivers r on r.id = d.receiver_id
  where r.destination = %s and d.status = 'pending' limit %s) counted"""
_POSITION = "select position from delivery_sources where name = %s"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One sealed row."""

    seal: int
    action: str
    at: datetime
    data: Mapping[str, Any]


class AuditFeed:
    """Reads sealed rows by their numbers: 1, 2, 3 … in the order in which they became visible."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, after: int, *, limit: int) -> Sequence[AuditRow]:
        """Return the rows behind a number, in order."""
        rows = await self._database.fetch(_ROWS, [after, limit])
        return [
            AuditRow(row["seal"], row["action"], row["at"], {**row, "at": stamp(row["at"])})
            for row in rows
        ]

    async def last_seal(self) -> int:
        """Return the number of the newest sealed row; 0 if there is none."""
        row = await self._database.fetch_one(_LAST)
        assert row is not None
        return int(row["last"])

    async def count_pending(self, destination: str, most: int) -> int:
        """Return how many deliveries wait for a destination; at most `most` are counted."""
        row = await self._database.fetch_one(_PENDING, [destination, most])
        assert row is not None
        return int(row["n"])

    async def backlog(self, source: str) -> int:
        """Return how many rows the Audit Service has not yet got, counted by their numbers."""
        row = await self._database.fetch_one(_POSITION, [source])
        if row is None:
            return 0
        waiting = max(await self.last_seal() - int(row["position"]), 0)
        return waiting + await self.count_pending(source, COUNTED_MAX)
