"""Read access to executions: one, lists, their target runs and results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from psycopg.types.json import Jsonb

from opsjobs.model.access import NOWHERE, UNBOUNDED, Reach
from opsjobs.model.access_bounds import redact_waiting
from opsjobs.model.action import script_line
from opsjobs.model.errors import NotFound
from opsjobs.model.execution import (
    ExecutionStatus,
    RunStatus,
    TriggeredBy,
    moment,
)
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import (
    Acted,
    Captured,
    Execution,
    Result,
    Stretch,
    TargetRun,
    last_line,
    timeline,
)
from opsjobs.store.envelope import mask_parameters
from opsjobs.store.ledger.admission import MAINTENANCE, WAITING_ON, WAVES
from opsjobs.store.paging import (
    FILTER_VALUES_MAX,
    IndexWalk,
    ListColumn,
    Listing,
    Page,
    PageRequest,
)
from opsjobs.store.reference import Reference
from opsjobs.store.run_rows import RUN, parse_error, parse_run, parse_target
from opsjobs.store.scope_sql import LAUNCHED
from opsjobs.store.transaction import Database

_WITHOUT_FAILURE = (RunStatus.WAITING, RunStatus.RUNNING, RunStatus.SUCCEEDED, RunStatus.SKIPPED)
INLINE_BYTES = 64 << 10
"""Maximum number of bytes of a stream in a result; the log has the rest."""
PAGE_BYTES = 8 << 20
"""A page of results ends early if its output would exceed this."""

# A requested cancel or pause is shown as the status until the execution has ended; the status in
# the row does not change.
_EXECUTION = f"""
select e.id, e.uuid, e.job_id, e.job_version, e.number, s.job_name, s.summary, s.triggered_by,
       s.requested_by, s.parameters,
       case when e.finished_at is null and e.cancelling then 'cancelling'
            when e.finished_at is null and e.paused then 'paused' else e.status end as status,
       opsjobs_counts(e) as counts, e.total, e.last_seq, e.log_day, e.created_at, e.started_at,
       e.finished_at,
       s.requested_by_kind, s.labels, s.reason, s.cancelled_by, s.cancel_reason, s.parent_id,
       s.parent_id as parent, s.halt_reason,
       s.judgement,
       case when e.paused then s.paused_by end as paused_by,
       case when e.paused then s.pause_reason end as pause_reason,
       {WAVES} as waves, {WAITING_ON} as waiting_on,
       array(select k.execution_id from execution_specs k where k.parent_id = e.id
             and k.triggered_by = 'retry'
             order by k.execution_id limit 100) as retries,
       s.execution_id as spec_id, e.status as row_status, e.cancelling as asked_cancel,
       e.paused as asked_pause
from job_executions e join execution_specs s on s.execution_id = e.id"""
EXECUTIONS = Listing(
    _EXECUTION,
    {
        "id": ListColumn("integer", sort=True),
        "parent": ListColumn("integer"),
        "job_id": ListColumn("integer", walk=IndexWalk("job_id")),
        "job_name": ListColumn("text", walk=IndexWalk("job_name", "spec_id")),
        "requested_by": ListColumn("text", walk=IndexWalk("requested_by", "spec_id")),
        "status": ListColumn(
            "text",
            walk=IndexWalk(
                "row_status",
                also="(finished_at is not null or not (asked_pause or asked_cancel))",
                cases={
                    "cancelling": "finished_at is null and asked_cancel",
                    "paused": "finished_at is null and asked_pause and not asked_cancel",
                },
            ),
        ),
        "triggered_by": ListColumn("text", walk=IndexWalk("triggered_by", "spec_id")),
        "created_at": ListColumn("moment", sort=True, indexed=True, by_id=True),
        "finished_at": ListColumn("moment", indexed=True),
    },
    labels="labels",
    label_rows="id",
    launched=LAUNCHED,
    facets=("status", "triggered_by", "job_name", "requested_by"),
)
# For each run the end of the last pieces of stderr, if they are among its last 50 pieces of output.
_LAST_STDERR = """
select r.id, l.tail from unnest(%(runs)s::bigint[]) as r(id) cross join lateral (
  select string_agg(t.tail, ''::bytea order by t.seq) as tail from (
    select p.seq, substring(p.data from greatest(length(p.data) - 1023, 1)) as tail from (
      select seq, stream, data from execution_log
      where execution_id = %(execution)s and target_run_id = r.id and event = 'output'
        and log_day = (select e.log_day from job_executions e where e.id = %(execution)s)
      order by seq desc limit 50) p
    where p.stream = 'stderr' and p.data is not null order by p.seq desc limit 3) t) l
where l.tail is not null"""
RUNS = Listing(
    f"{RUN} where execution_id = %(execution)s"
    " and (%(among)s::bigint[] is null or id = any(%(among)s))",
    {
        "position": ListColumn("integer", sort=True),
        "target": ListColumn("text"),
        "target_name": ListColumn("text", sort=True, natural=True),
        "status": ListColumn("text", sort=True),
        "waiting_for": ListColumn("text"),
        "error_code": ListColumn("text"),
        "cancel_proof": ListColumn("text"),
        "duration": ListColumn("integer", sort=True, filter=False),
        "worker": ListColumn("text"),
        "exit_code": ListColumn("integer"),
    },
    default_sort="position",
    search=("target_name",),
    facets=("status", "error_code", "cancel_proof"),
)
RESULTS = Listing(
    """
select x.id, x.execution_id, x.target_run_id, x.target_run_id as target_run, r.target_id,
       r.target_id as target, r.target_name,
       r.target_host, x.action, x.action as action_key, x.attempt, x.status, x.exit_code,
       x.error_code, x.error_message, x.worker,
       x.cancel_proof, x.started_at, x.finished_at, x.inherited_from,
       greatest(x.stdout_stored, x.stdout_bytes) as stdout_bytes,
       greatest(x.stderr_stored, x.stderr_bytes) as stderr_bytes,
       coalesce(x.command, c.command) as command, c.interpreter, c.args
from job_execution_results x join target_runs r on r.id = x.target_run_id left join (
  select a ->> 'key' as key, a ->> 'command' as command, a ->> 'interpreter' as interpreter,
    a -> 'args' as args
  from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = %(execution)s offset 0
) c on c.key = x.action
where x.execution_id = %(execution)s""",
    {
        "id": ListColumn("integer", sort=True),
        "target": ListColumn("text"),
        "target_name": ListColumn("text"),
        "target_run": ListColumn("integer"),
        "action_key": ListColumn("text"),
        "attempt": ListColumn("integer"),
        "status": ListColumn("text"),
        "exit_code": ListColumn("integer"),
        "error_code": ListColumn("text"),
        "inherited_from": ListColumn("integer"),
    },
    default_sort="id",
)
# Up to the first gap, the stored bytes are those of the stream from byte 0 on: cut there, they are
# an exact prefix of it.
_HEADS = """
select target_run_id, action, attempt, stream,
       substring(string_agg(data, ''::bytea order by start_offset) from 1
                 for least(%(inline)s,
                           coalesce(min(start_offset) filter (where dropped is not null),
                                    %(inline)s))::int) as head
from execution_log
where log_day = %(log_day)s and execution_id = %(execution)s and event = 'output'
  and target_run_id = any(%(runs)s) and start_offset < %(inline)s
group by target_run_id, action, attempt, stream"""
_ACTION_TIMES = """
select x.target_run_id as run_id, x.action, coalesce(a.type, 'command') as type, x.attempt,
  x.started_at, x.finished_at,
  lower(x.logged_in) as auth_at, upper(x.logged_in) as entered_at
from job_execution_results x left join (
  select d ->> 'key' as key, d ->> 'type' as type from execution_specs s
    cross join jsonb_array_elements(s.actions) d
  where s.execution_id = %(execution)s offset 0
) a on a.key = x.action
where x.target_run_id = any(%(runs)s::bigint[]) and x.started_at is not null
  and x.inherited_from is null
order by x.started_at, x.id"""


FOUND_MAX = 10_000
"""The number of executions, the newest ones, that `target` and `label` look through.

So does `q` for summaries, and for names if it is in those of more jobs than a filter may name.
With a reach, `label` looks through as many executions within it, too.
"""
AD_HOC = "ad-hoc"
"""The name of executions without a job, which have a summary."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """The labels of an execution, and its launcher: what a reach is matched against."""

    labels: Mapping[str, str]
    launcher: Identity | None


@dataclass(frozen=True, slots=True)
class ExecutionFind:
    """A search for executions, beside the filters of their list."""

    q: str | None = None
    """A text in the name of the job, or in the summary if there is none, in any case."""
    target: str | None = None
    """The id or name of a target that they run on."""
    labels: Sequence[str] = ()
    """Labels that they have, such as `env=prod`."""


_JOBS_NAMED = """
select name from (select name from jobs where strpos(lower(name), lower(%(q)s)) > 0
  union select 'ad-hoc' where strpos('ad-hoc', lower(%(q)s)) > 0) n order by name limit %(limit)s"""
# The text of each is in its index: no row is read for it.
_SUMMARIZED = """
select id from (select execution_id as id, summary from execution_specs where summary is not null
  order by execution_id desc limit %(limit)s) s
where strpos(lower(summary), lower(%(q)s)) > 0"""
_WITH_SUMMARY = "job_name = 'ad-hoc' and strpos(lower(summary), lower(%(q)s)) > 0"
_WITH_LABEL = "labels @> %(label)s"
_WITH_TEXT = """
(strpos(lower(job_name), lower(%(q)s)) > 0 or strpos(lower(summary), lower(%(q)s)) > 0)"""
_TEXTS = ("job_name", "summary")
_ON_TARGET = """
select execution_id as id from target_runs where target_id = any(array(
  select %(value)s union select id::text from targets where name = %(value)s))
order by id desc limit %(limit)s"""
_LABELLED = """
select execution_id as id from execution_labels where md5(key || '=' || value) = md5(%(value)s)
order by execution_id desc limit %(limit)s"""

_OWNERSHIP = """
select labels, requested_by, requested_by_kind from execution_specs where execution_id = %s"""
_COUNT_OPEN = """
select count(*) as n from (
  select from job_executions e join execution_specs s on s.execution_id = e.id
  where e.finished_at is null and s.requested_by = %s and s.requested_by_kind = %s
    limit %s) counted"""


class Executions:
    """Read access to executions; each read returns a bounded number of rows.

    Raises Invalid for a wrong filter, order or cursor.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, ref: str | int, reach: Reach = NOWHERE) -> Execution:
        """Return an execution by id or uuid. Raises NotFound.

        `reach`: the executions that the viewer may see; of no other does the answer tell.
        """
        named = Reference.require("execution", ref)
        row = await self._database.fetch_one(
            f"{_EXECUTION} where e.id = %(id)s or e.uuid = %(uuid)s",
            {"id": named.id, "uuid": named.uuid},
        )
        if row is None:
            raise NotFound.for_ref("execution", ref)
        return _execution(row, reach)

    async def with_waiting_reason(self, execution: Execution) -> Execution:
        """Return the execution with the reason why its runs do not start.

        The reason is added only if no run is running and nothing holds the execution as a whole.
        """
        waits = execution.counts.get(RunStatus.WAITING, 0) and not execution.counts.get(
            RunStatus.RUNNING, 0
        )
        if (
            not waits
            or execution.waiting_on is not None
            or execution.status is ExecutionStatus.CANCELLING
        ):
            return execution
        return replace(execution, waiting_on=await find_hold_reason(self._database, execution.id))

    async def count_open(self, requested_by: Identity, *, at_most: int) -> int:
        """Count the executions of an identity that have not ended, up to a number."""
        values = [requested_by.name, requested_by.kind, at_most]
        row = await self._database.fetch_one(_COUNT_OPEN, values)
        assert row is not None
        return int(row["n"])

    async def first_approval_requested_at(self, executions: Sequence[int]) -> datetime | None:
        """Return the earliest request time of the granted approvals of these executions.

        None if no approval was granted.
        """
        query = (
            "select min(asked_at) as at from approvals where execution_id = any(%s) and status "
            "= 'approved'"
        )
        row = await self._database.fetch_one(query, [list(executions)])
        return None if row is None else row["at"]

    async def list(
        self, request: PageRequest, reach: Reach | None = None, find: ExecutionFind | None = None
    ) -> Page[Execution]:
        """Return executions within reach, newest first.

        Filters and orders are those of EXECUTIONS. `find`: only what it finds.
        """
        if find is not None:
            request = await self._find(request, find, reach)
        page = await EXECUTIONS.page(self._database, request, reach=reach)
        return page.map(partial(_execution, reach=reach or UNBOUNDED))

    async def _find(
        self, request: PageRequest, find: ExecutionFind, reach: Reach | None
    ) -> PageRequest:
        """Return the request for what is found, and for the counts of its values.

        A text becomes a filter of names of jobs, which also holds for their counts. If it is in
        the names of very many jobs, it becomes the ids of what fits all filters: the counts of a
        column are of what fits the others.
        """
        among = await self._find_among(find, reach)
        narrowed = await self._narrow(request, find.q, among, reach)
        if find.q is None:
            return narrowed
        counted = {}
        for name in request.facets:
            others = {key: values for key, values in request.filters.items() if key != name}
            if len(others) < len(request.filters):
                other = replace(request, filters=others)
                counted[name] = await self._narrow(other, find.q, among, reach)
            elif name == "job_name":
                counted[name] = narrowed
        return replace(narrowed, counted=counted)

    async def _find_among(self, find: ExecutionFind, reach: Reach | None) -> set[int] | None:
        """Return the executions that are found by target and labels; None without these."""
        found = [await self._labelled(label, reach) for label in find.labels]
        if find.target is not None:
            found.append(await self._indexed(_ON_TARGET, find.target))
        return set.intersection(*found) if found else None

    async def _labelled(self, label: str, reach: Reach | None) -> set[int]:
        """Return the last 10,000 executions with this label.

        With a reach, those among the last 10,000 within it, too: all executions with the label
        that one may see can be older than the last 10,000 of all callers.
        """
        found = await self._indexed(_LABELLED, label)
        if len(found) < FOUND_MAX or reach is None or reach.everywhere:
            return found
        key, _, value = label.partition("=")
        values = {"label": Jsonb({key: value})}
        return found.union(
            await self._newest_matching(_WITH_LABEL, PageRequest(), reach, ("labels",), values)
        )

    async def _indexed(self, query: str, value: str) -> set[int]:
        """Return the last 10,000 executions that an index finds for a value."""
        rows = await self._database.fetch(query, {"value": value, "limit": FOUND_MAX})
        return {row["id"] for row in rows}

    async def _narrow(
        self, request: PageRequest, q: str | None, among: set[int] | None, reach: Reach | None
    ) -> PageRequest:
        """Return the request, narrowed to executions with this text, and among these."""
        if q is not None:
            request = await self._narrow_to_text(q, request, reach)
        if among is None:
            return request
        within = among if request.among is None else among & set(request.among)
        return replace(request, among=sorted(within))

    async def _narrow_to_text(
        self, q: str, request: PageRequest, reach: Reach | None
    ) -> PageRequest:
        """Return the request, narrowed to executions with this text in their name or summary."""
        wanted = request.filters.get("job_name")
        names = await self._names_with(q, wanted)
        if names is None:
            with_text = await self._newest_matching(_WITH_TEXT, request, reach, _TEXTS, {"q": q})
            return replace(request, among=with_text)
        found: Sequence[int] = ()
        if AD_HOC not in names and (wanted is None or AD_HOC in wanted):
            found = await self._summarized(q, reach)
        if not names:
            return replace(request, among=found)
        filters = {**request.filters, "job_name": names}
        return replace(request, filters=filters, exempt={"job_name": found} if found else {})

    async def _names_with(self, q: str, wanted: Sequence[str] | None) -> Sequence[str] | None:
        """Return the names of jobs with this text, among `wanted`; None if there are too many."""
        if wanted is not None:
            return [name for name in wanted if q.lower() in name.lower()]
        values = {"q": q, "limit": FILTER_VALUES_MAX + 1}
        names = [row["name"] for row in await self._database.fetch(_JOBS_NAMED, values)]
        return names if len(names) <= FILTER_VALUES_MAX else None

    async def _summarized(self, q: str, reach: Reach | None) -> Sequence[int]:
        """Return those of the last 10,000 ad-hoc executions that have this text.

        With a reach, of the last 10,000 executions within it, of jobs or not: an index finds
        these, however few of all executions they are.
        """
        if reach is None or reach.everywhere:
            rows = await self._database.fetch(_SUMMARIZED, {"q": q, "limit": FOUND_MAX})
            return [row["id"] for row in rows]
        return await self._newest_matching(_WITH_SUMMARY, PageRequest(), reach, _TEXTS, {"q": q})

    async def _newest_matching(
        self,
        matching: str,
        request: PageRequest,
        reach: Reach | None,
        of: Sequence[str],
        values: Mapping[str, Any],
    ) -> Sequence[int]:
        """Return those of the last 10,000 executions of a request that match, within reach.

        `matching`: a condition over the columns `of`, with these `values`.
        """
        return await EXECUTIONS.newest(
            self._database,
            replace(request, sort=None, q=None),
            FOUND_MAX,
            reach=reach,
            matching=matching,
            of=of,
            values=values,
        )

    async def ownership(self, execution_id: int) -> Ownership:
        """Return what scopes are matched against, of an existing execution."""
        row = await self._database.fetch_one(_OWNERSHIP, [execution_id])
        if row is None:
            return Ownership({}, None)
        return Ownership(row["labels"], Identity(row["requested_by_kind"], row["requested_by"]))

    async def list_waiting_zones(self, execution_id: int) -> Sequence[str]:
        """Return the zones in which runs of the execution wait, to notify workers there."""
        query = (
            "select distinct zone from target_runs where execution_id = %s and status = 'waiting'"
        )
        return [row["zone"] for row in await self._database.fetch(query, [execution_id])]

    async def runs(
        self, execution_id: int, request: PageRequest, *, among: Collection[int] | None = None
    ) -> Page[TargetRun]:
        """Return target runs in launch order, or only those `among` these ids.

        Filters and orders are those of RUNS.
        """
        given = {"execution": execution_id, "among": None if among is None else list(among)}
        page = await RUNS.page(self._database, request, given)
        failed = [row["id"] for row in page.items if row["status"] not in _WITHOUT_FAILURE]
        tails = (
            await self._database.fetch(_LAST_STDERR, {"execution": execution_id, "runs": failed})
            if failed
            else []
        )
        words = {
            row["id"]: last_line(row["tail"].decode("utf-8", "replace")) or None for row in tails
        }
        return page.map(lambda row: replace(parse_run(row), last_stderr=words.get(row["id"])))

    async def runs_by_id(self, run_ids: Collection[int]) -> dict[int, TargetRun]:
        """Return these target runs by id; the caller bounds how many."""
        rows = await self._database.fetch(f"{RUN} where id = any(%s::bigint[])", [list(run_ids)])
        return {row["id"]: parse_run(row) for row in rows}

    async def run_of(self, execution_id: int, target: str) -> TargetRun:
        """Return the run of one target, by the target's id or else its name. Raises NotFound."""
        rows: Sequence[TargetRun] = ()
        for column in ("target", "target_name"):
            rows = (
                rows
                or (
                    await self.runs(execution_id, PageRequest(limit=1, filters={column: [target]}))
                ).items
            )
        if not rows:
            raise NotFound(
                "target_not_found",
                f"Execution {execution_id} has no target {target[:60]!r}: see its /targets.",
            )
        return rows[0]

    async def names(self, execution_id: int) -> dict[int, str]:
        """Return the target names of all runs, by run id: at most MAX_TARGETS_PER_JOB."""
        rows = await self._database.fetch(
            "select id, target_name from target_runs where execution_id = %s", [execution_id]
        )
        return {row["id"]: row["target_name"] for row in rows}

    async def results(self, execution: Execution, request: PageRequest) -> Page[Result]:
        """Return results in the order they began, with the start of their output.

        Filters are those of RESULTS.
        """
        page = await RESULTS.page(self._database, request, {"execution": execution.id})
        fitting = _count_fitting(page.items)
        if fitting < len(page.items):
            page = await RESULTS.page(
                self._database, replace(request, limit=fitting), {"execution": execution.id}
            )
        heads = (
            await self._heads(execution, [row["target_run_id"] for row in page.items])
            if page.items
            else {}
        )
        return page.map(lambda row: _result(row, heads))

    async def timeline(self, execution: Execution, request: PageRequest) -> Page[Stretch]:
        """Return the phases of a page of runs, with their times.

        Filters and orders are those of RUNS.
        """
        page = await self.runs(execution.id, request)
        rows = await self._database.fetch(
            _ACTION_TIMES, {"execution": execution.id, "runs": [run.id for run in page.items]}
        )
        acted: dict[int, list[Acted]] = {}
        for row in rows:
            acted.setdefault(row["run_id"], []).append(Acted(**row))
        stretches = [
            s
            for run in page.items
            for s in timeline(execution.created_at, run, acted.get(run.id, ()))
        ]
        return Page(stretches, page.next, page.total)

    async def _heads(
        self, execution: Execution, runs: Sequence[int]
    ) -> dict[tuple[Any, ...], bytes]:
        rows = await self._database.fetch(
            _HEADS, {**_parameters(execution), "runs": list(set(runs))}
        )
        return {
            (r["target_run_id"], r["action"], r["attempt"], r["stream"]): r["head"] or b""
            for r in rows
        }


def _parameters(execution: Execution) -> dict[str, Any]:
    return {"execution": execution.id, "log_day": execution.log_day, "inline": INLINE_BYTES}


def _count_fitting(rows: Sequence[Mapping[str, Any]]) -> int:
    total = 0
    for index, row in enumerate(rows):
        total += (
            min(row["stdout_bytes"], INLINE_BYTES)
            + min(row["stderr_bytes"], INLINE_BYTES)
            + len(row["command"] or "")
        )
        if total > PAGE_BYTES and index:
            return index
    return len(rows)


def _execution(row: Mapping[str, Any], reach: Reach) -> Execution:
    return Execution(
        id=row["id"],
        uuid=str(row["uuid"]),
        job_id=row["job_id"],
        job_version=row["job_version"],
        number=row["number"],
        job_name=row["job_name"],
        summary=row["summary"],
        status=ExecutionStatus(row["status"]),
        triggered_by=TriggeredBy(row["triggered_by"]),
        requested_by=Identity(row["requested_by_kind"], row["requested_by"]),
        parameters=mask_parameters(row["parameters"]),
        counts=row["counts"],
        total_targets=row["total"],
        last_seq=row["last_seq"],
        log_day=row["log_day"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        reason=row["reason"],
        cancelled_by=row["cancelled_by"],
        cancel_reason=row["cancel_reason"],
        parent=row["parent_id"],
        halt_reason=row["halt_reason"],
        paused_by=row["paused_by"],
        pause_reason=row["pause_reason"],
        waves=row["waves"],
        waiting_on=redact_waiting(
            row["waiting_on"], everything=reach.everywhere, alike=reach.holds(row["labels"])
        ),
        retries=tuple(row["retries"]),
        labels=row["labels"],
        judgement=row["judgement"],
    )


def _result(row: Mapping[str, Any], heads: Mapping[tuple[Any, ...], bytes]) -> Result:
    key = (row["target_run_id"], row["action"], row["attempt"])
    return Result(
        id=row["id"],
        execution_id=row["execution_id"],
        target_run=row["target_run_id"],
        target=parse_target(row),
        action_key=row["action"],
        attempt=row["attempt"],
        status=RunStatus(row["status"]),
        exit_code=row["exit_code"],
        stdout=_captured(heads.get((*key, "stdout"), b""), row["stdout_bytes"]),
        stderr=_captured(heads.get((*key, "stderr"), b""), row["stderr_bytes"]),
        error=parse_error(row),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        command=_command_line(row),
        worker=row["worker"],
        cancel_proof=row["cancel_proof"],
        inherited_from=row["inherited_from"],
    )


def _command_line(row: Mapping[str, Any]) -> str | None:
    if row["command"] is None and row["interpreter"] is not None:
        return script_line(row["interpreter"], row["args"] or ())
    command: str | None = row["command"]
    return command


def _captured(head: bytes, total_bytes: int) -> Captured:
    # The log is read after the row: the output of a running action may have grown.
    return Captured(head, max(total_bytes, len(head)))


# For an execution without running runs: the reasons why its waiting runs are not claimed, the most
# frequent first. A run that is ready and not claimed is stuck only if no worker of its zone is
# alive.
_HELD_RUNS = f"""
with waiting as (
  select r.zone, r.target_name, r.waiting_for, r.awaits, r.not_before, r.position from target_runs r
  where r.execution_id = %(execution)s and r.status = 'waiting'
    and (r.waiting_for is null or r.waiting_for in ('hold', 'slot'))
), held as (
  select case when waiting_for is null then 'workers' when waiting_for = 'slot' then 'slot'
              when awaits ~ '^{MAINTENANCE}(: |$)' then 'maintenance' else 'hold' end as kind, *
  from waiting
  where waiting_for is not null or not exists (
    select from workers w where w.zone = waiting.zone and w.buried_at is null
      and w.expires_at > (select opsjobs_now()))
)
select kind, count(*) as targets, array_agg(distinct zone) as zones,
  (array_agg(target_name order by position))[1] as target,
  (array_agg(awaits order by position))[1] as awaits, min(not_before) as until
from held group by kind order by kind = 'workers' desc, kind = 'maintenance' desc,
  count(*) desc limit 1"""


async def find_hold_reason(database: Database, execution_id: int) -> dict[str, Any] | None:
    """Return why the waiting runs of an execution do not start, as its `waiting_on`.

    None if nothing holds them.
    """
    row = await database.fetch_one(_HELD_RUNS, {"execution": execution_id})
    if row is None:
        return None
    reason = {
        "kind": row["kind"],
        "reason": _reason(row),
        "targets": row["targets"],
        "target": row["target"],
    }
    if row["kind"] == "workers":
        return {**reason, "zones": row["zones"]}
    return {**reason, "until": moment(row["until"])}


def _reason(row: Mapping[str, Any]) -> str:
    count, first = row["targets"], row["target"]
    those = first if count == 1 else f"{first} and {count - 1} more targets"
    until = f" until {moment(row['until'])}" if row["until"] is not None else ""
    match row["kind"]:
        case "workers":
            zones = ", ".join(row["zones"])
            return (
                f"no worker runs in the zone {zones}, in which {count} "
                f"target{'s wait' if count > 1 else ' waits'}"
            )
        case "maintenance":
            why = row["awaits"].removeprefix(MAINTENANCE)
            return f"{those} {'is' if count == 1 else 'are'} under maintenance{until}{why}"
        case "slot":
            return f"all slots of {those} are taken by other executions"
        case _:
            return f"{those} {'is' if count == 1 else 'are'} held{until}: {row['awaits']}"
