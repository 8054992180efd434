"""The invariants of every execution, whatever was killed, frozen or cut off while it ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from kit.start_witness import Witness

# Each query finds violations of the invariant in its name: no row is the good result.
_BROKEN: Mapping[str, str] = {
    "I5 every accepted run ends": """
select r.execution_id, r.id as target_run, r.target_name, r.status, r.waiting_for, r.worker from target_runs r
join job_executions e on e.id = r.execution_id where e.finished_at is null or r.finished_at is null""",
    "the log is 1, 2, 3 … last_seq": """
select e.id as execution, e.last_seq, count(l.seq) as entries, min(l.seq) as first, max(l.seq) as last
from job_executions e left join execution_log l on l.execution_id = e.id and l.log_day = e.log_day
group by e.id having count(l.seq) <> e.last_seq or min(l.seq) <> 1 or max(l.seq) <> e.last_seq""",
    "the log's last entry is its only end": """
select e.id as execution, e.last_seq, array_agg(l.seq) as ends from job_executions e
left join execution_log l on l.execution_id = e.id and l.log_day = e.log_day and l.event = 'end'
where e.finished_at is not null group by e.id having array_agg(l.seq) <> array[e.last_seq]""",
    "counters are the runs": """
select e.id as execution, opsjobs_counts(e) as counted, runs.counts from job_executions e join lateral (
  select jsonb_object_agg(status, n) as counts, coalesce(sum(n), 0) as total from (
    select status, count(*) as n from target_runs where execution_id = e.id group by 1) by_status) runs on true
where opsjobs_counts(e) <> coalesce(runs.counts, '{}') or e.total <> runs.total""",
    "I7 slots are held by running runs alone": """
select s.target_id, s.used, s.slots from target_slots s
where s.used <> (select count(*) from target_runs r where r.target_id = s.target_id and r.status = 'running')""",
    "I4 a run has one final state in the log, which is its last word and its row's": """
with word as (
  select execution_id, target_run_id, array_agg(body ->> 'status' order by seq) as words from execution_log
  where event = 'status' and target_run_id is not null group by 1, 2
)
select r.execution_id, r.id as target_run, r.status, word.words from target_runs r left join word on word.target_run_id = r.id
where r.finished_at is not null
  and ((word.words[array_upper(word.words, 1)] = r.status) is not true
       or (select count(*) from unnest(word.words) w where w not in ('running', 'waiting')) <> 1)""",
    "an ended run has its results, all ended, and one that says what the run says": """
select r.execution_id, r.id as target_run, r.status, array_agg(x.status) as results from target_runs r
left join job_execution_results x on x.target_run_id = r.id where r.finished_at is not null
group by r.id
having bool_or(x.status = 'running') is true
  or bool_or(x.status = r.status or (r.status = 'dead' and x.status in ('lost', 'failed', 'timeout', 'unreachable'))) is not true""",
    "I2 an attempt begins only after the one before it is settled": """
select n.execution_id, n.target_run_id, n.action, n.attempt, n.started_at, p.status, p.finished_at
from job_execution_results n join job_execution_results p
  on p.target_run_id = n.target_run_id and p.action = n.action and p.attempt < n.attempt
where p.status = 'running' or p.finished_at > n.started_at""",
    "a run says of no store what cannot be": """
select execution_id, id as target_run, status, store_id, boot_id, sweep_due, late_result from target_runs
where (status = 'waiting' and num_nonnulls(store_id, boot_id) > 0)
   or (finished_at is null and num_nonnulls(sweep_due, late_result) > 0)
   or (sweep_due is not null and (boot_id is null or store_id = 'direct'))""",
    "what was started in a store is cleaned up after": """
select execution_id, id as target_run, status, boot_id, finished_at from target_runs
where finished_at > opsjobs_now() - interval '23 hours' and boot_id is not null and spool_due is null""",
    "a result stands in the log once": """
select x.execution_id, x.target_run_id, x.action, count(l.seq) as entries from job_execution_results x
left join execution_log l on l.execution_id = x.execution_id and l.event = 'result' and l.target_run_id = x.target_run_id
  and l.action = x.action and l.attempt = x.attempt
where x.finished_at is not null and x.started_at is not null and x.inherited_from is null
group by x.id having count(l.seq) <> 1""",
    "I3 chunks follow each other without a gap or an overlap": """
select execution_id, target_run_id, action, stream, seq, start_offset, reached from (
  select *, coalesce(sum(size) over (partition by target_run_id, action, attempt, stream order by seq), 0) - size as reached from (
    select *, coalesce(octet_length(data), dropped) as size from execution_log where event = 'output') sized) chunk
where start_offset <> reached""",
    "I3 what is stored of a stream is what the result says": """
with stored as (
  select target_run_id, action, attempt, stream, sum(coalesce(octet_length(data), dropped)) as bytes from execution_log
  where event = 'output' group by 1, 2, 3, 4
)
select x.execution_id, x.target_run_id, x.action, s.stream, s.bytes, x.stdout_stored, x.stderr_stored from job_execution_results x
cross join (values ('stdout'), ('stderr')) as streams(name)
left join stored s on s.target_run_id = x.target_run_id and s.action = x.action and s.attempt = x.attempt and s.stream = streams.name
where coalesce(s.bytes, 0) <> case streams.name when 'stdout' then x.stdout_stored else x.stderr_stored end""",
    "I3 all that the target wrote is stored, unless contact was lost": """
select execution_id, target_run_id, action, status, stdout_bytes, stdout_stored, stderr_bytes, stderr_stored
from job_execution_results where status not in ('lost', 'dead') and (stdout_bytes, stderr_bytes) <> (stdout_stored, stderr_stored)""",
    "I8 each state of a run is told by one event": """
select l.execution_id, l.seq, l.body, count(v.id) as events from execution_log l
left join events v on v.type = 'target_run' and v.execution_id = l.execution_id and l.seq between v.from_seq and v.to_seq
where l.event = 'status' and l.target_run_id is not null group by 1, 2, 3 having count(v.id) <> 1""",
    "I8 each state of an execution is told by one event": """
select e.id as execution, e.status, array_agg(v.type order by v.id) as told from job_executions e
left join events v on v.execution_id = e.id and v.type like 'execution.%'
where e.finished_at is not null group by e.id
having array_agg(v.type order by v.id) <> array_remove(
  array['execution.queued', case when e.started_at is not null then 'execution.started' end, 'execution.' || e.status], null)""",
}

_RUNS = """
select id, execution_id, target_name, target_host, status, error_code, cancel_proof, exit_code, fence, attempt, finished_at
from target_runs where finished_at is not null"""
_LOG = """
select md5(string_agg(concat_ws('/', l.seq, l.event, l.target_run_id, l.stream, l.start_offset, octet_length(l.data), l.body), ','
           order by l.seq)) as digest, e.id from job_executions e
join execution_log l on l.execution_id = e.id where e.finished_at is not null group by e.id"""


class Invariants:
    """Checks a whole database repeatedly, and remembers ended runs, so that it sees a later change.

    `marks`: the witness's key of executions whose commands were made by `Witness.on_each`, by
    execution id.
    """

    def __init__(self, database_url: Callable[[], str], witness: Witness) -> None:
        self._database_url = database_url
        self._witness = witness
        self._ended_runs: dict[int, DictRow] = {}
        self._ended_logs: dict[int, str] = {}
        self.marks: dict[int, str] = {}

    def check(self) -> None:
        """Raise AssertionError with every violation."""
        with psycopg.connect(
            self._database_url(), autocommit=True, row_factory=dict_row
        ) as connection:
            broken = {
                name: rows
                for name, query in _BROKEN.items()
                if (rows := connection.execute(query.encode()).fetchall())
            }
            runs = {row["id"]: row for row in connection.execute(_RUNS.encode()).fetchall()}
            logs = {
                row["id"]: row["digest"] for row in connection.execute(_LOG.encode()).fetchall()
            }
        also: dict[str, Sequence[object]] = {
            "I1 a command starts at most once": [*self._witness.started_twice().items()],
            "I4 what has ended stays as it is": [
                *_changed(self._ended_runs, runs),
                *_changed(self._ended_logs, logs),
            ],
            "I9 what is said never to have started did not start, and what succeeded did": self._untrue(
                runs
            ),
        }
        self._ended_runs, self._ended_logs = runs, logs
        found = {**broken, **also}
        told = [
            f"{name}: {len(rows)} times, such as {rows[:3]}" for name, rows in found.items() if rows
        ]
        assert not told, "\n".join(told)

    def _untrue(self, runs: Mapping[int, DictRow]) -> list[DictRow]:
        started = self._witness.starts()
        return [
            run
            for run in runs.values()
            if (mark := self.marks.get(run["execution_id"])) is not None
            and not _honest(run, len(started.get(f"{mark}.{run['target_host']}", ())))
        ]


def _honest(run: DictRow, starts: int) -> bool:
    if run["status"] == "succeeded":
        return starts == 1
    never = run["cancel_proof"] == "never_started" or run["status"] in (
        "unreachable",
        "skipped",
        "blocked",
    )
    return starts <= (0 if never else 1)


def _changed(before: Mapping[int, Any], now: Mapping[int, Any]) -> list[tuple[Any, Any]]:
    return [(was, now.get(key)) for key, was in before.items() if now.get(key) != was]
