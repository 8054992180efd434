"""Shells of a Windows host: room for cancels, shells without a response, slow steps."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from contract.conftest import Latch, collect
from contract.durable_machines import first
from kit.windows_hosts import until, windows_host
from kit.windows_runs import break_spool, runs, wide
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.remote.session import CancelOutcome, RemoteExit
from opsjobs.remote.winrm import ShellOwners, messages
from opsjobs.remote.winrm import host as hosts
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.connection import Connection
from opsjobs.remote.winrm.host import WinrmHost
from opsjobs.remote.winrm.messages import ProtocolError
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.remote.winrm.programs import launch_line, launch_spool
from opsjobs.standalone.lab.wsman.service import LabQuotas

KILLED = CancelOutcome(CancelProof.KILLED, RemoteExit(None, "KILL", "cancel"))
NEVER = 3600.0


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each wait for a shell last an hour."""
    monkeypatch.setattr(hosts, "QUOTA_PAUSE_SECONDS", NEVER)
    monkeypatch.setattr(hosts, "URGENT_PAUSE_SECONDS", NEVER)


# --- room for cancels


@pytest.mark.usefixtures("no_pauses")
async def test_a_cancel_does_not_wait_behind_starts_that_wait_for_a_shell(tmp_path: Path) -> None:
    async with runs(LabQuotas(shells=3), slots=10) as on, AsyncExitStack() as stack:
        latch = Latch(tmp_path / "latch")
        orders = [on.order(f"echo up; {latch.wait}") for _ in range(3)]
        for order in orders:
            session = await stack.enter_async_context(on.pool.session(wide(on.host, 10)))
            durable = session.durable()
            assert durable is not None
            await first(await durable.begin(order, on.identity), 3)
        assert on.shells == 3
        starts = []
        for _ in range(3):
            session = await stack.enter_async_context(on.pool.session(wide(on.host, 10)))
            starts.append(asyncio.create_task(session.start("exit 0")))
        host = next(iter(on.pool._hosts.values()))
        await until(host._waiting.locked)
        async with asyncio.timeout(30):  # every pause is an hour
            assert await on.durable.cancel(orders[0].key, 0.0) == KILLED
            # Its helper was a guest in a shell whose own command continues.
            assert await on.durable.look(orders[1].key) is None
            assert on.shells == 3
        for start in starts:
            start.cancel()
        await asyncio.wait(starts)
        latch.open()


@pytest.mark.usefixtures("no_pauses")
async def test_a_session_that_insists_cancels_although_every_place_is_taken(
    tmp_path: Path,
) -> None:
    async with runs(slots=1) as on:
        order = on.order("echo up; sleep 60")
        await first(await on.durable.begin(order, on.identity), 3)
        async with asyncio.timeout(30), on.pool.session(wide(on.host, 1, insist=True)) as late:
            durable = late.durable()
            assert durable is not None
            # Its follower has to wait for a place.
            following = asyncio.create_task(durable.attach(order, on.identity, (0, 0)))
            await asyncio.sleep(0)
            assert await durable.identity() == on.identity
            assert await durable.cancel(order.key, 0.0) == KILLED
            assert not following.done()
            following.cancel()
            await asyncio.wait({following})
        (host,) = on.pool._hosts.values()
        assert host.places._value == 0
    assert host.places._value == 1


async def test_a_session_that_insists_has_no_place_for_a_start_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("opsjobs.remote.winrm.session.PLACE_SECONDS", 0.1)
    async with runs(slots=1) as on, on.pool.session(wide(on.host, 1, insist=True)) as late:
        with pytest.raises(RemoteFailure) as busy:
            await late.start("exit 0")
        assert busy.value.code is ErrorCode.TARGET_BUSY


async def test_a_cancel_in_a_borrowed_shell_outlives_the_helper_that_lent_it(
    tmp_path: Path,
) -> None:
    async with runs(LabQuotas(shells=1)) as on:
        latch = Latch(tmp_path / "latch")
        order = on.order(f"echo up; {latch.wait}")
        process = await on.durable.begin(order, on.identity)
        await first(process, 3)
        # The start that a cancel waits for arrives only after the owner of the shell has left.
        waiting = on.order("")
        on.files(waiting).mkdir()
        (on.files(waiting) / "start").write_text(waiting.digest)
        cancel = asyncio.create_task(on.durable.cancel(waiting.key, 0.0))
        (shell,) = on.host.server.service.shells.values()
        await until(lambda: len(shell.commands) == 2)
        await process.close()
        await until((on.files(waiting) / "void").exists)
        assert await cancel == CancelOutcome(CancelProof.NEVER_STARTED)
        await until(lambda: on.shells == 0)
        latch.open()


GATED_CANCEL = """
def _cancel(self, cancel=LabSpool.cancel):
    while not Path("{gate}").exists():
        time.sleep(0.01)
    cancel(self)


LabSpool.cancel = _cancel
"""


async def test_the_cancel_of_a_direct_command_ends_no_other_cancel(tmp_path: Path) -> None:
    async with runs(LabQuotas(shells=2)) as on:
        gate = tmp_path / "gate"
        break_spool(on, GATED_CANCEL.format(gate=gate))
        async with on.pool.session(wide(on.host, 10)) as session:
            direct = await session.start("echo up; exec sleep 60")
            await first(direct, 3)
            order = on.order("echo up; sleep 60")
            await first(await on.durable.begin(order, on.identity), 3)
            cancel = asyncio.create_task(on.durable.cancel(order.key, 0.0))
            shells = on.host.server.service.shells
            await until(lambda: sum(len(shell.commands) for shell in shells.values()) == 3)
            assert await direct.kill(5.0) is CancelProof.KILLED
            gate.touch()
            assert await cancel == KILLED


async def test_shells_of_helpers_are_lent_to_few_and_those_of_commands_to_none() -> None:
    host = WinrmHost("win-1", connect=_connect_never)
    for launch in (launch_line("ver"), launch_spool({"op": "look"})):
        host._busy.append(hosts.Shell(str(uuid4()), hosts.shell_key(launch)))
    _, helpers = host._busy
    assert [host._borrow() for _ in range(5)] == [helpers] * 3 + [None] * 2


async def _connect_never() -> Connection:
    raise AssertionError("it asks for nothing")


async def test_a_cancel_has_a_connection_although_every_input_waits_for_its_command() -> None:
    async with runs(slots=8) as on, AsyncExitStack() as stack:
        started = []
        for _ in range(7):
            session = await stack.enter_async_context(on.pool.session(wide(on.host, 8)))
            started.append(await session.start("exec sleep 60", stdin=b"x" * 2_000_000))
        (host,) = on.pool._hosts.values()
        await until(host.inputs.locked)
        async with asyncio.timeout(30):
            assert await started[0].kill(5.0) is CancelProof.KILLED
            assert await on.durable.cancel(on.order("").key, 0.0) == CancelOutcome(
                CancelProof.NEVER_STARTED
            )


# --- shells whose creation was not answered


@pytest.mark.parametrize("engine", ["winrs", "psrp"])
@pytest.mark.parametrize("how", ["closed", "fault", "unreadable", "cancelled"])
async def test_a_shell_whose_creation_was_not_answered_is_deleted(
    how: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with windows_host() as host:
        pool = WinrmPool(WinrmConnector())
        shells, made = host.server.service.shells, Counter[str]()
        create = host.server.service._create
        host.server.service._actions = {
            action: (_count(work, made) if work == create else work)
            for action, work in host.server.service._actions.items()
        }
        async with pool.session(host.endpoint(engine=engine)) as session:
            faults = host.server.faults
            if how == "closed":
                faults.close_after["Create"] = 1
            elif how == "fault":
                faults.fault_after["Create"] = 1450
            elif how == "unreadable":
                monkeypatch.setattr("opsjobs.remote.winrm.messages.shell_id_in", _refuse)
            if how == "cancelled":
                faults.hold_seconds["Create"] = 0.5
                start = asyncio.create_task(session.start("exit 0"))
                await until(lambda: not faults.hold_seconds)
                start.cancel()
                await asyncio.wait({start})
                monkeypatch.setattr(hosts, "UNANSWERED_PAUSES", (0.0, 1.0, 1.0))
                faults.hold_seconds["Create"] = 0.5
                start = asyncio.create_task(session.start("exit 0"))
                await until(lambda: not faults.hold_seconds)
                start.cancel()
                await asyncio.wait({start})
            else:
                with pytest.raises(RemoteFailure) as failed:
                    await session.start("exit 0")
                assert failed.value.code is ErrorCode.CONNECTION_LOST
            await until(lambda: made["created"] > 0 and shells == {})
            (winrm,) = pool._hosts.values()
            await until(lambda: not winrm._tasks)
        await pool.close()
        assert shells == {}


def _count(work, made):  # type: ignore[no-untyped-def]
    async def create(request, user):  # type: ignore[no-untyped-def]
        response = await work(request, user)
        made["created"] += 1
        return response

    return create


def _refuse(_: object) -> str:
    raise ProtocolError("it has no ShellId")


@pytest.mark.parametrize("fault", ["rejected", "refused"])
async def test_a_shell_that_was_certainly_not_created_is_not_deleted(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def note(self: WinrmHost, shell: hosts.Shell) -> None:
        asked.append(shell.id)

    monkeypatch.setattr(WinrmHost, "request_delete", note)
    async with windows_host() as host:
        pool = WinrmPool(WinrmConnector())
        async with pool.session(host.endpoint()) as session:
            if fault == "rejected":
                host.server.faults.forget_encryption = 2  # the repeated request, too
            else:
                host.server.faults.fault_before["Create"] = 5
            with pytest.raises(RemoteFailure):
                await session.start("exit 0")
            assert asked == []
        await pool.close()


async def test_closing_does_not_wait_for_a_shell_that_may_come_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts, "UNANSWERED_PAUSES", (0.0, NEVER, NEVER))
    async with windows_host() as host:
        pool = WinrmPool(WinrmConnector())
        async with pool.session(host.endpoint()) as session:
            host.server.faults.close_before["Create"] = 1
            with pytest.raises(RemoteFailure):
                await session.start("exit 0")
        async with asyncio.timeout(30):
            await pool.close()


# --- shells of dead workers


async def test_at_the_quota_the_shells_of_dead_workers_are_deleted_and_no_others() -> None:
    mine, dead, alive, other = (uuid4() for _ in range(4))
    asked: list[set[UUID]] = []

    async def find_dead(ids: Collection[UUID]) -> Collection[UUID]:
        asked.append(set(ids))
        return {dead, mine} & set(ids)

    async with windows_host(quotas=LabQuotas(shells=6)) as host, AsyncExitStack() as stack:
        endpoint = wide(host, 10)
        for owner in (dead, dead, alive, other):
            owners = ShellOwners(find_dead)
            owners.identify = lambda owner=owner: owner  # type: ignore[misc]
            pool = WinrmPool(WinrmConnector(), owners=owners)
            stack.push_async_callback(pool.close)
            session = await stack.enter_async_context(pool.session(endpoint))
            await session.start("sleep 60")
        shells = host.server.service.shells
        for name in ("opsjobs", f"opsjobs {dead} of another kind"):
            request = messages.create_shell(
                str(uuid4()).upper(), name, environment={}, folder=None, idle_seconds=60.0
            )
            (winrm,) = pool._hosts.values()
            await winrm.request(request)
        strangers = {id_ for id_, shell in shells.items() if shell.name != f"opsjobs {dead}"}
        assert (len(shells), len(strangers)) == (6, 4)
        owners = ShellOwners(find_dead)
        owners.identify = lambda: mine
        pool = WinrmPool(WinrmConnector(), owners=owners)
        stack.push_async_callback(pool.close)
        session = await stack.enter_async_context(pool.session(endpoint))
        async with asyncio.timeout(20):
            await session.start("sleep 60")
        assert asked == [{dead, alive, other}]
        assert strangers < set(shells)
        assert [shell.name for id_, shell in shells.items() if id_ not in strangers] == [
            f"opsjobs {mine}"
        ]


async def test_a_kept_shell_of_another_incarnation_is_not_used_again() -> None:
    owners = ShellOwners(_none_dead)
    async with windows_host() as host:
        pool = WinrmPool(WinrmConnector(), owners=owners)
        for owner in (uuid4(), uuid4()):
            owners.identify = lambda owner=owner: owner  # type: ignore[misc]
            async with pool.session(host.endpoint()) as session:
                await collect(await session.start("exit 0"))
        assert len({shell.name for shell in host.server.service.shells.values()}) == 2
        await pool.close()


@pytest.mark.parametrize("engine", ["winrs", "psrp"])
async def test_a_host_that_refuses_the_name_of_a_shell_gets_shells_without_a_name(
    engine: str,
) -> None:
    async with windows_host() as host:
        service = host.server.service
        service.takes_names = False
        pool = WinrmPool(WinrmConnector())
        async with pool.session(host.endpoint(engine=engine)) as session:
            for word in ("first", "second"):
                out, _, end = await collect(await session.start(f"echo {word}"))
                assert (out, end) == (f"{word}\n".encode(), RemoteExit(0))
            assert {shell.name for shell in service.shells.values()} == {""}
            (winrm,) = pool._hosts.values()
            assert not winrm.takes_names
        await pool.close()


async def _none_dead(_: Collection[UUID]) -> Collection[UUID]:
    return ()


# --- the end of a command


async def test_a_cancel_of_a_line_ends_what_it_left_before_its_proof(tmp_path: Path) -> None:
    async with windows_host() as host:
        pool = WinrmPool(WinrmConnector())
        async with pool.session(host.endpoint()) as session:
            process = await session.start("trap 'exit 3' TERM; echo up; sleep 60 & wait")
            await first(process, 3)
            assert await process.kill(10.0) is CancelProof.KILLED
            assert not host.server.service.shells
            process = await session.start("trap 'exit 3' TERM; echo up; sleep 60 & wait")
            await first(process, 3)
            host.server.faults.close_before["Delete"] = 2  # the repeated request, too
            assert await process.kill(10.0) is CancelProof.UNREACHABLE
        await pool.close()


# --- the test of a target


@pytest.mark.parametrize("hanging", [("shell",), ("durable", "file")])
async def test_a_step_of_a_test_that_hangs_ends_and_says_so(
    hanging: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with windows_host() as host:
        monkeypatch.setattr("opsjobs.remote.winrm.pool.STEP_SECONDS", 6.0)
        if "durable" in hanging:
            hang = "#!/bin/sh\nexec sleep 60\n"
            (host.folder / "programs" / "powershell.exe").write_text(hang)
        else:
            host.server.faults.hold_seconds["Create"] = 20.0
        pool = WinrmPool(WinrmConnector())
        late = [step for step in await pool.test(host.endpoint()) if not step.ok]
        assert tuple(step.name for step in late) == hanging
        assert {step.error for step in late} == {"It did not answer within 6 s."}
        assert {step.needed for step in late} == {hanging == ("shell",)}
        await pool.close()
