"""The lease heartbeat: renewals on a thread of its own, and the rights that depend on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import uuid4

from structlog.testing import capture_logs

from engine.harness import postgres_away, until
from kit.ledger_fixtures import Owner, launch, machines
from opsjobs.engine.worker.lease_heartbeat import Heartbeat
from opsjobs.store.ledger import Ledger
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Incarnation, Lease, Renewal, Workers


async def test_a_heartbeat_without_renewals_starts_and_reaps_nothing_until_it_recovers(
    database: Database,
) -> None:
    told: list[Renewal] = []
    buries: list[bool] = []
    """The value of `may_reap` right after each beat.

    It is read on the heartbeat's thread, because another one might read it too late.
    """

    def heard(renewal: Renewal) -> None:
        told.append(renewal)
        buries.append(heart.may_reap)

    with capture_logs() as said:
        heart, _ = await _heart(database, heard, lease_seconds=1.5)
        heart.start()
        await until(lambda: heart.may_start)
        await until(lambda: any(buries))
        assert not any(buries[:2])
        async with postgres_away(database):
            await until(lambda: not heart.may_start)
            assert not heart.may_reap
            before = len(buries)
        await until(lambda: heart.may_start)
        await until(lambda: any(buries[before:]))
        assert not any(buries[before : before + 2])
        heart.stop()
        await until(lambda: not heart.alive)
    assert all(renewal.alive for renewal in told)
    assert "lease_not_renewed" in {line["event"] for line in said}


async def test_a_heartbeat_that_stood_still_reaps_nothing_until_it_recovers(
    database: Database,
) -> None:
    reaps: list[bool] = []

    def heard(_renewal: Renewal) -> None:
        reaps.append(heart.may_reap)
        if reaps[-1] and reaps.count(True) == 1:
            heart._sent_at -= 1_000.0  # as after a freeze: no renewal failed, the next one is late

    heart, _ = await _heart(database, heard, lease_seconds=3.0)
    heart.start()
    await until(lambda: reaps.count(True) > 1)
    heart.stop()
    await until(lambda: not heart.alive)
    frozen = reaps.index(True)
    assert reaps[frozen + 1 : frozen + 3] == [False, False]


async def test_a_renewal_tells_of_lease_expiry_and_of_executions_to_stop(
    database: Database,
) -> None:
    told: list[Renewal] = []
    heart, life = await _heart(database, told.append, lease_seconds=1.5)
    heart.start()
    owner = Owner(database, "worker-1", id=life.id)
    execution = await launch(database, machines(1))
    runs = (await owner.claim()).runs
    await Ledger(database).cancel(execution.id, by="ada", reason=None)
    await until(lambda: told[-1:] != [] and told[-1].stopping == {execution.id})
    await Workers(database).reap("worker-1")
    await until(lambda: not told[-1].alive)
    heart.stop()
    await until(lambda: not [t for t in threading.enumerate() if t.name == "opsjobs-heartbeat"])
    assert len(runs) == 1


async def _heart(
    database: Database, heard: Callable[[Renewal], None], *, lease_seconds: float
) -> tuple[Heartbeat, Incarnation]:
    life = Incarnation(uuid4(), "worker-1", "default", 1, 1)
    sent_at = time.monotonic()
    await Workers(database).register(life, lease_seconds=lease_seconds)
    lease = Lease(database.options.url, life, lease_seconds=lease_seconds)
    heart = Heartbeat(lease, heard, lease_seconds=lease_seconds, registered_at=sent_at)
    return heart, life
