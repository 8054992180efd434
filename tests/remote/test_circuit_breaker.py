"""The circuit breaker in front of a real sshd, with several workers: the logins in its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from kit.command_runs import code_of, failure_of, run
from kit.machines import endpoint_of, key_credential
from kit.sshd import Sshd, sshd
from kit.tcp_proxy import Faults, proxy
from opsjobs.clock import SystemClock
from opsjobs.model.circuit import CircuitPolicy, CircuitState
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.remote.circuit_breaker import Breaker
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.connection import SshOptions
from opsjobs.remote.ssh.pool import PoolLimits, SshPool
from opsjobs.store.circuits import CircuitStore
from opsjobs.store.transaction import Database

SECONDS = 60.0
POLICY = CircuitPolicy(failures=3, pause_seconds=600, refused_pause_seconds=600)


@pytest.fixture(scope="module")
def password_server() -> Iterator[Sshd]:
    """Run a server that asks for passwords."""
    with sshd(addresses=("0.0.0.0",), settings=["PasswordAuthentication yes"]) as running:
        yield running


def wrong(user: str, *, version: int = 1) -> Credential:
    return Credential(
        "7", version, "web-login", CredentialType.PASSWORD, user, password=Secret("canary-wrong")
    )


def refusing(
    server: Sshd, name: str = "web-1", *, version: int = 1, port: int | None = None
) -> Endpoint:
    return endpoint_of(server, name=name, port=port, credential=wrong(server.user, version=version))


@asynccontextmanager
async def worker(
    database: Database, policy: CircuitPolicy = POLICY, **limits: float
) -> AsyncIterator[SshPool]:
    """Yield what one worker has: its own pool and breaker, on the shared circuits."""
    breaker = Breaker(CircuitStore(database, policy), SystemClock())
    made = SshPool(
        Connector(SshOptions(connect_seconds=SECONDS)), PoolLimits(**limits), breaker=breaker
    )  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


async def refusals(server: Sshd, since: int, expected: int) -> int:
    """How many logins its log shows; it is written to a moment after the client was answered."""

    def count() -> int:
        return server.log[since:].count("Failed password")

    await until(lambda: count() >= expected)
    return count()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


async def test_twenty_runs_of_two_workers_are_one_refused_login(
    password_server: Sshd, database: Database
) -> None:
    begun = len(password_server.log)
    async with worker(database) as one, worker(database) as two:
        where = refusing(password_server)
        codes = await asyncio.gather(
            *(code_of(pool, where) for pool in (one, two) for _ in range(10))
        )
        assert set(codes) <= {ErrorCode.AUTH_FAILED, ErrorCode.CIRCUIT_OPEN}
        assert ErrorCode.AUTH_FAILED in codes
        later = await failure_of(two, where)
        assert (later.code, later.because, later.offline) == (
            ErrorCode.CIRCUIT_OPEN,
            ErrorCode.AUTH_FAILED,
            False,
        )
    assert await refusals(password_server, begun, 1) == 1


async def test_another_version_of_the_credential_is_tried_at_once_and_once(
    password_server: Sshd, database: Database
) -> None:
    begun = len(password_server.log)
    async with worker(database) as one, worker(database) as two:
        assert await code_of(one, refusing(password_server)) is ErrorCode.AUTH_FAILED
        where = refusing(password_server, version=2)
        codes = await asyncio.gather(
            *(code_of(pool, where) for pool in (one, two) for _ in range(5))
        )
        assert ErrorCode.AUTH_FAILED in codes
    assert await refusals(password_server, begun, 2) == 2


async def test_other_targets_and_other_logins_do_not_wait_for_it(
    password_server: Sshd, database: Database
) -> None:
    async with (
        proxy(password_server.host, password_server.port, Faults(black_hole=True)) as way,
        worker(database) as one,
        worker(database) as two,
    ):
        stuck = [
            asyncio.create_task(code_of(pool, refusing(password_server, port=way.port)))
            for pool in (one, two)
        ]
        await until(lambda: way.connections == 1)
        for pool in (one, two):
            for n in range(5):
                assert (await run(pool, endpoint_of(password_server, name=f"web-{n + 2}"), "true"))[
                    2
                ] == RemoteExit(0)
            assert (await run(pool, endpoint_of(password_server), "true"))[2] == RemoteExit(0)
        assert not any(task.done() for task in stuck)
        assert way.connections == 1
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_half_open_is_one_try_and_its_success_lets_all_in(
    password_server: Sshd, database: Database
) -> None:
    async with (
        proxy(password_server.host, password_server.port, Faults(refuse=True)) as way,
        worker(database) as one,
        worker(database) as two,
    ):
        where = endpoint_of(password_server, port=way.port)
        for pool in (one, two, one):
            assert await code_of(pool, where) is ErrorCode.CONNECTION_LOST
        for pool in (one, two):
            shut = await failure_of(pool, where)
            assert (shut.code, shut.because, shut.offline) == (
                ErrorCode.CIRCUIT_OPEN,
                ErrorCode.CONNECTION_LOST,
                True,
            )
        assert way.connections == 3
        way.faults.refuse = False
        assert await code_of(one, where) is ErrorCode.CIRCUIT_OPEN
        await database.fetch("update opsjobs_clock set shift = '601 seconds' returning one")
        ends = await asyncio.gather(
            *(run(pool, where, "true") for pool in (one, two) for _ in range(6))
        )
        assert {end for _, _, end in ends} == {RemoteExit(0)}
        kinds = [row["type"] for row in await database.fetch("select type from events order by id")]
        assert kinds == ["circuit.opened", "circuit.closed"]


async def test_who_has_something_there_is_let_through_an_open_circuit(
    password_server: Sshd, database: Database
) -> None:
    async with (
        proxy(password_server.host, password_server.port, Faults(refuse=True)) as way,
        worker(database) as one,
    ):
        where = endpoint_of(password_server, port=way.port)
        for _ in range(3):
            await code_of(one, where)
        assert await code_of(one, where) is ErrorCode.CIRCUIT_OPEN
        insisting = Endpoint(where.target, where.credential, where.jumps, insist=True)
        assert await code_of(one, insisting) is ErrorCode.CONNECTION_LOST
        way.faults.refuse = False
        assert (await run(one, insisting, "true"))[2] == RemoteExit(0)
        assert (await run(one, where, "true"))[2] == RemoteExit(0)


async def test_a_known_good_login_costs_no_statement(
    password_server: Sshd, database: Database
) -> None:
    asked = 0

    class CountingCircuits(CircuitStore):
        async def ask(self, *given: object) -> object:  # type: ignore[override]
            nonlocal asked
            asked += 1
            return await super().ask(*given)  # type: ignore[arg-type]

    pool = SshPool(
        Connector(), PoolLimits(connections=1), breaker=Breaker(CountingCircuits(database))
    )
    try:
        for _ in range(3):
            for name in ("web-1", "web-2"):
                assert (await run(pool, endpoint_of(password_server, name=name), "true"))[
                    2
                ] == RemoteExit(0)
        assert asked == 2
    finally:
        await pool.close()


async def test_a_worker_that_is_new_finds_good_logins_good(
    password_server: Sshd, database: Database
) -> None:
    async with worker(database) as one:
        await run(one, endpoint_of(password_server), "true")
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(worker(database)) for _ in range(3)]
        ends = await asyncio.gather(
            *(run(pool, endpoint_of(password_server), "true") for pool in pools for _ in range(4))
        )
        assert {end for _, _, end in ends} == {RemoteExit(0)}
    assert await database.fetch_one("select proven, holder from circuits") == {
        "proven": True,
        "holder": None,
    }


async def test_a_jump_host_that_refuses_says_nothing_of_the_machine_behind_it(
    password_server: Sshd, database: Database
) -> None:
    begun = len(password_server.log)
    async with worker(database) as one:
        gate = refusing(password_server, "gate")
        behind = endpoint_of(password_server, name="web-1", jumps=(gate,))
        assert await code_of(one, behind) is ErrorCode.AUTH_FAILED
        assert await code_of(one, behind) is ErrorCode.CIRCUIT_OPEN
        rows = await database.fetch(
            "select target_id, state, holder from circuits order by target_id"
        )
        assert [(row["target_id"], row["state"], row["holder"]) for row in rows] == [
            ("id-gate", "open", None),
            ("id-web-1", "closed", None),
        ]
    assert await refusals(password_server, begun, 1) == 1


async def test_a_test_is_a_try_on_purpose_and_counts(
    password_server: Sshd, database: Database
) -> None:
    begun = len(password_server.log)
    async with worker(database) as one, worker(database) as two:
        for pool in (one, two):
            steps = await pool.test(refusing(password_server))
            assert [(step.name, step.ok) for step in steps] == [("connect", True), ("auth", False)]
        assert await code_of(one, refusing(password_server)) is ErrorCode.CIRCUIT_OPEN
        assert await refusals(password_server, begun, 2) == 2
        good = key_credential(password_server.user, password_server.private_key)
        right = Credential(
            "7", 1, "web-login", CredentialType.SSH_KEY, good.username, private_key=good.private_key
        )
        assert all(
            step.ok
            for step in await two.test(endpoint_of(password_server, credential=right))
            if step.needed
        )
        assert await database.fetch_one("select state from circuits") == {
            "state": CircuitState.CLOSED
        }
    async with worker(database) as three:
        assert (await run(three, endpoint_of(password_server, credential=right), "true"))[
            2
        ] == RemoteExit(0)


async def test_a_host_gets_so_many_connections_a_second_and_all_come_through(
    password_server: Sshd, database: Database
) -> None:
    async with worker(database, handshakes_a_second=50) as one:
        ends = await asyncio.gather(
            *(run(one, endpoint_of(password_server, name=f"web-{n}"), "true") for n in range(60))
        )
        assert {end for _, _, end in ends} == {RemoteExit(0)}
