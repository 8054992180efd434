"""Worker sessions: a bug ends one and another begins; the first leaves no task or thread behind."""

from __future__ import annotations

import asyncio

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import Gate
from opsjobs import failpoints
from opsjobs.engine.worker.worker import Worker
from opsjobs.engine.worker.worker_session import WorkerSession
from opsjobs.model.execution import ExecutionStatus
from opsjobs.remote.session import RemoteExit
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger import claim as claiming
from opsjobs.store.ledger.flush import Flush
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.transaction import Database


async def current_session(worker: Worker) -> WorkerSession:
    await until(lambda: worker.session is not None)
    assert worker.session is not None
    return worker.session


async def assert_new_session(on: Harness, worker: Worker, first: WorkerSession) -> None:
    """Assert that another session works, and that nothing of the first does."""
    worker.wake()
    await until(lambda: worker.session not in (None, first))
    assert (await on.run("true", ["web-9"])).status is ExecutionStatus.COMPLETED
    assert first.runs == {}
    assert first._writer_task.done()
    await until(lambda: not first.heartbeat.alive)


async def test_a_bug_in_a_session_begins_another_session(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness(database, bugs=["worker"], open_ends=True) as on:
        web = on.machine("web-1").reply([Gate(asyncio.Event())])
        async with on.worker() as worker:
            first = await current_session(worker)
            execution = await on.launch("held")
            await on.running(web)
            monkeypatch.setattr(first, "_claim_once", _broken)
            await assert_new_session(on, worker, first)
            await on.bury()
            await until(
                lambda: (
                    worker.session is not None
                    and worker.session._incarnation.id != first._incarnation.id
                )
            )
            ended = await on.ended(execution)
        assert ended.counts == {"lost": 1}
        assert len(web.starts) == 1


class LosesOneCancel(Ledger):
    """A ledger whose commit drops a cancel, as `asyncio.wait_for` of Python 3.11 may do."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.committing = asyncio.Event()
        self.lost_cancels = 0

    async def settle(self, flush: Flush) -> Settled:
        if not self.committing.is_set():
            self.committing.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.lost_cancels += 1
        return await super().settle(flush)


async def test_the_batch_writer_of_an_expired_session_ends_although_a_cancel_is_lost(
    database: Database,
) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([RemoteExit(0)])
        ledger = LosesOneCancel(database)
        async with on.worker(ledger=ledger, lease_seconds=3.0) as worker:
            first = await current_session(worker)
            execution = await on.launch("held", durable="auto")
            await ledger.committing.wait()
            await on.bury()
            await until(lambda: worker.session not in (None, first))
            await until(first._writer_task.done)
            await on.ended(execution)
        assert ledger.lost_cancels == 1


async def _broken() -> bool:
    raise RuntimeError("as scripted")


async def test_all_runs_of_a_claim_whose_answer_was_lost_are_adopted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "UNKNOWN_MAX", 2)
    async with harness(database) as on:
        execution = await on.launch("true", 5)
        failpoints.arm("claim:error_after@1")
        async with on.worker():
            ended = await on.ended(execution)
    assert ended.counts == {"succeeded": 5}


async def test_a_heartbeat_that_ended_by_itself_begins_another_session(database: Database) -> None:
    async with harness(database, bugs=["worker"]) as on, on.worker() as worker:
        first = await current_session(worker)
        first.heartbeat.stop()
        await until(lambda: not first.heartbeat.alive)
        await assert_new_session(on, worker, first)


async def test_a_session_whose_heartbeat_cannot_start_leaves_nothing_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.engine.worker.worker.RESTART_SECONDS", 0.01)
    tries = []

    def no_thread(_: object) -> None:
        tries.append(1)
        raise RuntimeError("can't start new thread")

    async with harness(database, bugs=["worker"]) as on:
        with monkeypatch.context() as patch:
            patch.setattr("opsjobs.engine.worker.lease_heartbeat.Heartbeat.start", no_thread)
            async with on.worker() as worker:
                await until(lambda: len(tries) >= 3)
                assert worker.session is None
                assert [t for t in asyncio.all_tasks() if t.get_name() == "batch_writer"] == []
        async with on.worker("worker-2"):
            assert (await on.run()).status is ExecutionStatus.COMPLETED


async def test_a_stop_during_the_pause_after_a_bug_ends_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.engine.worker.worker.RESTART_SECONDS", 60)
    monkeypatch.setattr("opsjobs.engine.worker.worker.LAST_CLAIM_SECONDS", 0.1)
    async with harness(database, bugs=["worker"]) as on, on.worker() as worker:
        first = await current_session(worker)
        first._writer_task.cancel()
        await until(lambda: "worker" in on.bugs)
        await asyncio.wait_for(worker.stop(), 60)
