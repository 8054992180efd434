"""Read approvals; the ledger requests and decides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from opsjobs.model.access import Reach
from opsjobs.model.approval import Approval, Author
from opsjobs.model.errors import NotFound
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import TargetName
from opsjobs.store.ledger.approval_rows import APPROVAL, load_authors, parse_approval
from opsjobs.store.paging import IndexWalk, ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import Reference
from opsjobs.store.scope_sql import LAUNCHED
from opsjobs.store.transaction import Database

APPROVALS = Listing(
    APPROVAL,
    {
        "id": ListColumn("integer", sort=True),
        "execution_id": ListColumn("integer"),
        "decided_by": ListColumn("text", walk=IndexWalk("decided_by")),
        "status": ListColumn("text", walk=IndexWalk("status")),
        "action": ListColumn("text", beside=("status", "execution_id", "decided_by")),
        "kind": ListColumn("text", beside=("status", "execution_id", "decided_by")),
        "requested_by": ListColumn("text"),
        "asked_at": ListColumn("moment", beside=("status", "execution_id", "decided_by")),
        "expires_at": ListColumn("moment", beside=("status", "execution_id", "decided_by")),
    },
    labels="labels",
    label_rows="execution_id",
    launched=LAUNCHED,
)

_SUBJECT = """
select e.uuid, s.job_name, s.summary, s.actions, s.parameters, s.policy, s.judgement,
       s.requested_by, s.requested_by_kind, s.requester,
       (select jsonb_agg(jsonb_build_array(r.target_id, r.target_name, r.target_host)
                         order by r.position)
        from target_runs r where r.execution_id = e.id) as targets
from job_executions e join execution_specs s on s.execution_id = e.id where e.id = %s"""


@dataclass(frozen=True, slots=True)
class ApprovalSubject:
    """The actions and targets of an execution, as frozen at its launch, secrets sealed."""

    uuid: UUID
    job_name: str
    summary: str | None
    actions: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]
    policy: Mapping[str, Any]
    judgement: Mapping[str, Any] | None
    requested_by: Identity
    requester: Mapping[str, Any] | None
    targets: Sequence[TargetName]


class Approvals:
    """Read access to approvals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, ref: str | int) -> Approval:
        """Return an approval by id or uuid. Raises NotFound."""
        named = Reference.require("approval", ref)
        query = f"{APPROVAL} where a.id = %(id)s or a.uuid = %(uuid)s"
        row = await self._database.fetch_one(query, {"id": named.id, "uuid": named.uuid})
        if row is None:
            raise NotFound.for_ref("approval", ref)
        return parse_approval(row)

    async def list(self, request: PageRequest, reach: Reach | None = None) -> Page[Approval]:
        """Return the approvals of executions within reach, newest first.

        Filters and orders are those of APPROVALS.
        """
        return (await APPROVALS.page(self._database, request, reach=reach)).map(parse_approval)

    async def find_of_action(self, execution_id: int, action: str) -> Approval | None:
        """Return the approval that was requested for this action, if any."""
        query = f"{APPROVAL} where a.execution_id = %s and a.action = %s"
        row = await self._database.fetch_one(query, [execution_id, action])
        return parse_approval(row) if row is not None else None

    async def salt(self, approval_id: int) -> bytes | None:
        """Return the salt of its hash; None if it has no hash."""
        row = await self._database.fetch_one(
            "select salt from approvals where id = %s", [approval_id]
        )
        return bytes(row["salt"]) if row is not None and row["salt"] is not None else None

    async def authors(self, execution_id: int) -> Sequence[Author]:
        """Return the authors of the actions of this execution; they may not approve it."""
        async with self._database.connection() as connection:
            return await load_authors(connection, execution_id)

    async def load_subject(self, execution_id: int) -> ApprovalSubject:
        """Return the plan of this execution, with at most MAX_TARGETS_PER_JOB targets.

        Raises NotFound.
        """
        row = await self._database.fetch_one(_SUBJECT, [execution_id])
        if row is None:
            raise NotFound.for_ref("execution", execution_id)
        identity = Identity(row.pop("requested_by_kind"), row.pop("requested_by"))
        targets = [TargetName(*target) for target in row.pop("targets") or ()]
        return ApprovalSubject(**row, requested_by=identity, targets=targets)
