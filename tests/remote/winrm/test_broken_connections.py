"""Connections to Windows hosts that break, expire or are forgotten, and quotas of hosts."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract.conftest import collect
from kit.windows_hosts import WindowsHost, until, windows_host
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.remote.winrm import connection
from opsjobs.remote.winrm import host as hosts
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.host import SHELL_GONE
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.remote.winrm.process import OPERATION_TIMEOUT, REFUSED_MAX
from opsjobs.standalone.lab.wsman.envelopes import WsmanRefusal
from opsjobs.standalone.lab.wsman.service import LabQuotas


@asynccontextmanager
async def pooled(
    quotas: LabQuotas | None = None, *, secure: bool = False
) -> AsyncIterator[tuple[WindowsHost, WinrmPool]]:
    async with windows_host(quotas=quotas, secure=secure) as host:
        pool = WinrmPool(WinrmConnector())
        try:
            yield host, pool
        finally:
            await pool.close()


async def run(
    host: WindowsHost, pool: WinrmPool, command: str | Program
) -> tuple[bytes, bytes, RemoteExit]:
    async with pool.session(host.endpoint()) as session:
        return await collect(await session.start(command))


def commands(host: WindowsHost) -> list[str]:
    """Return the commands that the host still has."""
    return [name for shell in host.server.service.shells.values() for name in shell.commands]


async def test_a_shell_and_its_connection_are_used_again() -> None:
    async with pooled() as (host, pool):
        for code in range(5):
            assert (await run(host, pool, f"exit {code}"))[2] == RemoteExit(code)
            # The host has removed the command, and the response to that request has arrived.
            await until(lambda: commands(host) == [] and pool.idle_connections == 1)
        assert host.server.connections == 1
        assert len(host.server.service.shells) == 1


async def test_a_shell_is_used_again_only_for_the_same_variables() -> None:
    async with pooled() as (host, pool):
        for value in "aabbaa":
            program = Program(command="echo $A", env={"A": value})
            assert (await run(host, pool, program))[0] == f"{value}\n".encode()
        assert len(host.server.service.shells) == 2


async def test_no_more_than_two_idle_shells_are_kept_and_none_is_left_behind() -> None:
    async with pooled() as (host, pool):
        for value in "abcdef":
            await run(host, pool, Program(command="echo $A", env={"A": value}))
        await until(lambda: len(host.server.service.shells) == 2)
        await pool.close()
        assert host.server.service.shells == {}


async def test_a_request_that_ends_after_its_pool_was_closed_leaves_no_connection() -> None:
    async with pooled() as (host, pool):
        await run(host, pool, "exit 0")
        (winrm,) = pool._hosts.values()
        async with winrm.connection():
            await pool.close()
            assert pool.connections == 1
        assert pool.idle_connections == 0
        await until(lambda: not host.server.idle)


async def test_a_connection_that_the_host_has_closed_is_not_noticed() -> None:
    async with pooled() as (host, pool):
        await run(host, pool, "exit 0")
        await until(lambda: commands(host) == [] and pool.idle_connections == 1)
        host.server.close_connections()
        assert (await run(host, pool, "exit 3"))[2] == RemoteExit(3)
        assert host.server.connections == 2


async def test_a_shell_that_the_host_has_deleted_is_replaced() -> None:
    async with pooled() as (host, pool):
        await run(host, pool, "exit 0")
        await until(lambda: commands(host) == [])
        await host.server.service.close()
        assert (await run(host, pool, "exit 3"))[2] == RemoteExit(3)


@pytest.mark.parametrize("action", ["Create", "Command", "Receive", "Send", "Signal"])
async def test_a_host_that_has_forgotten_the_encryption_is_logged_in_to_again(action: str) -> None:
    async with pooled() as (host, pool):
        await run(host, pool, "exit 0")
        host.server.faults.forget_encryption = 1
        assert (await run(host, pool, f"echo {action}; exit 3"))[2] == RemoteExit(3)
        assert host.server.faults.forget_encryption == 0


async def test_a_command_whose_start_was_not_confirmed_is_found_and_followed(
    tmp_path: Path,
) -> None:
    async with pooled() as (host, pool):
        host.server.faults.close_after["Command"] = 1
        command = f"echo x >>{tmp_path}/starts; echo done"
        assert await run(host, pool, command) == (b"done\n", b"", RemoteExit(0))
        assert (tmp_path / "starts").read_text() == "x\n"


@pytest.mark.parametrize("often", [1, 2])
async def test_a_start_that_certainly_did_not_arrive_is_sent_again_once(
    tmp_path: Path, often: int
) -> None:
    async with pooled() as (host, pool):
        await run(host, pool, "exit 0")  # it honours our ids
        host.server.faults.close_before["Command"] = often
        command = f"echo x >>{tmp_path}/starts"
        if often == 1:
            assert (await run(host, pool, command))[2] == RemoteExit(0)
            assert (tmp_path / "starts").read_text() == "x\n"
            return
        with pytest.raises(RemoteFailure) as failed:
            await run(host, pool, command)
        assert failed.value.code is ErrorCode.CONNECTION_LOST
        assert host.server.service.shells == {}
        assert not (tmp_path / "starts").exists()


async def test_a_start_is_lost_if_the_host_was_never_seen_to_honour_our_ids() -> None:
    async with pooled() as (host, pool):
        host.server.faults.close_before["Command"] = 1
        with pytest.raises(RemoteFailure) as failed:
            await run(host, pool, "exit 0")
        assert failed.value.code is ErrorCode.LOST


@pytest.mark.parametrize("fault", [OPERATION_TIMEOUT, 0x80338012, 1450])
async def test_a_command_that_started_in_spite_of_a_fault_is_found_and_followed(
    tmp_path: Path, fault: int
) -> None:
    async with pooled() as (host, pool):
        host.server.faults.fault_after["Command"] = fault
        command = f"echo x >>{tmp_path}/starts; echo done"
        assert await run(host, pool, command) == (b"done\n", b"", RemoteExit(0))
        assert (tmp_path / "starts").read_text() == "x\n"


@pytest.mark.parametrize("fault", [OPERATION_TIMEOUT, 0x80338012, 1450])
async def test_a_fault_that_may_precede_the_start_of_the_command_is_lost(
    tmp_path: Path, fault: int
) -> None:
    async with pooled() as (host, pool):
        await run(host, pool, "exit 0")  # it honours our ids
        host.server.faults.fault_before["Command"] = fault
        with pytest.raises(RemoteFailure) as failed:
            await run(host, pool, f"echo x >>{tmp_path}/starts")
        assert failed.value.code is ErrorCode.LOST
        assert str(fault) in failed.value.message
        assert not (tmp_path / "starts").exists()


async def test_a_start_that_the_host_may_still_perform_is_lost_and_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pooled() as (host, pool):
        await run(host, pool, "exit 0")  # it honours our ids
        monkeypatch.setattr("opsjobs.remote.winrm.connection.MORE_SECONDS", -17.0)
        host.server.faults.hold_seconds["Command"] = 8.0
        with pytest.raises(RemoteFailure) as failed:
            await run(host, pool, f"echo x >>{tmp_path}/starts")
        assert failed.value.code is ErrorCode.LOST
        assert "no answer within 3 s" in failed.value.message
        starts = tmp_path / "starts"
        await until(lambda: starts.exists() and starts.read_text() == "x\n")


async def test_an_empty_refusal_over_tls_does_not_show_that_nothing_was_done(
    tmp_path: Path,
) -> None:
    async with pooled(secure=True) as (host, pool):
        host.server.faults.empty_after["Command"] = 1
        command = f"echo x >>{tmp_path}/starts; echo done"
        assert await run(host, pool, command) == (b"done\n", b"", RemoteExit(0))
        assert (tmp_path / "starts").read_text() == "x\n"


@pytest.mark.parametrize("fault", [0x803381A6, 0x80338041, SHELL_GONE, 2])
async def test_a_refusal_to_start_the_command_is_not_lost(fault: int) -> None:
    async with pooled() as (host, pool):
        host.server.faults.fault_before["Command"] = fault
        with pytest.raises(RemoteFailure) as failed:
            await run(host, pool, "exit 0")
        assert failed.value.code is ErrorCode.CONNECTION_LOST


async def test_a_lost_response_is_asked_for_again_and_the_end_says_so() -> None:
    async with pooled() as (host, pool):
        host.server.faults.close_after["Receive"] = 1
        out, _, end = await run(host, pool, "echo out; exit 3")
        assert out == b"out\n"
        assert end.code == 3
        assert "the connection broke" in (end.detail or "")


async def test_a_command_whose_input_was_cut_off_is_lost() -> None:
    async with pooled() as (host, pool):
        host.server.faults.close_before["Send"] = 1
        async with pool.session(host.endpoint()) as session:
            process = await session.start("sleep 1; exit 0", stdin=b"x" * 500_000)
            with pytest.raises(RemoteFailure) as lost:
                await collect(process)
            assert lost.value.code is ErrorCode.LOST
            assert "input was cut off" in lost.value.message


@pytest.mark.parametrize("fault", [OPERATION_TIMEOUT, 1450])
@pytest.mark.parametrize("size", [0, 1000, 500_000])
async def test_a_command_whose_input_was_refused_is_lost_and_ended(fault: int, size: int) -> None:
    async with pooled() as (host, pool), pool.session(host.endpoint()) as session:
        host.server.faults.fault_before["Send"] = fault
        process = await session.start("cat", stdin=b"x" * size)
        async with asyncio.timeout(60):  # it waits for more
            with pytest.raises(RemoteFailure) as lost:
                await collect(process)
        assert lost.value.code is ErrorCode.LOST
        assert "input was cut off" in lost.value.message
        assert str(fault) in lost.value.message
        await until(lambda: host.server.service.shells == {})


QUOTA = 0x803381A6


@pytest.mark.parametrize("action", ["Receive", "Send"])
async def test_a_quota_that_refuses_a_request_costs_a_running_command_nothing(
    action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.remote.winrm.process.REFUSED_PAUSE_SECONDS", 0.01)
    async with pooled() as (host, pool):
        host.server.faults.fault_before[action] = QUOTA
        program = Program(command="cat; exit 3", stdin=b"in" * 100_000)
        assert await run(host, pool, program) == (b"in" * 100_000, b"", RemoteExit(3))
        assert not host.server.faults.fault_before


async def test_a_command_is_lost_if_a_quota_refuses_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("opsjobs.remote.winrm.process.REFUSED_PAUSE_SECONDS", 0.001)
    refused = 0

    async def refuse(*_: object) -> None:
        nonlocal refused
        refused += 1
        raise WsmanRefusal(QUOTA, "The maximum number of concurrent operations is exceeded.")

    async with pooled() as (host, pool), pool.session(host.endpoint()) as session:
        monkeypatch.setattr(host.server.service, "_receive", refuse)
        process = await session.start("exec sleep 60")
        with pytest.raises(RemoteFailure) as lost:
            await collect(process)
        assert lost.value.code is ErrorCode.LOST
        assert str(QUOTA) in lost.value.message
        assert refused == REFUSED_MAX + 1


@pytest.mark.parametrize("fault", [109, 232, 0x8007006D, 0x800700E8, 995])
async def test_a_command_that_has_closed_its_input_ends_as_it_does(fault: int) -> None:
    async with pooled() as (host, pool), pool.session(host.endpoint()) as session:
        host.server.faults.fault_before["Send"] = fault
        process = await session.start("exec <&-; exit 3", stdin=b"x" * 500_000)
        assert (await collect(process))[2] == RemoteExit(3)


async def test_a_program_is_lost_if_the_report_of_its_start_did_not_arrive() -> None:
    async with pooled() as (host, pool):
        host.server.service.repeats_output = False
        host.server.faults.close_after["Receive"] = 1
        with pytest.raises(RemoteFailure) as lost:
            await run(host, pool, Program(script=b"exit 0", interpreter="sh"))
        assert lost.value.code is ErrorCode.LOST
        assert "the connection broke" in lost.value.message


@pytest.mark.parametrize("fault", [5, 0x803381A6])
async def test_the_shell_of_a_command_that_did_not_start_is_deleted(fault: int) -> None:
    async with pooled() as (host, pool):
        host.server.faults.fault_before["Command"] = fault
        with pytest.raises(RemoteFailure):
            await run(host, pool, "exit 0")
        await until(lambda: host.server.service.shells == {})


async def test_the_shell_of_a_command_that_ended_and_is_lost_is_deleted() -> None:
    async with pooled() as (host, pool):
        host.server.faults.hide_exit_codes = True
        with pytest.raises(RemoteFailure):
            await run(host, pool, "exit 0")
        await until(lambda: host.server.service.shells == {})


@pytest.mark.parametrize("name", ["received_in", "send_input"])
async def test_a_command_that_cannot_be_followed_is_lost_and_does_not_hang(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pooled() as (host, pool), pool.session(host.endpoint()) as session:
        process = await session.start("cat", stdin=b"x" * 500_000)

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("out of order")

        monkeypatch.setattr(f"opsjobs.remote.winrm.process.messages.{name}", fail)
        async with asyncio.timeout(60):
            with pytest.raises(RemoteFailure) as lost:
                await collect(process)
        assert lost.value.code is ErrorCode.LOST
        assert "out of order" in lost.value.message


@pytest.mark.parametrize("position", [0, 1, 2, 3])
async def test_a_request_that_was_not_encrypted_is_sent_on_another_connection(
    position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = connection.seal, itertools.count()

    def seal(*arguments: Any) -> tuple[str, bytes]:
        if next(seen) == position:
            raise ssl.SSLError("out of order")
        return real(*arguments)

    monkeypatch.setattr(connection, "seal", seal)
    async with pooled() as (host, pool):
        assert (await run(host, pool, "exit 3"))[2] == RemoteExit(3)
        assert host.server.connections == 2


async def test_a_command_that_ends_without_an_exit_code_is_lost() -> None:
    async with pooled() as (host, pool):
        host.server.faults.hide_exit_codes = True
        with pytest.raises(RemoteFailure) as lost:
            await run(host, pool, "exit 3")
        assert lost.value.code is ErrorCode.LOST
        assert "did not say how" in lost.value.message


async def test_a_command_whose_shell_is_gone_is_lost() -> None:
    async with pooled() as (host, pool), pool.session(host.endpoint()) as session:
        process = await session.start("echo up; sleep 60")
        pieces = aiter(process)
        assert await anext(pieces) == Output("stdout", b"up\n")
        closing = asyncio.create_task(host.server.service.close())
        with pytest.raises(RemoteFailure) as lost:
            await anext(pieces)
        assert lost.value.code is ErrorCode.LOST
        assert await process.kill(0.1) is CancelProof.ALREADY_FINISHED
        await closing


async def test_a_cancel_does_not_wait_for_the_request_that_waits_for_output() -> None:
    async with pooled() as (host, pool):
        async with pool.session(host.endpoint()) as session:
            process = await session.start("sleep 60")
            await until(lambda: host.server.connections == 1)
            async with asyncio.timeout(15):  # the request waits for 20 seconds
                assert await process.kill(4.0) is CancelProof.KILLED
        assert host.server.connections == 2


async def test_a_long_silence_is_bridged_by_further_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("opsjobs.remote.winrm.process.POLL_SECONDS", 0.2)
    async with pooled() as (host, pool):
        assert await run(host, pool, "sleep 1; echo late") == (b"late\n", b"", RemoteExit(0))


async def test_output_arrives_while_the_command_runs_however_much_there_is() -> None:
    async with pooled() as (host, pool):
        command = "head -c 3000000 /dev/zero; echo end >&2"
        out, err, end = await run(host, pool, command)
        assert (len(out), err, end) == (3_000_000, b"end\n", RemoteExit(0))


@pytest.mark.parametrize(("shells", "slots"), [(3, 10), (30, 50), (10, 50)])
async def test_fifty_runs_pass_through_a_host_that_allows_few_shells(
    shells: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "QUOTA_PAUSE_SECONDS", 0.2)
    async with pooled(LabQuotas(shells=shells)) as (host, pool):
        endpoint = host.endpoint()
        endpoint = replace(endpoint, target=replace(endpoint.target, slots=slots))
        seen = []

        async def one(n: int) -> RemoteExit:
            program = Program(command="exit $N", env={"N": str(n)})
            async with pool.session(endpoint) as session:
                end = (await collect(await session.start(program)))[2]
            seen.append(len(host.server.service.shells))
            return end

        ends = await asyncio.gather(*(one(n) for n in range(50)))
        assert ends == [RemoteExit(n) for n in range(50)]
        assert max(seen) <= shells


async def test_a_host_that_stays_full_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "QUOTA_PAUSE_SECONDS", 0.001)
    async with pooled(LabQuotas(shells=0)) as (host, pool):
        with pytest.raises(RemoteFailure) as busy:
            await run(host, pool, "exit 0")
        assert busy.value.code is ErrorCode.TARGET_BUSY
        assert "maximum number of concurrent shells" in busy.value.message
