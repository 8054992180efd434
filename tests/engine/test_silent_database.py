"""A silent database, on one or many connections, and a clock step: which leases expire."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import Gate
from kit.ledger_fixtures import Owner
from kit.postgres_proxy import over_tcp
from opsjobs.engine.background.housekeeping import Rescuer
from opsjobs.engine.worker.lease_heartbeat import DatabaseClock, Heartbeat
from opsjobs.engine.worker.worker import Worker
from opsjobs.model.execution import ExecutionStatus
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store import transaction
from opsjobs.store.connections import LIMITS
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.workers import Incarnation, Lease, Renewal, Workers

LEASE_SECONDS = 3.0


def rescuer(on: Harness, worker: Worker) -> Rescuer:
    return Rescuer(
        Reconciler(on.database),
        on.workers,
        may_reap=lambda: worker.may_reap,
        notify=on.notify,
        round_seconds=0,
        database_now=lambda: worker.database_now,
    )


async def test_a_lease_whose_connection_falls_silent_is_renewed_over_another_one(
    database: Database,
) -> None:
    life = Incarnation(uuid4(), "worker-1", "default", 1, 1)
    told: list[Renewal] = []
    async with over_tcp(database.options.url) as (proxy, url):
        heart = await beating(database, url, life, told, lease_seconds=9.0)
        await until(lambda: len(told) >= 2)
        for _ in range(2):
            before, connections = len(told), proxy.connections
            proxy.silence_all()
            while len(told) == before:
                assert await Workers(database).expire_leases() == [], "the lease never runs out"
                await asyncio.sleep(0.02)
            assert proxy.connections == connections + 1
        assert all(renewal.alive for renewal in told)
        heart.stop()
        await until(lambda: not heart.alive)


async def test_a_worker_whose_statements_do_not_come_back_leaves_its_runs_to_others(
    database: Database,
) -> None:
    """Its lease is renewed all the time, so no other worker could take them."""
    async with (
        harness(database, open_ends=True) as on,
        over_tcp(database.options.url) as (proxy, url),
    ):
        ledgers = Database(DatabaseOptions(url, connections=4, hot_verbs=True))
        await ledgers.open()
        try:
            gate = Gate(asyncio.Event())
            on.machine("web-1").reply([Output("stdout", b"begun\n"), gate, RemoteExit(0)])
            async with on.worker("worker-1", ledger=Ledger(ledgers), lease_seconds=2.0) as worker:
                execution = await on.launch("work")

                async def begun() -> bool:
                    return await on.output(execution) == b"begun\n"

                await until(begun)
                first = worker.session
                assert first is not None
                proxy.silence_all()
                gate.event.set()
                await until(lambda: first.heartbeat.stuck)

                async def expired() -> bool:
                    return await on.workers.expire_leases() == ["default"]

                await until(expired)
                other = await Owner(database, "worker-2").register()
                assert [run.execution_id for run in await other.take_over()] == [execution.id]
        finally:
            await ledgers.close()


async def test_a_lock_that_another_session_holds_is_no_reason_to_leave(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "LIMITS", {**LIMITS, "lock_timeout": "100ms"})
    async with harness(database) as on:
        ledgers = Database(DatabaseOptions(database.options.url, connections=4, hot_verbs=True))
        await ledgers.open()
        begun, gate = Gate(asyncio.Event()), Gate(asyncio.Event())
        web = on.machine("web-1").reply([begun, Output("stdout", b"begun\n"), gate, RemoteExit(0)])
        on.targets.add("web-2", zone="far")
        waiting = await on.launch("true", ["web-2"])
        try:
            async with on.worker("worker-1", ledger=Ledger(ledgers), lease_seconds=2.0) as worker:
                running = await on.launch("work", ["web-1"])
                await on.running(web)
                first = worker.session
                async with database.transaction() as connection:  # a person's, for example
                    await connection.execute("set local idle_in_transaction_session_timeout = 0")
                    await connection.execute("select from job_executions for update")
                    await database.fetch(
                        "update target_runs set zone = 'default' where zone = 'far' returning id"
                    )
                    begun.event.set()
                    since = time.monotonic()
                    await until(
                        lambda: said(on, "claim_failed") >= 3 and said(on, "flush_repeated") >= 3
                    )
                    await until(lambda: time.monotonic() > since + 6)
                gate.event.set()
                ended = [await on.ended(execution) for execution in (running, waiting)]
                assert worker.session is first
        finally:
            await ledgers.close()
    assert [execution.status for execution in ended] == [ExecutionStatus.COMPLETED] * 2


def said(on: Harness, event: str) -> int:
    """Return how often an event was logged."""
    return sum(line["event"] == event for line in on.said)


async def test_an_outage_that_the_renewals_share_is_no_reason_to_leave(database: Database) -> None:
    life = Incarnation(uuid4(), "worker-1", "default", 1, 1)
    told: list[Renewal] = []
    lease_seconds = 1.5
    async with over_tcp(database.options.url) as (proxy, url):
        since = time.monotonic() - 60
        heart = await beating(database, url, life, told, lease_seconds=lease_seconds, since=since)
        await until(lambda: len(told) >= 1)
        proxy.faults.black_hole = True
        missed = time.monotonic()
        await until(lambda: not heart.may_start)
        await until(lambda: time.monotonic() > missed + 3 * lease_seconds)
        assert not heart.stuck
        proxy.faults.black_hole = False
        await until(lambda: heart.stuck)
        await until(lambda: not heart.alive)


async def test_a_step_of_the_database_s_clock_buries_no_living_worker(database: Database) -> None:
    async with (
        harness(database, open_ends=True) as on,
        on.worker("worker-1", lease_seconds=LEASE_SECONDS) as one,
        on.worker("worker-2", lease_seconds=LEASE_SECONDS) as two,
    ):
        for seconds in (60, -60):
            await until(lambda: one.may_reap and two.may_reap)
            await on.turn(seconds)
            assert (await rescuer(on, one).run_once())["leases_expired"] == 0
            await until(lambda: not one.may_reap)
            while not one.may_reap:
                assert (await rescuer(on, one).run_once())["leases_expired"] == 0
                assert (await rescuer(on, two).run_once())["leases_expired"] == 0
                await asyncio.sleep(0.05)
        await until(lambda: two.may_reap)
        assert await database.fetch("select 1 from workers where buried_at is not null") == []
        assert [
            line["seconds"] > 0 for line in on.said if line["event"] == "database_clock_stepped"
        ].count(True) == 2


async def test_who_died_before_the_clock_was_set_back_is_buried_a_lease_later(
    database: Database,
) -> None:
    async with (
        harness(database) as on,
        on.worker("worker-1", lease_seconds=LEASE_SECONDS) as worker,
    ):
        await until(lambda: worker.may_reap)
        await Owner(database, "dead").register(lease_seconds=LEASE_SECONDS)
        await on.turn(-3_600)
        mending = rescuer(on, worker)

        async def buried() -> bool:
            return (await mending.run_once())["leases_expired"] == 1

        await until(buried)
        assert await database.fetch("select name from workers where buried_at is not null") == [
            {"name": "dead"}
        ]


@pytest.mark.parametrize(
    ("now", "step"), [(1_005.0, 0.0), (1_005.9, 0.0), (1_008.0, 2.8), (995.0, -10.0)]
)
def test_a_clock_has_stepped_if_it_moved_otherwise_than_ours(now: float, step: float) -> None:
    clock = DatabaseClock()
    assert clock.observe(1_000.0, sent_at=50.0, received_at=50.2) == 0.0
    assert clock.observe(now, sent_at=55.0, received_at=55.0) == pytest.approx(step, abs=0.3)
    expected = clock.expected(60.0)
    assert expected == pytest.approx(now + 5.0)


async def beating(
    database: Database,
    url: str,
    life: Incarnation,
    told: list[Renewal],
    *,
    lease_seconds: float,
    since: float | None = None,
) -> Heartbeat:
    sent_at = time.monotonic()
    await Workers(database).register(life, lease_seconds=lease_seconds)
    heart = Heartbeat(
        Lease(url, life, lease_seconds=lease_seconds),
        told.append,
        lease_seconds=lease_seconds,
        registered_at=sent_at,
        waiting_since=lambda: since,
    )
    heart.start()
    return heart
