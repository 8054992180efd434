"""Approvals as read; asked and decided they are by the ledger."""

from __future__ import annotations

from opsjobs.model.access import Reach
from opsjobs.model.approval import Approval
from opsjobs.model.failures import NotFound
from opsjobs.store.ledger.approvals import COLUMNS, approval_of
from opsjobs.store.paging import Column, Listing, Page, PageRequest
from opsjobs.store.reaching import OF_EXECUTION
from opsjobs.store.reference import Reference
from opsjobs.store.transaction import Database

APPROVALS = Listing(
    f"select {COLUMNS} from approvals",
    {
        "id": Column("integer", sort=True),
        "status": Column("text"),
        "execution_id": Column("integer", sort=True),
        "action": Column("text"),
        "decided_by": Column("text"),
        "asked_at": Column("moment", sort=True),
        "expires_at": Column("moment", sort=True, expression="coalesce(expires_at, 'infinity')"),
    },
    labels=OF_EXECUTION.format("listed.execution_id"),
)


class Approvals:
    """Reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, ref: str | int) -> Approval:
        """By id or uuid. Raises NotFound."""
        named = Reference.of("approval", ref)
        query = f"select {COLUMNS} from approvals where id = %(id)s or uuid = %(uuid)s"
        row = await self._database.fetch_one(query, {"id": named.id, "uuid": named.uuid})
        if row is None:
            raise NotFound.of("approval", ref)
        return approval_of(row)

    async def list(self, request: PageRequest, reach: Reach | None = None) -> Page[Approval]:
        """Those of executions within reach, the newest first; filters and orders are those of APPROVALS."""
        return (await APPROVALS.page(self._database, request, reach=reach)).map(approval_of)
