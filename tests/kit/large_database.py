"""Large databases made by SQL: N executions with two runs each, and N open executions.

Values that a page must not depend on are placed where they cost most: one user, one job and one
status only appear in the oldest executions. A query that walks from the newest until 50 have
matched reads all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

TARGETS = 20_000
JOBS = 1_000
SCHEDULES = 2_000
# The numbers per target, job and schedule; a small database has fewer of these objects.
EXECUTIONS_A_TARGET, EXECUTIONS_A_JOB, EXECUTIONS_A_SCHEDULE = 5, 20, 10
SMALL = 100_000

Steps = tuple[tuple[str, str], ...]
"""Each step: a name, and a statement with `%(n)s` for the number of executions."""

# The last executions are of the last 90 days: their log is kept. At 20 entries each, 1 M executions
# have 5 M entries.
_AT = "now() - interval '360 days' + n * (interval '360 days' / %(n)s)"
_OLD = "n < %(n)s / 20"

HISTORY: Steps = (
    (
        "targets",
        """insert into targets (uuid, name, host, port, transport, platform, labels, groups, host_key_policy, slots, created_at)
select gen_random_uuid(), 'web-' || n, '10.' || n / 65536 || '.' || (n / 256) %% 256 || '.' || n %% 256, 22, 'ssh', 'linux',
  jsonb_build_object('env', case when n %% 3 = 0 then 'staging' else 'prod' end), array['group-' || n %% 20], 'pinned', 10,
  now() - interval '400 days' + n * interval '1 minute' from generate_series(1, %(targets)s) n""",
    ),
    (
        "groups",
        "insert into target_groups (name) select 'group-' || n from generate_series(0, 19) n",
    ),
    ("slots", "insert into target_slots (target_id, slots) select id::text, 10 from targets"),
    (
        "target state",
        "insert into target_state (target_id, store_id, boot_id) select id::text, md5(id::text), 'boot' from targets",
    ),
    (
        "circuits",
        """insert into circuits (target_id, credential_id, login, proven, state, failures, code, since, until)
select id::text, '', md5(id::text), true, case when id %% 100 = 0 then 'open' else 'closed' end, 0,
  case when id %% 100 = 0 then 'auth_failed' end, now(), now() + interval '1 hour' from targets""",
    ),
    (
        "jobs",
        """insert into jobs (uuid, name, state, version, last_number, created_by, created_at)
select gen_random_uuid(), 'job-' || n, case when n %% 10 = 0 then 'paused' else 'active' end, 1, 2000000, 'user-' || n %% 50,
  now() - interval '400 days' + n * interval '1 minute' from generate_series(1, %(jobs)s) n""",
    ),
    (
        "job versions",
        """insert into job_versions (job_id, version, name, description, job_type, tags, policy, created_by)
select id, 1, name, '', 'command', array['env=' || case when id %% 3 = 0 then 'staging' else 'prod' end], '{}', 'ada' from jobs""",
    ),
    (
        "job actions",
        """insert into job_actions (job_id, version, position, key, type, definition)
select id, 1, 1, 'step-1', 'command', '{"key": "step-1", "type": "command", "command": "uptime"}' from jobs""",
    ),
    (
        "job targets",
        """insert into job_targets (job_id, version, position, kind, value)
select id, 1, 1, 'selector', 'env=staging' from jobs""",
    ),
    (
        "executions",
        f"""insert into job_executions (uuid, job_id, job_version, number, log_day, status, "window", priority, total, succeeded, failed,
  timeout, cancelled, lost, last_seq, created_at, started_at, finished_at, named)
select gen_random_uuid(), case when {_OLD} then 1 else 2 + n %% (%(jobs)s - 1) end, 1, n, (at at time zone 'UTC')::date, status, 50, 5, 2,
  case status when 'completed' then 2 when 'partial' then 1 else 0 end, case when status = 'failed' then 2 else 0 end,
  case when status = 'timeout' then 2 else 0 end, case when status = 'cancelled' then 2 else 0 end,
  case when status = 'partial' then 1 else 0 end, 20, at, at + interval '1 s', at + interval '3 s', false
from (select n, {_AT} as at, case when {_OLD} and n %% 10 = 0 then 'timeout' when n %% 500 = 0 then 'partial' when n %% 50 = 0 then 'failed'
                                  when n %% 97 = 0 then 'cancelled' else 'completed' end as status
      from generate_series(1, %(n)s) n) x order by n""",
    ),
    (
        "specs",
        """insert into execution_specs (execution_id, job_name, summary, actions, policy, triggered_by, requested_by, labels, requested_by_kind,
  requester, parent_id)
select id, case when id %% 10 = 9 then 'ad-hoc' else 'job-' || job_id end, case when id %% 10 = 9 then 'systemctl status unit-' || id end,
  '[{"key": "step-1", "type": "command", "command": "uptime", "timeout": null, "expected_exit_codes": [0]}]', '{"durable": "auto"}',
  case when id < %(n)s / 20 and id %% 10 = 0 then 'webhook' when id %% 4 = 0 then 'api' else 'schedule' end,
  case when id < %(n)s / 20 then 'gone' else 'user-' || id %% 50 end,
  jsonb_build_object('env', case when id < %(n)s / 20 then 'retired' when id %% 3 = 0 then 'staging' else 'prod' end), 'user',
  '{"name": "ada", "kind": "user", "person": "ada"}', case when id %% 1000 = 0 then id - 1 end
from job_executions order by id""",
    ),
    (
        "labels of executions",
        """insert into execution_labels (key, value, execution_id)
select l.key, l.value, s.execution_id from execution_specs s cross join jsonb_each_text(s.labels) l where s.labels <> '{}'""",
    ),
    (
        "runs",
        """insert into target_runs (uuid, execution_id, target_id, target_name, target_host, zone, position, status, waiting_for, turn,
  worker, fence, exit_code, error_code, error_message, claimed_at, finished_at, store_id, boot_id)
select gen_random_uuid(), e.id, t::text, 'web-' || t, '10.0.0.1', 'default', p, s, null, 100, 'worker-1', 1,
  case s when 'succeeded' then 0 when 'failed' then 1 end,
  case s when 'failed' then 'nonzero_exit' when 'lost' then 'lost' when 'timeout' then 'command_timeout' end,
  case when s <> 'succeeded' then 'it went wrong' end, e.started_at, e.finished_at, md5(t::text), 'boot'
from job_executions e cross join generate_series(1, 2) p
cross join lateral (select 1 + (e.id * 7 + p * 13) %% %(targets)s as t,
  case when e.failed = 2 then 'failed' when e.timeout = 2 then 'timeout' when e.cancelled = 2 then 'cancelled'
       when e.lost = 1 and p = 2 then 'lost' else 'succeeded' end as s) x order by e.id, p""",
    ),
    (
        "results",
        """insert into job_execution_results (execution_id, target_run_id, action, attempt, status, exit_code, error_code, error_message,
  worker, stdout_stored, stdout_bytes, started_at, finished_at, store_id, boot_id)
select execution_id, id, 'step-1', 1, status, exit_code, error_code, error_message, worker, 60, 60, claimed_at, finished_at, store_id,
  boot_id from target_runs order by id""",
    ),
    (
        "dead letters that were answered",
        """insert into dead_letter_answers (run_id, answer, answered_by)
select id, 'discarded', 'ada' from target_runs where status = 'lost' and execution_id <= %(n)s * 9 / 10""",
    ),
    (
        "days of the log",
        """do $$ declare d date; t text; begin for n in -%(days)s..14 loop
  d := (now() at time zone 'UTC')::date + n; t := 'execution_log_' || to_char(d, 'YYYYMMDD');
  if to_regclass(t) is null then
    execute format('create table %%I (like execution_log including defaults including storage including compression '
                   'including constraints)', t);
    execute format('alter table execution_log attach partition %%I for values from (%%L) to (%%L)', t, d, d + 1);
  end if; end loop; end $$""",
    ),
    (
        "log",
        """insert into execution_log (log_day, execution_id, seq, at, event, target_run_id, target_id, action, attempt, stream,
  start_offset, data, body, lines)
select e.log_day, e.id, s, e.finished_at, case when o then 'output' when s = 20 then 'end' else 'status' end,
  r.id, r.target_id, case when o then 'step-1' end, case when o then 1 end,
  case when o then case when s < 11 then 'stdout' else 'stderr' end end, case when o then (s - case when s < 11 then 2 else 11 end) * 60 end,
  case when o then convert_to(rpad(e.id::text, 60, '.'), 'UTF8') end,
  case when not o then jsonb_build_object('execution', e.id, 'status', e.status) end, case when o then (s in (2, 11))::int end
from job_executions e cross join generate_series(1, 20) s cross join lateral (select s between 2 and 18 as o) x
left join target_runs r on r.execution_id = e.id and r.position = 1 and o
where e.id > %(n)s * 3 / 4 order by e.id, s""",
    ),
    (
        "events",
        """insert into events (shard, type, subject, execution_id, at, published_at)
select id %% 16, 'execution.completed', uuid, id, now() - interval '2 hours', now() - interval '1 hour' from job_executions order by id""",
    ),
    (
        "audit",
        """insert into audit_log (at, actor, actor_kind, person, address, request_id, action, thing, thing_id, thing_name, after, seal, hash)
select created_at, case when id < %(n)s / 20 then 'gone' else 'user-' || id %% 50 end,
  case when id < %(n)s / 20 and id %% 10 = 0 then 'external' else 'user' end,
  case when id < %(n)s / 20 then 'gone' else 'user-' || id %% 50 end, case when id < %(n)s / 20 then '10.9.9.9' else '10.0.0.' || id %% 200 end,
  md5(id::text), case when id < %(n)s / 20 and id %% 10 = 0 then 'job.deleted' else 'execution.launched' end,
  case when id < %(n)s / 20 and id %% 10 = 0 then 'job' else 'execution' end, id::text,
  case when id < %(n)s / 20 then 'job-gone' else 'job-' || job_id end, '{"targets": 2}', id, decode(repeat('00', 32), 'hex')
from job_executions order by job_executions.id""",
    ),
    (
        "schedules",
        """insert into job_schedules (uuid, job_id, name, definition, owner, owner_kind, next_due_at, next_fire_at, firings)
select gen_random_uuid(), 1 + n %% %(jobs)s, 'nightly-' || n,
  '{"name": "nightly", "type": "cron", "cron": "30 2 * * *", "timezone": "UTC", "misfire": "skip", "overlap": "skip",
     "calendars": []}', 'user-' || n %% 50, 'user', now() + interval '1 day', now() + interval '1 day', 100
from generate_series(1, %(schedules)s) n""",
    ),
    (
        "firings",
        """insert into schedule_executions (uuid, schedule_id, kind, due_at, fire_at, status, rule, reason, recorded_at, fired_at,
  execution_id, over)
select gen_random_uuid(), case when id %% 5 = 0 then 1 else 1 + id %% %(schedules)s end,
  case when id < %(n)s / 20 and id %% 10 = 0 then 'trigger' else 'moment' end, created_at, created_at, s,
  case when s <> 'triggered' then 'overlap' end, case when s <> 'triggered' then 'another one ran' end, created_at, created_at,
  case when s = 'triggered' then id end, true
from job_executions cross join lateral (
  select case when id < %(n)s / 20 and id %% 10 = 5 then 'failed' when id %% 50 = 0 then 'skipped' else 'triggered' end as s) x
where id %% 2 = 0 or id < %(n)s / 20 order by id""",
    ),
    (
        "approvals",
        """insert into approvals (execution_id, action, message, status, asked_at, decided_at, decided_by, expires_at)
select id, 'step-1', 'go on?', s, created_at, case when s <> 'pending' then created_at end,
  case when s <> 'pending' then case when id < %(n)s / 20 then 'gone' else 'user-' || id %% 50 end end, created_at + interval '400 days'
from job_executions cross join lateral (
  select case when id < %(n)s / 20 and id %% 100 = 0 then 'rejected' when id > %(n)s * 999 / 1000 then 'pending' else 'approved' end as s) x
where id %% 20 = 0 order by id""",
    ),
    (
        "contents",
        """insert into file_contents (sha256, size, loose) select sha256(convert_to(n::text, 'UTF8')), n, false
from generate_series(1, %(n)s / 50) n""",
    ),
    (
        "files",
        """insert into files (uuid, name, content_id, created_by, created_by_kind, created_at)
select gen_random_uuid(), case when n < 1000 then 'old' else 'file-' || n %% 1000 end, n, case when n < 1000 then 'gone' else 'ada' end,
  'user', now() - interval '90 days' + n * interval '1 minute' from generate_series(1, %(n)s / 50) n""",
    ),
    (
        "artifacts",
        """insert into artifacts (uuid, execution_id, target_run_id, action, attempt, path, content_id)
select gen_random_uuid(), execution_id, id, 'step-1', 1, '/var/log/' || id, 1 + id %% (%(n)s / 50) from target_runs where id %% 10 = 0
order by id""",
    ),
    (
        "idempotency keys",
        """insert into idempotency_keys (principal, route, key, body_sha256, status, answer)
select 'user-' || n %% 50, '/run', n::text, sha256('x'), 202, '{}' from generate_series(1, %(n)s / 10) n""",
    ),
)

# One ended execution on the maximum number of targets; each wrote 16 KiB, in seven variants.
LARGE: Steps = (
    (
        "a large execution",
        """insert into job_executions (uuid, log_day, status, "window", priority, total, succeeded, last_seq, created_at,
  started_at, finished_at)
select gen_random_uuid(), (now() at time zone 'UTC')::date, 'completed', 50, 5, 10000, 10000, 20001, now(), now(), now()""",
    ),
    (
        "its spec",
        """insert into execution_specs (execution_id, job_name, actions, policy, triggered_by, requested_by)
select max(id), 'large', '[{"key": "step-1", "type": "command", "command": "uptime"}]', '{}', 'api', 'ada' from job_executions""",
    ),
    (
        "its runs",
        """insert into target_runs (uuid, execution_id, target_id, target_name, target_host, zone, position, status, waiting_for, turn, worker,
  fence, exit_code, claimed_at, finished_at)
select gen_random_uuid(), (select max(id) from job_executions), n::text, 'web-' || n, '10.0.0.1', 'default', n, 'succeeded', null, 100,
  'worker-1', 1, 0, now(), now() from generate_series(1, 10000) n""",
    ),
    (
        "its results",
        """insert into job_execution_results (execution_id, target_run_id, action, attempt, status, exit_code, stdout_stored, stdout_bytes,
  started_at, finished_at)
select execution_id, id, 'step-1', 1, status, 0, 16384, 16384, now(), now() from target_runs
where execution_id = (select max(id) from job_executions)""",
    ),
    (
        "its log",
        """insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, action, attempt, stream, start_offset,
  data, lines)
select (now() at time zone 'UTC')::date, execution_id, 1 + position, 'output', r.id, target_id, 'step-1', 1, 'stdout', 0, w.said, 1
from target_runs r join (
  select way, convert_to(string_agg(md5(way::text || n), ''), 'UTF8') as said from generate_series(0, 6) way, generate_series(1, 512) n
  group by 1) w on w.way = r.position %% 7
where execution_id = (select max(id) from job_executions)""",
    ),
)

# As many open executions, each with one ready run.
OPEN: Steps = (
    (
        "open executions",
        """insert into job_executions (uuid, job_id, job_version, number, log_day, status, "window", priority, total, ready, last_seq,
  created_at,  deadline_at)
select gen_random_uuid(), 1 + n %% %(jobs)s, 1, 3000000 + n, (now() at time zone 'UTC')::date, 'queued', 50, 5, 1, 1, 1, now(),
  case when n %% 2 = 0 then now() + interval '30 days' end from generate_series(1, %(n)s) n order by n""",
    ),
    (
        "their specs",
        """insert into execution_specs (execution_id, job_name, actions, policy, triggered_by, requested_by, labels)
select id, 'job-' || job_id, '[{"key": "step-1", "type": "command", "command": "uptime"}]', '{}', 'schedule', 'ada', '{"env": "prod"}'
from job_executions where finished_at is null and number > 3000000 order by id""",
    ),
    (
        "their runs",
        """insert into target_runs (uuid, execution_id, target_id, target_name, target_host, zone, position, waiting_for, turn)
select gen_random_uuid(), id, (1 + id %% %(targets)s)::text, 'web', '10.0.0.1', 'default', 1, null, 1000 + id / 100
from job_executions where finished_at is null and number > 3000000 order by id""",
    ),
    (
        "their log",
        """insert into execution_log (log_day, execution_id, seq, event, body)
select log_day, id, 1, 'status', '{}' from job_executions where finished_at is null and number > 3000000 order by id""",
    ),
)

# Executions that wait for one exclusive name that another one holds.
WAITING_FOR_A_NAME = """
with e as (
  insert into job_executions (uuid, log_day, status, "window", priority, total, waiting, last_seq, created_at, watched, named)
  select gen_random_uuid(), (now() at time zone 'UTC')::date, 'queued', 50, 5, 1, 1, 1, now(), true, true
  from generate_series(1, %(waiting)s) n returning id
), s as (
  insert into execution_specs (execution_id, job_name, actions, policy, triggered_by, requested_by)
  select id, 'ad-hoc', '[{"key": "step-1", "type": "command", "command": "true"}]', '{}', 'api', 'ada' from e
), r as (
  insert into target_runs (uuid, execution_id, target_id, target_name, target_host, zone, position)
  select gen_random_uuid(), id, '1', 'web-1', '10.0.0.1', 'default', 1 from e
)
insert into exclusive_locks (name, execution_id, granted) select %(name)s, id, id = (select min(id) from e) from e"""


def _sizes(executions: int) -> dict[str, int]:
    return {
        "n": executions,
        "targets": min(TARGETS, executions // EXECUTIONS_A_TARGET),
        "jobs": min(JOBS, executions // EXECUTIONS_A_JOB),
        "schedules": min(SCHEDULES, executions // EXECUTIONS_A_SCHEDULE),
        # The log of a small database is in the default partition: creating a day takes longer than
        # filling it.
        "days": 91 if executions >= SMALL else 0,
    }


def make(
    url: str, steps: Steps, executions: int, say: Callable[[str], None] = lambda _: None
) -> None:
    """Run these steps, then let PostgreSQL collect its statistics."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        # Insert sealed rows of the audit log, which is refused otherwise.
        connection.execute("set session_replication_role = replica")
        for name, statement in steps:
            began = time.monotonic()
            # Format the text: a DO block takes no parameters.
            connection.execute((statement % _sizes(executions)).encode())
            say(f"{name}: {time.monotonic() - began:.1f} s")
        connection.execute("vacuum analyze")
