"""Durable runs on a Windows host: faults on the way to them, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from contract.conftest import Latch, collect
from contract.durable_machines import first
from kit.windows_hosts import until, windows_host
from kit.windows_runs import break_spool, runs
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program, RunKey, StartOrder
from opsjobs.model.secret import Secret
from opsjobs.remote.session import (
    CancelOutcome,
    ContactLost,
    RemoteExit,
    SpoolUnavailable,
)
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.remote.winrm.programs import HELPER_IDLE_SECONDS
from opsjobs.standalone.lab.wsman import spool_stand_in


@pytest.mark.parametrize("action", ["Create", "Command", "Send", "Receive"])
@pytest.mark.parametrize("done", [False, True])
async def test_a_response_that_was_lost_costs_no_byte_and_no_second_start(
    action: str, done: bool
) -> None:
    async with runs() as on:
        order = on.order("echo out; echo err >&2; exit 3")
        faults = on.host.server.faults
        (faults.close_after if done else faults.close_before)[action] = 1
        await on.pool.close()  # nothing is kept, so that each action is needed
        pool = WinrmPool(WinrmConnector())
        async with pool.session(on.host.endpoint()) as session:
            durable = session.durable()
            assert durable is not None
            for _ in range(3):  # as the engine does, with the same order
                try:
                    end = await collect(await durable.begin(order, on.identity))
                    break
                except RemoteFailure:
                    continue
        await pool.close()
        assert end == (b"out\n", b"err\n", RemoteExit(3))
        assert on.starts == 1


async def test_the_helper_that_follows_a_run_ends_with_its_reader_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    async with runs() as on:
        latch = Latch(tmp_path / "latch")
        order = on.order(f"echo up; {latch.wait}; echo done")
        process = await on.durable.begin(order, on.identity)
        assert await first(process, 3) == b"up\n"
        following = on.shells
        await process.close()
        await until(lambda: on.shells < following)
        latch.open()
        rest = await collect(await on.durable.attach(order, on.identity, (3, 0)))
        assert rest == (b"done\n", b"", RemoteExit(0))


async def test_the_shells_of_a_dead_worker_are_gone_after_minutes_and_its_run_goes_on(
    tmp_path: Path,
) -> None:
    async with runs() as on:
        latch = Latch(tmp_path / "latch")
        order = on.order(f"echo up; {latch.wait}; echo done")
        await first(await on.durable.begin(order, on.identity), 3)
        service = on.host.server.service
        dead = [*service.shells]
        on.host.server.close_connections()
        await until(lambda: not any(shell.requests for shell in service.shells.values()))
        service.now = lambda: time.monotonic() + HELPER_IDLE_SECONDS + 1
        latch.open()
        heir = WinrmPool(WinrmConnector())
        async with heir.session(on.host.endpoint()) as session:
            durable = session.durable()
            assert durable is not None
            rest = await collect(await durable.attach(order, on.identity, (3, 0)))
            assert rest == (b"done\n", b"", RemoteExit(0))
            assert not set(dead) & set(service.shells)
        await heir.close()


async def test_a_host_that_closes_idle_connections_is_not_noticed(tmp_path: Path) -> None:
    async with runs() as on:
        (winrm,) = on.pool._hosts.values()

        async def idle_for_minutes(*, following: bool) -> None:
            """Close all connections except that of a request for output."""
            requests = [int(following)] * 2
            await until(lambda: [winrm.connections - winrm.idle_connections, held()] == requests)
            await until(all_are_closed)

        def all_are_closed() -> bool:
            # Repeatedly, as a host sees a connection as idle after the client has its response.
            on.host.server.close_idle_connections()
            return not any(connection.usable for connection in winrm._idle)

        def held() -> int:
            return sum(shell.requests for shell in on.host.server.service.shells.values())

        for n in range(3):
            await idle_for_minutes(following=False)
            latch = Latch(tmp_path / f"latch-{n}")
            order = on.order(f"echo up; {latch.wait}; echo late")
            process = await on.durable.begin(order, on.identity)
            assert await first(process, 3) == b"up\n"
            await idle_for_minutes(following=True)
            latch.open()
            assert await collect(process) == (b"late\n", b"", RemoteExit(0))
            await process.close()


async def test_a_script_with_secrets_leaves_no_secret_when_it_has_ended() -> None:
    async with runs() as on:
        program = Program(
            script=b'echo "$OPSJOBS_SECRETS" >&2; cat "$OPSJOBS_SECRETS/token"; cat; exit 4',
            interpreter="sh",
            secrets={"token": Secret("s3cr3t")},
            stdin=b" in",
        )
        order = StartOrder.for_program(RunKey(uuid4(), "step-1", 1), program, 60.0)
        out, err, end = await collect(await on.durable.begin(order, on.identity))
        assert (out, end) == (b"s3cr3t in", RemoteExit(4))
        folder = Path(err.decode().strip())
        assert not folder.exists()
        assert sorted(entry.name for entry in folder.parent.iterdir()) == [
            *("1", "2", "end", "keeper", "program", "start")
        ]


async def test_a_start_that_was_cut_off_is_voided_and_never_begins() -> None:
    """Like a worker and a helper that were killed between the start file and the keeper."""
    async with runs() as on:
        order = on.order("exit 0")
        folder = on.host.folder / "home" / ".opsjobs" / "runs" / str(order.key)
        folder.mkdir()
        (folder / "start").write_text(order.digest)
        assert await on.durable.look(order.key) is None
        cancelled = asyncio.create_task(on.durable.cancel(order.key, 0.0))
        assert await cancelled == CancelOutcome(CancelProof.NEVER_STARTED)
        assert not (folder / "keeper").exists()


KEEPER_FAULT = """
def _start(self, folder, start=LabSpool._start_keeper):
    start(self, folder)
    while {waits} and not (folder / "keeper").exists():
        time.sleep(0.01)
    {fault}


LabSpool._start_keeper = _start
"""


async def test_a_helper_that_dies_after_it_started_the_keeper_leaves_a_run_not_nothing() -> None:
    async with runs() as on:
        break_spool(on, KEEPER_FAULT.format(waits=True, fault="os._exit(1)"))
        order = on.order("echo once")
        with pytest.raises(ContactLost):
            await on.durable.begin(order, on.identity)
        end = await collect(await on.durable.begin(order, on.identity))
        assert end == (b"once\n", b"", RemoteExit(0))
        assert on.starts == 1


async def test_a_keeper_that_came_although_its_start_failed_is_followed() -> None:
    async with runs() as on:
        break_spool(on, KEEPER_FAULT.format(waits=True, fault="raise OSError"))
        end = await collect(await on.durable.begin(on.order("echo once"), on.identity))
        assert end == (b"once\n", b"", RemoteExit(0))
        assert on.starts == 1


async def test_a_keeper_that_did_not_come_when_its_start_failed_never_begins() -> None:
    async with runs() as on:
        late = "def _start(self, folder):\n    raise OSError\n\n\nLabSpool._start_keeper = _start"
        break_spool(on, late)
        order = on.order("echo never")
        with pytest.raises(SpoolUnavailable):
            await on.durable.begin(order, on.identity)
        folder = on.host.folder / "home" / ".opsjobs" / "runs" / str(order.key)
        await asyncio.to_thread(spool_stand_in.keep, folder)  # it arrives after all
        assert (folder / "end").read_text().split() == ["n", "-"]
        assert not (on.host.folder / "home" / "starts").exists()


async def test_an_end_without_its_exit_code_is_lost_and_not_an_error() -> None:
    async with runs() as on:
        order = on.order("exit 0")
        await collect(await on.durable.begin(order, on.identity))
        folder = on.host.folder / "home" / ".opsjobs" / "runs" / str(order.key)
        (folder / "end").write_text(" -")
        with pytest.raises(RemoteFailure) as lost:
            await collect(await on.durable.attach(order, on.identity, (0, 0)))
        assert lost.value.code is ErrorCode.LOST
        ended = CancelOutcome(CancelProof.ALREADY_FINISHED)
        assert await on.durable.look(order.key) == ended
        assert await on.durable.cancel(order.key, 0.0) == ended


async def test_a_run_that_ends_by_itself_while_it_is_cancelled_keeps_its_exit_code() -> None:
    async with runs() as on:
        order = on.order("exit 3")
        cause = f"$HOME/.opsjobs/runs/{order.key}/cause"
        order = replace(order, command=f"printf cancel >{cause}; exit 3")
        end = await collect(await on.durable.begin(order, on.identity))
        assert end == (b"", b"", RemoteExit(3))


async def test_a_store_whose_name_cannot_be_read_is_not_taken_for_another() -> None:
    async with runs() as on:
        (on.host.folder / "home" / ".opsjobs" / "id").write_text("")
        with pytest.raises(RemoteFailure, match="cannot read") as failed:
            await on.durable.begin(on.order("exit 0"), on.identity)
        assert failed.value.code is ErrorCode.CONNECTION_LOST


async def test_without_powershell_there_are_no_durable_runs() -> None:
    async with runs() as on:
        (on.host.folder / "programs" / "powershell.exe").write_text("#!/bin/sh\nexit 9009\n")
        with pytest.raises(SpoolUnavailable, match="PowerShell 3 or newer is needed"):
            await on.durable.identity()


@pytest.mark.parametrize(
    ("owner", "age_seconds", "stays"),
    [
        ("gone", 120, False),
        ("gone", 5, True),
        ("alive", 120, True),
        ("none", 3600, True),
        ("none", 90_000, False),
    ],
)
async def test_the_folder_of_a_program_whose_helper_is_gone_is_removed(
    owner: str, age_seconds: float, stays: bool
) -> None:
    async with runs() as on:
        folder = Path(tempfile.gettempdir(), f"opsjobs-{uuid4().hex}")
        folder.mkdir()
        (folder / "secrets").mkdir()
        started = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
        if owner != "none":
            started = started if owner == "alive" else "1"
            (folder / "owner").write_text(f"{os.getpid()} {started}")
        moment = time.time() - age_seconds
        os.utime(folder, (moment, moment))
        try:
            await on.durable.clean([RunKey(uuid4(), "step-1", 1)])
            assert folder.exists() == stays
        finally:
            if folder.exists():
                for path in sorted(folder.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
                folder.rmdir()


async def test_as_many_runs_use_a_host_as_its_slots_allow(tmp_path: Path) -> None:
    async with windows_host() as host:
        pool = WinrmPool(WinrmConnector())
        endpoint = host.endpoint()
        wide = replace(endpoint, target=replace(endpoint.target, slots=12))
        latch = Latch(tmp_path / "latch")

        async def one() -> RemoteExit:
            async with pool.session(wide) as session:
                return (await collect(await session.start(latch.wait)))[2]

        running = [asyncio.create_task(one()) for _ in range(14)]
        shells = host.server.service.shells
        await until(lambda: sum(len(shell.commands) for shell in shells.values()) == 12)
        await until(lambda: (pool.connections, pool.idle_connections) == (12, 0))
        latch.open()
        assert await asyncio.gather(*running) == [RemoteExit(0)] * 14
        await pool.close()
