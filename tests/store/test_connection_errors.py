"""Errors of PostgreSQL: which ones mean unavailable, and which ones are never retried."""

from __future__ import annotations

import random

import psycopg
import pytest
from psycopg import errors

from kit.ledger_fixtures import Owner, faults, launch, machines, read
from opsjobs.api.dependencies import ROUTE_BYTES_MAX
from opsjobs.model.errors import Locked, TooSlow, Unavailable
from opsjobs.model.execution import ErrorCode, ExecutionStatus, RunError, RunStatus, WaitingFor
from opsjobs.store.connections import as_unavailable
from opsjobs.store.jobs import Jobs, StoredJob
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.flush import AWAITS_BYTES_MAX
from opsjobs.store.transaction import Database
from store.drafts import job

INDEX_ENTRY_BYTES_MAX = 2_704
# The longest text of each indexed column, in bytes. Names have 200 characters of up to 4 bytes.
NAME = 800
FILE_NAME = 4 * 255
LONGEST = {
    "api_keys.name": NAME,
    "api_keys.user_id": 8,
    "audit_log.action": 64,
    "audit_log.actor": 2 * NAME + 1,
    "audit_log.actor_kind": 16,
    "audit_log.address": 64,
    "audit_log.person": 2 * NAME + 1,
    "audit_log.request_id": 128,
    "audit_log.thing_name": 2 * NAME + 1,
    "audit_log.thing": 32,
    "audit_log.thing_id": 64,
    "calendars.name": NAME,
    "approval_decisions.person": NAME,
    "approvals.action": 64,
    "approvals.decided_by": 2 * NAME + 1,
    "approvals.status": 16,
    "artifact_usage.requested_by": 2 * NAME + 1,
    "artifact_usage.requested_by_kind": 16,
    "artifacts.action": 64,
    "circuits.credential_id": 32,
    "circuits.target_id": 32,
    "credentials.name": NAME,
    "exclusive_locks.name": NAME,
    "deliveries.subject": 64,
    "delivery_lanes.subject": 64,
    "delivery_messages.message_id": 128,
    "delivery_messages.source": 32,
    "delivery_receivers.destination": 32,
    "delivery_receivers.key": NAME,
    "delivery_sources.name": 32,
    "integration_reports.name": 16,
    "integration_reports.process": 96,
    "job_triggers.name": NAME,
    "mirrors.name": 32,
    "notification_outcomes.scope": 16,
    "notification_rules.rule_key": 32,
    "notification_rules.scope": 16,
    "targets.external_id": 64,
    "targets.host_order": NAME,
    "targets.name_order": NAME,
    "oidc_logins.origin": 64,
    "sessions.external_name": 2 * NAME + 1,
    "sessions.issuer": 500,
    "sessions.subject": NAME,
    "webhook_names.name": NAME,
    "webhook_names.owner": 2 * NAME + 1,
    "webhook_names.owner_kind": 16,
    "webhooks.name": NAME,
    "execution_labels.key": 253,
    "execution_specs.job_name": NAME,
    "execution_specs.requested_by": 2 * NAME + 1,
    "execution_specs.summary": NAME,
    "execution_specs.triggered_by": 32,
    "file_usage.created_by": 2 * NAME + 1,
    "file_usage.created_by_kind": 16,
    "files.created_by": 2 * NAME + 1,
    "files.name": FILE_NAME,
    "external_people.name": 2 * NAME + 1,
    "idempotency_keys.key": 255,
    "idempotency_keys.principal": 2 * NAME + 1,
    "idempotency_keys.route": ROUTE_BYTES_MAX,
    "job_actions.key": 64,
    "job_execution_results.action": 64,
    "job_executions.status": 32,
    "job_schedules.name": NAME,
    "job_schedules.tzdata": 64,
    "job_targets.kind": 8,
    "job_targets.value": NAME,
    "jobs.name": NAME,
    "login_attempts.key": 128,
    "services.name": 64,
    "schedule_executions.rule": 32,
    "schedule_executions.status": 16,
    "service_clients.name": NAME,
    "spent_names.name": NAME,
    "spent_names.noun": 16,
    "target_groups.name": NAME,
    "target_runs.awaits": AWAITS_BYTES_MAX,
    "target_runs.target_id": 32,
    "target_runs.zone": 64,
    "target_slots.target_id": 32,
    "target_state.target_id": 32,
    "targets.host": 253,
    "targets.name": NAME,
    "users.name": NAME,
    "zone_turns.zone": 64,
}
_INDEXED = """
select i.indexrelid::regclass::text as index,
  array_agg(i.indrelid::regclass || '.' || a.attname) as columns
from pg_index i
join pg_class c on c.oid = i.indexrelid and c.relnamespace = current_schema()::regnamespace
join pg_am m on m.oid = c.relam and m.amname = 'btree'
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey::int[])
where a.atttypid in ('text'::regtype, 'varchar'::regtype)
  and i.indrelid::regclass::text <> 'alembic_version'
group by 1"""


def incompressible_text(count: int) -> str:
    """Return a text of Han characters that no compression makes shorter."""
    chance = random.Random(1)
    return "".join(chr(chance.randint(0x4E00, 0x9FA5)) for _ in range(count))


@pytest.mark.parametrize(
    "state", ["08006", "08P01", "53300", "53200", "57P01", "57P03", "25006", "25P03", "58030"]
)
def test_errors_that_a_retry_may_cure_are_unavailable(state: str) -> None:
    assert type(as_unavailable(errors.lookup(state)("x"))) is Unavailable


def test_a_statement_timeout_is_distinguished_from_an_unavailable_database() -> None:
    assert isinstance(as_unavailable(errors.QueryCanceled("x")), TooSlow)


def test_a_lock_timeout_is_distinguished_from_an_unavailable_database() -> None:
    assert isinstance(as_unavailable(errors.LockNotAvailable("x")), Locked)


@pytest.mark.parametrize(
    "state",
    ["54000", "54001", "55000", "22001", "23505", "42501", "42P01", "40P01", "40001", "XX000"],
)
def test_errors_that_no_retry_cures_are_not_unavailable(state: str) -> None:
    assert as_unavailable(errors.lookup(state)("x")) is None


def test_a_broken_connection_is_unavailable_and_misuse_of_the_driver_is_not() -> None:
    assert (
        type(as_unavailable(psycopg.OperationalError("server closed the connection")))
        is Unavailable
    )
    assert as_unavailable(psycopg.ProgrammingError("the query has 2 placeholders")) is None


@pytest.mark.parametrize(
    "error",
    [
        errors.DiskFull("could not extend file"),
        errors.IoError('could not write to file "x": No space left on device'),
    ],
)
def test_a_full_disk_has_an_error_of_its_own(error: psycopg.Error) -> None:
    away = as_unavailable(error)
    assert away is not None
    assert (away.code, "disk of the database is full" in away.detail) == (
        "database_disk_full",
        True,
    )


async def test_a_flush_that_can_never_be_stored_is_refused_and_not_unavailable(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await connection.execute("create index on target_runs (error_message)")
    await launch(database, machines(1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    flush = owner.flush(
        runs, RunStatus.FAILED, error=RunError(ErrorCode.INTERNAL, incompressible_text(2_000))
    )
    with pytest.raises(errors.ProgramLimitExceeded):
        await owner.settle(flush)


async def test_a_long_reason_of_a_maintenance_stops_no_claim_of_its_zone(
    database: Database,
) -> None:
    ledger, owner = Ledger(database), Owner(database)
    execution = await launch(database, machines(3))
    await ledger.hold_target("1", 10, reason=incompressible_text(2_000), by="ada")
    runs = (await owner.claim()).runs
    assert [run.target_name for run in runs] == ["web-2", "web-3"]
    row = await database.fetch_one("select awaits from target_runs where waiting_for = 'hold'")
    assert row is not None
    assert row["awaits"] == f"maintenance: {incompressible_text(2_000)}"[: AWAITS_BYTES_MAX // 4]
    await ledger.release_target("1")
    await owner.finish([*runs, *(await owner.claim()).runs])
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_a_long_wait_reason_is_cut_at_a_character(database: Database) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await owner.defer(runs, WaitingFor.HOLD, awaits=incompressible_text(2_000))
    row = await database.fetch_one("select awaits from target_runs")
    assert row is not None
    assert row["awaits"] == incompressible_text(2_000)[: AWAITS_BYTES_MAX // 3]


async def test_a_job_may_have_a_selector_as_long_as_it_is_allowed(database: Database) -> None:
    selector = (
        "name in (" + ",".join(f"m{random.Random(n).getrandbits(60)}" for n in range(190)) + ")"
    )
    made = await Jobs(database).create(job("all", targets={"selector": selector}), "ada")
    assert isinstance(made, StoredJob)


async def test_values_of_indexed_columns_fit_into_an_index_entry(database: Database) -> None:
    found = {row["index"]: row["columns"] for row in await database.fetch(_INDEXED)}
    unknown = {column for columns in found.values() for column in columns} - LONGEST.keys()
    assert not unknown, "say in LONGEST how long their texts can be"
    sizes = {index: sum(LONGEST[column] for column in columns) for index, columns in found.items()}
    assert {
        index: size for index, size in sizes.items() if size > INDEX_ENTRY_BYTES_MAX - 100
    } == {}
