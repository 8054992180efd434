"""Open circuits and runs: held if the machine was unavailable, ended if it refused the login."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.harness import harness, until
from kit.fake_remote.sessions import FakeSessions
from opsjobs.clock import Clock, SystemClock
from opsjobs.engine.runs.run_connection import RunConnection, RunConnections
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode, ExecutionStatus
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Session
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database


def open_circuit(because: ErrorCode) -> RemoteFailure:
    return RemoteFailure(
        ErrorCode.CIRCUIT_OPEN, f"The circuit of web-1 is open ({because.value}).", because=because
    )


async def test_a_run_is_held_while_the_circuit_is_open_for_want_of_contact(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        web.refuse(open_circuit(ErrorCode.CONNECT_TIMEOUT))
        execution = await on.launch("patch", 1, hold_offline=3600)

        async def held() -> bool:
            return (await on.row(execution))["waiting_for"] == "hold"

        await until(held)
        web.accept()
        await on.turn(31)
        assert (await Reconciler(database).run_once())["woken"] == 1
        assert (await on.ended(execution)).status is ExecutionStatus.COMPLETED


async def test_a_run_is_not_held_for_a_login_that_was_refused(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").refuse(open_circuit(ErrorCode.AUTH_FAILED))
        execution = await on.run("patch", 1, hold_offline=3600)
        row = await on.row(execution)
        assert (row["status"], row["error_code"]) == ("unreachable", "circuit_open")
        assert "auth_failed" in row["error_message"]
        assert execution.status is ExecutionStatus.FAILED


class RecordingSessions(FakeSessions):
    """Records whether each session was opened with `insist`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.insisted: list[bool] = []

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        self.insisted.append(endpoint.insist)
        async with super().session(endpoint) as session:
            yield session


async def test_a_way_that_was_open_before_is_insisted_upon_and_one_at_which_something_may_run(
    database: Database,
) -> None:
    async with harness(database) as on:
        sessions = RecordingSessions(on.clock)
        target = on.targets.add("web-1")
        links = RunConnections(sessions, Endpoint(target, None), SystemClock())
        link = links.acquire()
        await link.session()
        await link.drop()
        await link.session()
        again = links.acquire(insist=True)
        await again.session()
        for one in (link, again):
            assert isinstance(one, RunConnection)
            links.release(one)
        await links.close()
        assert sessions.insisted == [False, True, True]
