"""Approvals: requested by a run or by a launch, decided by people or by expiry.

Each change happens under the lock of the execution. Runs that wait for an approval are woken or
ended. Only decisions of different people count, and the subject is bound to the approval by a hash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from psycopg.types.json import Jsonb

from opsjobs.model.access import Principal, Requester
from opsjobs.model.approval import (
    Approval,
    ApprovalKind,
    ApprovalStatus,
    ApprovalTerms,
    Author,
    person_of,
)
from opsjobs.model.errors import Conflict, NotFound, Refusal, Unavailable
from opsjobs.model.events import EventType
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.model.identity import Identity
from opsjobs.store import audit
from opsjobs.store.ledger.admission import LOCK
from opsjobs.store.ledger.admit import for_each, wake_answered
from opsjobs.store.ledger.approval_rows import (
    APPROVAL,
    append_approval_event,
    load_all_authors,
    load_approval,
    load_authors,
    parse_approval,
    parse_requester,
    start_approved_launch,
)
from opsjobs.store.ledger.control import Ending, end_refused, end_waiting
from opsjobs.store.scope_sql import and_within
from opsjobs.store.transaction import Connection, Database

PENDING_READ_MAX = 200
"""The number of pending approvals within reach that are checked for one principal at once."""

RequesterLookup = Callable[[Identity], Awaitable[Requester | None]]
"""Return the person behind a requester that was not stored, given its name and kind."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision on an approval."""

    principal: Principal
    approve: bool
    reason: str | None = None
    hash: str | None = None
    """The hash of the subject that the principal saw, which must match; None if not given."""
    override: bool = False
    """Decide alone, however many approvals are needed. Requires safety:override and a reason."""
    requester: Requester | None = None
    """The requester, if none was stored with the request."""


_REQUEST = """
insert into approvals (execution_id, action, message, expires_at, needed, roles, users, hash, salt)
values (%(execution)s, %(action)s, %(message)s, opsjobs_now() + make_interval(secs => %(expires)s),
        %(needed)s, %(roles)s::text[],
        %(users)s::text[], %(hash)s, %(salt)s)
on conflict (execution_id, action) do nothing returning id"""
_REQUESTED = "select id from approvals where execution_id = %(execution)s and action = %(action)s"
_STATE = """
select e.cancelling, s.requested_by, s.requester, s.job_name, s.labels,
  a.expires_at <= opsjobs_now() as late
from approvals a join job_executions e on e.id = a.execution_id
  join execution_specs s on s.execution_id = e.id where a.id = %s"""
# Those that the check of a decision may let through.
_PENDING = f"""
{APPROVAL} join job_executions e on e.id = a.execution_id
where a.status = 'pending' and not e.cancelling
  and (a.expires_at <= (select opsjobs_now())) is not true{{within}}
order by a.id desc limit %(limit)s"""
_STATES = """
select a.id, e.cancelling, s.requested_by, s.requested_by_kind, s.requester, s.job_name, s.labels,
  false as late
from approvals a join job_executions e on e.id = a.execution_id
  join execution_specs s on s.execution_id = e.id where a.id = any(%s)"""
# An approver may change the decision to a rejection; no person counts twice.
_DECIDE = """
insert into approval_decisions as d (approval_id, person, decided_by, decided_by_kind, decider,
                                     approve, overridden, reason)
values (%(id)s, %(person)s, %(by)s, %(kind)s, %(decider)s, %(approve)s, %(override)s, %(reason)s)
on conflict (approval_id, person) do update set approve = excluded.approve,
  overridden = excluded.overridden,
  reason = excluded.reason, at = excluded.at
where d.approve and (not excluded.approve or excluded.overridden) returning 1"""
_APPROVERS = (
    "select approval_id, decided_by, decider from approval_decisions where approval_id = any(%s) "
    "and approve order by at, person"
)
_COUNT_APPROVALS = "select count(*) as n from approval_decisions where approval_id = %s and approve"
_SETTLE = """
update approvals set status = %(status)s, decided_at = opsjobs_now(), decided_by = %(by)s,
  reason = %(reason)s
where id = %(id)s and status = 'pending'"""
_EXPIRED = """
select id from approvals where status = 'pending' and expires_at <= (select opsjobs_now())
order by expires_at limit %s"""
_CANCEL_LEFT_OVER = """
update approvals a set status = 'cancelled', decided_at = opsjobs_now(),
  reason = 'the execution has ended'
from job_executions e where a.status = 'pending' and e.id = a.execution_id
  and e.finished_at is not null returning a.id"""
# Decided, but not started: the launch was refused and the process that had to end it died, or the
# decision was made by a release without launch approvals.
_NOT_ENDED = """
select e.id, a.id as approval from job_executions e left join approvals a on a.execution_id = e.id
  and a.kind = 'launch'
where e.finished_at is null and e.status = 'pending_approval' and not e.cancelling
  and a.status is distinct from 'pending'
order by e.id limit %s"""


async def request_approval(
    database: Database,
    execution_id: int,
    action: str,
    terms: ApprovalTerms,
    *,
    hash_: str | None = None,
    salt: bytes | None = None,
) -> Approval:
    """Return the approval of an action of an execution; request it if it does not exist."""
    request = {
        "execution": execution_id,
        "action": action,
        "message": terms.message,
        "expires": terms.expires_seconds,
        "needed": terms.needed,
        "roles": list(terms.roles),
        "users": list(terms.users),
        "hash": hash_,
        "salt": salt,
    }
    async with database.transaction() as connection:
        row = await (await connection.execute(_REQUEST, request)).fetchone()
        if row is not None:
            approval = await load_approval(connection, row["id"])
            await append_approval_event(connection, EventType.APPROVAL_REQUESTED, approval)
            return approval
        row = await (await connection.execute(_REQUESTED, request)).fetchone()
        assert row is not None
        return await load_approval(connection, row["id"])


async def decide(database: Database, approval_id: int, ruling: Ruling) -> Approval:
    """Record a decision; once enough are in, waiting runs continue, start or end.

    Raises NotFound, Conflict (decided, late, changed, already approved, cannot start), Forbidden
    and Invalid (model/approval).
    """
    execution_id = await _execution_of(database, approval_id)
    async with database.transaction() as connection:
        await connection.execute(LOCK, {"executions": [execution_id]})
        approval, state = await _load_checked(connection, approval_id, execution_id, ruling)
        await _record_decision(connection, approval, ruling)
        status = await _final_status(connection, approval, ruling)
        if status is not None:
            by = ruling.principal.name
            approval = await _settle(connection, approval, status, by=by, reason=ruling.reason)
        else:
            approval = await load_approval(connection, approval_id)
        await _audit(connection, approval, state["job_name"], ruling)
    if not approval.status.pending:
        await database.retry(lambda: _apply(database, approval))
    return approval


async def check_decision(database: Database, approval_id: int, ruling: Ruling) -> None:
    """Raise as `decide` would now; change nothing, and lock nothing."""
    execution_id = await _execution_of(database, approval_id)
    async with database.transaction() as connection:
        await _load_checked(connection, approval_id, execution_id, ruling)


async def find_approvable(
    database: Database, principal: Principal, find_requester: RequesterLookup
) -> list[int]:
    """Return the pending approvals, by id, that the principal may approve, the newest first.

    The newest PENDING_READ_MAX within reach are checked, each as by `decide`. It is not checked
    whether the plan has changed since the request, because that takes reading all targets. One
    whose requester cannot be looked up now is left out.
    """
    found, requesters = [], _Requesters(find_requester)
    for candidate in await _load_candidates(database, principal):
        with suppress(Refusal, Unavailable):
            requester = None
            if candidate.state["requester"] is None:
                requester = await requesters.find(candidate.state)
            candidate.check(principal, requester)
            found.append(candidate.approval.id)
    return found


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A pending approval, with what its check reads."""

    approval: Approval
    state: Mapping[str, Any]
    authors: Sequence[Author] = ()
    approvers: Sequence[Requester] = ()

    def check(self, principal: Principal, requester: Requester | None = None) -> None:
        """Raise as `decide` would if the principal approved."""
        ruling = Ruling(principal, approve=True, requester=requester)
        _check(self.approval, self.state, ruling, self.authors, self.approvers)


class _Requesters:
    """Look each requester up once; one that was unavailable is not asked for again."""

    def __init__(self, find: RequesterLookup) -> None:
        self._find = find
        self._found: dict[Identity, Requester | Unavailable | None] = {}

    async def find(self, state: Mapping[str, Any]) -> Requester | None:
        """Return the person behind the requester of an execution. Raises Unavailable."""
        identity = Identity(state["requested_by_kind"], state["requested_by"])
        if identity not in self._found:
            try:
                self._found[identity] = await self._find(identity)
            except Unavailable as failed:
                self._found[identity] = failed
        found = self._found[identity]
        if isinstance(found, Unavailable):
            raise found
        return found


async def _load_candidates(database: Database, principal: Principal) -> Sequence[_Candidate]:
    """Return those that the principal may approve as far as the database knows."""
    within, reaching = and_within(principal.reach("approvals:decide"), "s.labels")
    parameters = {"limit": PENDING_READ_MAX, **reaching}
    async with database.transaction() as connection:
        query = _PENDING.format(within=within)
        rows = await (await connection.execute(query, parameters)).fetchall()
        pending = [parse_approval(row) for row in rows]
        ids = [approval.id for approval in pending]
        states = await (await connection.execute(_STATES, [ids])).fetchall()
        state_by_id = {state["id"]: state for state in states}
        candidates = _approvable(
            [_Candidate(approval, state_by_id[approval.id]) for approval in pending], principal
        )
        authors = await load_all_authors(
            connection, [one.approval.execution_id for one in candidates]
        )
        approvers = await _load_approvers(connection, [one.approval.id for one in candidates])
    return _approvable(
        [
            replace(
                one,
                authors=authors[one.approval.execution_id],
                approvers=approvers[one.approval.id],
            )
            for one in candidates
        ],
        principal,
    )


def _approvable(candidates: Sequence[_Candidate], principal: Principal) -> list[_Candidate]:
    """Return those that the principal may approve, as far as is known of each."""
    found = []
    for candidate in candidates:
        with suppress(Refusal):
            candidate.check(principal)
            found.append(candidate)
    return found


async def _load_checked(
    connection: Connection, approval_id: int, execution_id: int, ruling: Ruling
) -> tuple[Approval, Mapping[str, Any]]:
    """Return the approval and the state of its execution if this ruling is allowed."""
    approval = await load_approval(connection, approval_id)
    state = await (await connection.execute(_STATE, [approval_id])).fetchone()
    assert state is not None
    authors: Sequence[Author] = ()
    approvers: Sequence[Requester] = ()
    if ruling.approve:
        authors = await load_authors(connection, execution_id)
        approvers = (await _load_approvers(connection, [approval_id]))[approval_id]
    _check(approval, state, ruling, authors, approvers)
    return approval, state


async def expire_changed(database: Database, approval_id: int) -> None:
    """Close an approval whose plan has changed since the request.

    Raises Conflict if it is already decided.
    """
    await _close(
        database, approval_id, "its content has changed since it was requested", late=False
    )


async def expire(database: Database, limit: int) -> int:
    """Close overdue approvals, and those whose execution has ended; return how many."""
    left_over = await database.fetch(_CANCEL_LEFT_OVER)

    async def close(approval_id: int) -> int:
        with suppress(Conflict):  # it was decided just before the expiry
            await _close(database, approval_id, "it expired before it was decided", late=True)
        return 1

    due = [row["id"] for row in await database.fetch(_EXPIRED, [limit])]
    return len(left_over) + await for_each(database, due, close)


async def end_unbegun(database: Database, limit: int) -> int:
    """End executions whose launch was refused and that are still open; return how many."""

    async def end(execution_id: int) -> int:
        approval = None
        if (approval_id := approvals[execution_id]) is not None:
            async with database.transaction() as connection:
                approval = await load_approval(connection, approval_id)
        await end_waiting(database, execution_id, _refusal(approval, RunStatus.SKIPPED))
        return 1

    approvals = {row["id"]: row["approval"] for row in await database.fetch(_NOT_ENDED, [limit])}
    return await for_each(database, list(approvals), end)


async def _load_approvers(
    connection: Connection, approvals: Sequence[int]
) -> dict[int, list[Requester]]:
    """Return those who have approved, by approval."""
    found: dict[int, list[Requester]] = {approval: [] for approval in approvals}
    rows = await connection.execute(_APPROVERS, [list(approvals)])
    for row in await rows.fetchall():
        found[row["approval_id"]].append(parse_requester(row["decided_by"], row["decider"]))
    return found


def _check(
    approval: Approval,
    state: Mapping[str, Any],
    ruling: Ruling,
    authors: Sequence[Author],
    approvers: Sequence[Requester],
) -> None:
    if not approval.status.pending:
        words = (
            f"Approval {approval.id} is decided already: it is {approval.status.value}. See "
            f"GET /approvals/{approval.id}."
        )
        raise Conflict("approval_decided", words)
    if state["late"] or state["cancelling"]:
        words = "its time has passed" if state["late"] else "its execution is being cancelled"
        raise Conflict(
            "approval_decided", f"Approval {approval.id} cannot be decided any more: {words}."
        )
    if ruling.hash is not None and ruling.hash != approval.hash:
        raise Conflict(
            "approval_changed",
            f"Approval {approval.id}: its content has changed. Read it again and send its hash.",
        )
    requester = parse_requester(state["requested_by"], state["requester"])
    if state["requester"] is None and ruling.requester is not None:
        requester = ruling.requester
    decision: dict[str, Any] = {
        "approve": ruling.approve,
        "override": ruling.override,
        "reason": ruling.reason,
    }
    approval.check(
        ruling.principal,
        requester,
        **decision,
        authors=authors,
        approvers=approvers,
        labels=state["labels"] or {},
    )


async def _record_decision(connection: Connection, approval: Approval, ruling: Ruling) -> None:
    principal = ruling.principal
    decision = {
        "id": approval.id,
        "person": person_of(principal),
        "by": principal.name,
        "kind": principal.kind,
        "decider": Jsonb(Requester.from_principal(principal).data()),
        "approve": ruling.approve,
        "override": ruling.override,
        "reason": ruling.reason,
    }
    if await (await connection.execute(_DECIDE, decision)).fetchone() is None:
        detail = (
            f"{principal.name} has approved already: {approval.needed} different people have "
            f"to approve."
        )
        raise Conflict("approved_already", detail)


async def _final_status(
    connection: Connection, approval: Approval, ruling: Ruling
) -> ApprovalStatus | None:
    if not ruling.approve:
        return ApprovalStatus.REJECTED
    row = await (await connection.execute(_COUNT_APPROVALS, [approval.id])).fetchone()
    assert row is not None
    return ApprovalStatus.APPROVED if ruling.override or row["n"] >= approval.needed else None


async def _audit(connection: Connection, approval: Approval, job_name: str, ruling: Ruling) -> None:
    verb = "approved" if ruling.approve else "rejected"
    if ruling.override:
        verb = "overridden"
    after = {
        "execution": approval.execution_id,
        "status": approval.status.value,
        "hash": approval.hash,
    }
    await audit.record(
        connection,
        f"approval.{verb}",
        "approval",
        approval.id,
        job_name,
        after=after,
        reason=ruling.reason,
    )


async def _close(database: Database, approval_id: int, reason: str, *, late: bool) -> None:
    execution_id = await _execution_of(database, approval_id)
    async with database.transaction() as connection:
        await connection.execute(LOCK, {"executions": [execution_id]})
        approval = await load_approval(connection, approval_id)
        state = await (await connection.execute(_STATE, [approval_id])).fetchone()
        assert state is not None
        if not approval.status.pending or (late and not state["late"]):
            raise Conflict(
                "approval_decided",
                f"Approval {approval_id} is decided already. See GET /approvals.",
            )
        approval = await _settle(
            connection, approval, ApprovalStatus.EXPIRED, by=None, reason=reason
        )
    await database.retry(lambda: _apply(database, approval))


async def _settle(
    connection: Connection,
    approval: Approval,
    status: ApprovalStatus,
    *,
    by: str | None,
    reason: str | None,
) -> Approval:
    """Write the status of an approval and its event, and start an approved launch."""
    await connection.execute(
        _SETTLE, {"id": approval.id, "status": status.value, "by": by, "reason": reason}
    )
    if approval.kind is ApprovalKind.LAUNCH and status is ApprovalStatus.APPROVED:
        await start_approved_launch(connection, approval)
    settled = await load_approval(connection, approval.id)
    if settled.kind is ApprovalKind.LAUNCH and status is not ApprovalStatus.APPROVED:
        words = _refusal(settled, RunStatus.SKIPPED).message
        await connection.execute(
            "update execution_specs set halt_reason = %s where execution_id = %s",
            [words, settled.execution_id],
        )
    await append_approval_event(connection, EventType.APPROVAL_DECIDED, settled)
    return settled


async def _execution_of(database: Database, approval_id: int) -> int:
    found = await database.fetch_one(
        "select execution_id from approvals where id = %s", [approval_id]
    )
    if found is None:
        raise NotFound.for_ref("approval", approval_id)
    execution_id: int = found["execution_id"]
    return execution_id


async def _apply(database: Database, approval: Approval) -> None:
    """End or wake the runs that waited for the approval.

    If this process dies first, the reconciler does it, and the runs read the decision.
    """
    if approval.kind is ApprovalKind.LAUNCH:
        if approval.status is not ApprovalStatus.APPROVED:
            await end_waiting(
                database, approval.execution_id, _refusal(approval, RunStatus.SKIPPED)
            )
        return
    if approval.status is not ApprovalStatus.APPROVED:
        await end_refused(
            database,
            approval.execution_id,
            _refusal(approval, RunStatus.CANCELLED),
            approval.action,
        )
    await wake_answered(database, [approval.execution_id])


def _refusal(approval: Approval | None, status: RunStatus) -> Ending:
    if approval is None:
        return Ending(status, ErrorCode.CANCELLED, "no approval of its start was requested")
    who = f"by {approval.decided_by}" if approval.decided_by else "without a decision"
    why = f": {approval.reason}" if approval.reason else ""
    what = (
        f"the approval {approval.action!r}"
        if approval.kind is ApprovalKind.ACTION
        else "the execution"
    )
    return Ending(
        status, ErrorCode.CANCELLED, f"{what} was {approval.status.value} {who}{why}"[:4_000]
    )
