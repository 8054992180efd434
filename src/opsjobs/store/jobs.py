"""Jobs and their immutable versions: every change adds a version and appends an event."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access import Reach, labels_of
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.errors import Conflict, NotFound, Precondition
from opsjobs.model.events import EventType
from opsjobs.model.execution import moment
from opsjobs.model.job import Job, JobDraft, JobState, differences
from opsjobs.model.safety_verdict import UNASKED, Vetted
from opsjobs.store import audit, idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.job_versions import has_new_author, write_version
from opsjobs.store.ledger.launch import refuse_state
from opsjobs.store.outbox import append_event
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import Reference, check_basis, unique_name
from opsjobs.store.scheduling import schedules
from opsjobs.store.scope_checks import check_job_name
from opsjobs.store.scope_sql import OF_JOB
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.triggers import delete_triggers_of

# Maximum number of changed fields that the audit log names per change.
CHANGES_TOLD = 100


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job at its current version. `status` is computed from its state and last execution."""

    job: Job
    status: str
    created_at: datetime
    updated_at: datetime
    created_by: str
    judgement: Mapping[str, Any] | None = None

    @property
    def labels(self) -> dict[str, str]:
        """The labels that scopes match against: the tags of the job."""
        return labels_of(self.job.definition.tags)

    def data(self) -> dict[str, Any]:
        """Return the body of GET /jobs/{id}, which is also the `data` of its events."""
        return {
            "id": self.job.id,
            "uuid": self.job.uuid,
            "version": self.job.version,
            "status": self.status,
            **self.job.definition.model_dump(mode="json"),
            "state": self.job.state.value,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
            "created_by": self.created_by,
            "verdict": self.judgement["verdict"] if self.judgement is not None else None,
            "findings": list(self.judgement["findings"]) if self.judgement is not None else [],
        }


@dataclass(frozen=True, slots=True)
class JobSummary:
    """The state of a job that is checked before each of many launches."""

    id: int
    name: str
    version: int
    state: JobState
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a job, as it was written."""

    version: int
    definition: JobDraft
    created_at: datetime
    created_by: str

    def data(self) -> dict[str, Any]:
        """Return an item of GET /jobs/{id}/versions."""
        written = self.definition.model_dump(mode="json", exclude={"state"})
        return {
            "version": self.version,
            **written,
            "created_at": moment(self.created_at),
            "created_by": self.created_by,
        }


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of an apply for one job, including of a dry run.

    `change` is created, updated or unchanged; `paths` are pointers to the differences.
    """

    name: str
    change: str
    paths: Sequence[str]
    job: StoredJob | None = None

    def data(self) -> dict[str, Any]:
        """Return an item of the response of POST /jobs/apply."""
        known = (
            {"id": self.job.job.id, "version": self.job.job.version}
            if self.job is not None
            else {"id": None, "version": None}
        )
        return {"name": self.name, "change": self.change, "paths": list(self.paths), **known}


# A version with its actions and targets as JSON; `v` is job_versions.
_DEFINITION = """
v.name, v.description, v.job_type, v.tags, v.policy, v.parameters, v.judgement,
(select jsonb_agg(a.definition order by a.position) from job_actions a
 where a.job_id = v.job_id and a.version = v.version) as actions,
(select coalesce(jsonb_agg(jsonb_build_array(t.kind, t.value) order by t.position), '[]')
  from job_targets t
 where t.job_id = v.job_id and t.version = v.version) as targets"""

_SELECT = f"""
select j.id, j.uuid, j.state, j.version, j.created_at, j.updated_at, j.created_by, {_DEFINITION},
  case when j.state = 'archived' then 'deleted'
       when j.state = 'draft' then 'draft'
       when e.open then 'running'
       when e.status in ('failed', 'partial', 'timeout') then e.status
       when j.state = 'active' and exists (select from job_schedules s where s.job_id = j.id
         and s.deleted_at is null and s.enabled
                    and s.next_due_at is not null) then 'scheduled'
       when e.id is null then 'new'
       when e.status = 'completed' then 'completed'
       else 'cancelled' end as status
from jobs j
join job_versions v on v.job_id = j.id and v.version = j.version
left join lateral (
  select x.id, x.status, x.finished_at is null or exists
      (select from job_executions o where o.job_id = j.id and o.finished_at is null) as open
  from job_executions x where x.job_id = j.id order by x.id desc limit 1) e on true"""

JOBS = Listing(
    f"{_SELECT} where j.state <> 'archived'",
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, natural=True),
        "job_type": ListColumn("text"),
        "state": ListColumn("text"),
        "status": ListColumn("text"),
        "tags": ListColumn("texts"),
        "created_by": ListColumn("text", sort=True),
        "created_at": ListColumn("moment", sort=True),
        "updated_at": ListColumn("moment", sort=True),
    },
    default_sort="-id",
    labels="opsjobs_labels(tags)",
    search=("name", "description"),
    facets=("status", "state", "job_type", "created_by"),
)

VERSIONS = Listing(
    f"select v.version as id, v.version, v.created_at, v.created_by, {_DEFINITION} from "
    f"job_versions v where v.job_id = %(job)s",
    {
        "id": ListColumn("integer", sort=True),
        "version": ListColumn("integer", sort=True),
        "created_by": ListColumn("text"),
        "created_at": ListColumn("moment"),
    },
    default_sort="-version",
    labels="opsjobs_labels(tags)",
)


class Jobs:
    """The jobs that are not deleted; executions keep their own copy of what they need."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def create(
        self,
        draft: JobDraft,
        by: str,
        idem: IdempotentRequest | None = None,
        *,
        vetted: Vetted = UNASKED,
        bounds: Bounds = NO_BOUNDS,
    ) -> StoredJob | Answer:
        """Store a job at version 1; return an Answer if this request was done before.

        Raises Conflict("name_taken"), and Forbidden("name_reserved") if the name is linked to jobs
        outside the caller's scope.
        """

        async def insert(connection: Connection) -> StoredJob:
            stored = await _insert(connection, draft, by, self._clock, vetted)
            await check_job_name(connection, draft.name, bounds, stored.job)
            return stored

        def answer(stored: StoredJob) -> Answer:
            return Answer(201, f"/jobs/{stored.job.id}", stored.data())

        return await idempotency.once(self._database, idem, insert, answer)

    async def get(self, ref: str) -> StoredJob:
        """Return a job at its current version. Raises NotFound, including for a deleted one."""
        reference = Reference.require("job", ref)
        row = await self._database.fetch_one(
            f"{_SELECT} where (j.id = %s or j.uuid = %s) and j.state <> 'archived'",
            [reference.id, reference.uuid],
        )
        if row is None:
            raise NotFound.for_ref("job", ref)
        return _stored(row)

    async def knows(self, ref: str) -> bool:
        """Return True if a job of this name, id or uuid exists and is not deleted."""
        reference = Reference.parse(ref)
        known = [reference.id, reference.uuid] if reference is not None else [None, None]
        query = (
            "select 1 from jobs where (name = %s or id = %s or uuid = %s) and state <> 'archived'"
        )
        return await self._database.fetch_one(query, [ref, *known]) is not None

    async def labels_of(self, ref: str) -> Mapping[str, str] | None:
        """Return the labels of the job of this name, id or uuid; None if there is none."""
        reference = Reference.parse(ref)
        known = [reference.id, reference.uuid] if reference is not None else [None, None]
        query = f"""select {OF_JOB.format("j.id")} as labels from jobs j
            where (j.name = %s or j.id = %s or j.uuid = %s) and j.state <> 'archived'
              order by j.name = %s limit 1"""
        row = await self._database.fetch_one(query, [ref, *known, ref])
        return None if row is None else dict(row["labels"])

    async def labels_by_name(self, names: Collection[str]) -> dict[str, Mapping[str, str]]:
        """Return the labels of these jobs, by name; missing jobs are left out."""
        query = f"""select j.name, {OF_JOB.format("j.id")} as labels from jobs j
            where j.name = any(%s) and j.state <> 'archived'"""
        return {
            row["name"]: row["labels"] for row in await self._database.fetch(query, [list(names)])
        }

    async def summaries(self, ids: Collection[int]) -> dict[int, JobSummary]:
        """Return the states of these jobs, by id, including deleted ones."""
        query = """select j.id, j.name, j.version, j.state, v.tags from jobs j
            join job_versions v on v.job_id = j.id and v.version = j.version where j.id = any(%s)"""
        rows = await self._database.fetch(query, [list(ids)])
        return {
            row["id"]: JobSummary(
                row["id"],
                row["name"],
                row["version"],
                JobState(row["state"]),
                labels_of(row["tags"]),
            )
            for row in rows
        }

    async def list(self, request: PageRequest, reach: Reach | None = None) -> Page[StoredJob]:
        """Return a page of jobs within reach that are not deleted; by default newest first."""
        return (await JOBS.page(self._database, request, reach=reach)).map(_stored)

    async def replace(
        self,
        ref: str,
        draft: JobDraft,
        by: str,
        if_match: Collection[int] | None,
        *,
        vetted: Vetted = UNASKED,
        bounds: Bounds = NO_BOUNDS,
        basis: datetime | None = None,
    ) -> StoredJob:
        """Write the next version, or none if nothing differs (see `has_new_author`).

        `if_match`: the versions that the caller expects; None = any. `basis`: see `check_basis`.
        Raises NotFound, Precondition(412), Conflict("name_taken"), and Forbidden("name_reserved")
        if a new name is linked to jobs outside the caller's scope.
        """
        async with self._database.transaction() as connection:
            old = await _locked(connection, ref, if_match)
            check_basis("job", ref, old.updated_at, basis)
            if old.job.definition == draft and not await has_new_author(
                connection, old.job.id, old.job.version
            ):
                return old
            stored = await _next_version(connection, old, draft, by, vetted)
            if draft.name != old.job.definition.name:
                await check_job_name(connection, draft.name, bounds, stored.job)
        return stored

    async def archive(self, ref: str, by: str, if_match: Collection[int] | None = None) -> None:
        """Delete the job. Raises NotFound, Conflict("job_running"), Precondition(412).

        Its name becomes free, its executions stay.
        """
        await self._database.retry(lambda: self._archive(ref, by, if_match))

    async def check_archive(self, stored: StoredJob) -> None:
        """Raise as `archive` would now; change nothing, and lock nothing."""
        _refuse_running(stored, await self._database.fetch_one(_RUNNING, [stored.job.id]))

    async def _archive(self, ref: str, by: str, if_match: Collection[int] | None) -> None:
        job_id = (await self.get(ref)).job.id
        async with self._database.transaction() as connection:
            await schedules.lock_schedules_of(connection, job_id)
            old = await _locked(connection, ref, if_match)
            running = await connection.execute(_RUNNING, [old.job.id])
            _refuse_running(old, await running.fetchone())
            query = """update jobs set state = 'archived', archived_at = opsjobs_now(),
            updated_at = opsjobs_now()
                where id = %s"""
            await connection.execute(query, [old.job.id])
            await schedules.delete_schedules_of(connection, old.job.id, by)
            await delete_triggers_of(connection, old.job.id)
            gone = await _load(connection, old.job.id, None)
            data = {**gone.data(), "deleted_by": by}
            await append_event(
                connection, EventType.JOB_DELETED, gone.job.uuid, data, shard=gone.job.id
            )
            before = {"version": old.job.version}
            await audit.record(
                connection, "job.deleted", "job", old.job.id, old.job.definition.name, before=before
            )

    async def pause(self, ref: str, *, paused: bool) -> StoredJob:
        """Pause or resume the job. Raises NotFound, Conflict("job_is_draft").

        No execution of a paused job starts until it is resumed.
        """
        async with self._database.transaction() as connection:
            old = await _locked(connection, ref, None)
            check_pausable(old)
            state = JobState.PAUSED if paused else JobState.ACTIVE
            if old.job.state is state:
                return old
            await connection.execute(
                "update jobs set state = %s, updated_at = opsjobs_now() where id = %s",
                [state.value, old.job.id],
            )
            action = "job.paused" if paused else "job.resumed"
            await audit.record(connection, action, "job", old.job.id, old.job.definition.name)
            return await _load(connection, old.job.id, EventType.JOB_UPDATED)

    async def apply(
        self,
        drafts: Sequence[JobDraft],
        by: str,
        *,
        dry_run: bool,
        vetted: Mapping[str, Vetted] | None = None,
        bounds: Bounds = NO_BOUNDS,
    ) -> Sequence[Applied]:
        """Create or update the jobs of these names to match the drafts, all or none.

        `dry_run` only returns the changes. `vetted`: by name, the verdict of the safety check.
        `bounds`: those of the creator of new jobs; raises Forbidden("name_reserved") if a name is
        linked to jobs outside of them.
        """
        vetted = vetted or {}
        async with self._database.transaction() as connection:
            # Sorted by name, so that two applies of the same jobs wait for each other without a
            # deadlock.
            by_name = sorted(drafts, key=lambda draft: draft.name)
            done = [
                await _apply(
                    connection,
                    draft,
                    by,
                    self._clock,
                    vetted.get(draft.name, UNASKED),
                    dry_run=dry_run,
                )
                for draft in by_name
            ]
            for one in done:
                if one.change == "created":
                    await check_job_name(
                        connection, one.name, bounds, one.job.job if one.job is not None else None
                    )
        applied = {one.name: one for one in done}
        return [applied[draft.name] for draft in drafts]

    async def versions(
        self, job_id: int, request: PageRequest, reach: Reach | None = None
    ) -> Page[StoredVersion]:
        """Return a page of versions that were within reach as written; by default newest first."""
        return (await VERSIONS.page(self._database, request, {"job": job_id}, reach=reach)).map(
            _version
        )


def check_pausable(stored: StoredJob) -> None:
    """Raise Conflict("job_is_draft") if the job can neither be paused nor resumed."""
    if stored.job.state is JobState.DRAFT:
        detail = (
            f"The job {stored.job.definition.name!r} is a draft, which is not executed "
            f"anyway: set its state to active."
        )
        raise Conflict("job_is_draft", detail)


_RUNNING = (
    "select id from job_executions where job_id = %s and finished_at is null order by id limit 1"
)


def _refuse_running(stored: StoredJob, running: Mapping[str, Any] | None) -> None:
    if running is not None:
        detail = (
            f"The job {stored.job.definition.name!r} is running: wait for execution "
            f"{running['id']}, or cancel it."
        )
        raise Conflict("job_running", detail)


async def _apply(
    connection: Connection, draft: JobDraft, by: str, clock: Clock, vetted: Vetted, *, dry_run: bool
) -> Applied:
    query = "select id, version from jobs where name = %s and state <> 'archived' for no key update"
    row = await (await connection.execute(query, [draft.name])).fetchone()
    if row is None:
        if dry_run:
            return Applied(draft.name, "created", ["/"])
        return Applied(
            draft.name, "created", ["/"], await _insert(connection, draft, by, clock, vetted)
        )
    old = await _load(connection, row["id"], None)
    changes = differences(old.job.definition.model_dump(mode="json"), draft.model_dump(mode="json"))
    if not changes and await has_new_author(connection, old.job.id, old.job.version):
        changes = ["/parameters"]
    if not changes or dry_run:
        return Applied(draft.name, "updated" if changes else "unchanged", changes, old)
    return Applied(
        draft.name, "updated", changes, await _next_version(connection, old, draft, by, vetted)
    )


async def _insert(
    connection: Connection, draft: JobDraft, by: str, clock: Clock, vetted: Vetted
) -> StoredJob:
    query = "insert into jobs (uuid, name, state, created_by) values (%s, %s, %s, %s) returning id"
    with unique_name("job", draft.name):
        row = await (
            await connection.execute(query, [uuid7(clock.now()), draft.name, draft.state, by])
        ).fetchone()
    assert row is not None
    await write_version(connection, row["id"], 1, draft, by, vetted=vetted)
    after = {"version": 1, "state": draft.state, "actions": len(draft.actions)}
    await audit.record(connection, "job.created", "job", row["id"], draft.name, after=after)
    return await _load(connection, row["id"], EventType.JOB_CREATED)


async def _next_version(
    connection: Connection, old: StoredJob, draft: JobDraft, by: str, vetted: Vetted
) -> StoredJob:
    version = old.job.version + 1
    await write_version(connection, old.job.id, version, draft, by, vetted=vetted)
    # A draft has no state "paused": changing a job does not resume it.
    state = (
        "paused" if old.job.state is JobState.PAUSED and draft.state == "active" else draft.state
    )
    query = (
        "update jobs set name = %s, state = %s, version = %s, updated_at = opsjobs_now() where "
        "id = %s"
    )
    with unique_name("job", draft.name):
        await connection.execute(query, [draft.name, state, version, old.job.id])
    # Only the places of differences are recorded: the versions themselves are stored.
    changed = differences(old.job.definition.model_dump(mode="json"), draft.model_dump(mode="json"))
    after = {"version": version, "changed": changed[:CHANGES_TOLD]}
    before = {"version": old.job.version}
    await audit.record(
        connection, "job.updated", "job", old.job.id, draft.name, before=before, after=after
    )
    return await _load(connection, old.job.id, EventType.JOB_UPDATED)


async def _locked(connection: Connection, ref: str, if_match: Collection[int] | None) -> StoredJob:
    # Locked in a separate statement, so that the next one reads the rows committed by the
    # transaction before.
    reference = Reference.require("job", ref)
    query = (
        "select id, version from jobs where (id = %s or uuid = %s) and state <> 'archived' for "
        "no key update"
    )
    row = await (await connection.execute(query, [reference.id, reference.uuid])).fetchone()
    if row is None:
        raise NotFound.for_ref("job", ref)
    if if_match is not None and row["version"] not in if_match:
        detail = (
            f"The job is at version {row['version']} by now: read it again, and send its ETag "
            f"as If-Match."
        )
        raise Precondition("stale_version", detail, status=412)
    return await _load(connection, row["id"], None)


async def _load(connection: Connection, job_id: int, event: EventType | None) -> StoredJob:
    """Return the job, after appending the event for its new state, if one is given."""
    row = await (await connection.execute(f"{_SELECT} where j.id = %s", [job_id])).fetchone()
    assert row is not None
    stored = _stored(row)
    if event is not None:
        await append_event(connection, event, stored.job.uuid, stored.data(), shard=job_id)
    return stored


def _stored(row: DictRow) -> StoredJob:
    state = JobState(row["state"])
    # Callers cannot write the states paused and archived: for these the draft has the state before.
    draft = _draft(row, "draft" if state is JobState.DRAFT else "active")
    job = Job(row["id"], str(row["uuid"]), row["version"], state, draft)
    return StoredJob(
        job,
        row["status"],
        row["created_at"],
        row["updated_at"],
        row["created_by"],
        row["judgement"],
    )


def _version(row: DictRow) -> StoredVersion:
    return StoredVersion(
        row["version"], _draft(row, "active"), row["created_at"], row["created_by"]
    )


def find_state_refusal(name: str, state: JobState) -> Conflict | None:
    """Return how an execution of a job in this state is refused; None if it is not."""
    return None if state is JobState.ACTIVE else refuse_state(name, state)


def _draft(row: Mapping[str, Any], state: str) -> JobDraft:
    chosen: dict[str, list[str]] = {"id": [], "group": [], "selector": [], "exclude": []}
    for kind, value in row["targets"]:
        chosen[kind].append(value)
    return JobDraft.model_validate(
        {
            "name": row["name"],
            "description": row["description"],
            "job_type": row["job_type"],
            "state": state,
            "tags": row["tags"],
            "policy": row["policy"],
            "parameters": row["parameters"],
            "actions": row["actions"],
            "targets": {
                "ids": chosen["id"],
                "groups": chosen["group"],
                "selector": next(iter(chosen["selector"]), None),
                "exclude": chosen["exclude"],
            },
        },
        context={"stored": True},
    )
