"""Commands in runspaces of a Windows host (PSRP): streams, exit codes, input, cancel, JEA."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psrpcore
import pytest
from psrpcore.types import ErrorCategoryInfo, ErrorRecord, NETException, PSCustomObject

from contract.conftest import collect
from kit.windows_hosts import WindowsHost, until, windows_host
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.secret import Secret
from opsjobs.remote.session import Output, RemoteExit, Session, Stream
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.host import SHELL_GONE
from opsjobs.remote.winrm.messages import ProtocolError
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.remote.winrm.process import OPERATION_TIMEOUT
from opsjobs.remote.winrm.programs import UnsupportedProgram
from opsjobs.remote.winrm.psrp import OBJECT_BYTES_MAX, Fragments, plan_commands
from opsjobs.remote.winrm.records import RecordWriter, render
from opsjobs.standalone.lab.wsman.envelopes import SHELL, WsmanRefusal
from opsjobs.standalone.lab.wsman.service import POWERSHELL, LabQuotas

JEA = "Maintenance.JEA"
QUOTA = 0x803381A6


@asynccontextmanager
async def opened(
    quotas: LabQuotas | None = None, **options: Any
) -> AsyncIterator[tuple[WindowsHost, Session]]:
    async with windows_host(quotas=quotas) as host:
        host.server.service.configurations.add(f"{POWERSHELL}/{JEA}")
        pool = WinrmPool(WinrmConnector())
        try:
            async with pool.session(host.endpoint(engine="psrp", **options)) as session:
                yield host, session
        finally:
            await pool.close()


async def run(command: str | Program, **options: Any) -> tuple[str, str, RemoteExit]:
    async with opened(**options) as (host, session):
        out, err, end = await collect(await session.start(command))
        await session.close()  # type: ignore[attr-defined]  only sessions over WinRM have it
        await until(lambda: not host.server.service.shells)
        return out.decode(), err.decode(), end


async def test_each_stream_of_powershell_comes_where_it_belongs() -> None:
    script = """
Write-Output 'grüße'
Write-Host 'host'
Write-Information 'info'
Write-Warning 'low disk'
Write-Verbose 'detail'
Write-Debug 'inside'
Write-Error 'broken'
Write-Progress Copying '3 of 4' 75
[pscustomobject]@{Name='spooler'}
"""
    out, err, end = await run(script.strip().replace("\n", ";"))
    assert out == "grüße\nhost\ninfo\nName : spooler\n"
    assert err.splitlines() == [
        "WARNING: low disk",
        "VERBOSE: detail",
        "DEBUG: inside",
        "broken",
        "    + FullyQualifiedErrorId : LabError",
        "PROGRESS: Copying: 3 of 4 (75 %)",
    ]
    assert end == RemoteExit(0)


@pytest.mark.parametrize(
    ("text", "code", "err"),
    [
        ("exit 5", 5, ""),
        ("exit -1", -1, ""),
        (
            "throw 'no such disk'",
            1,
            "no such disk\n    + FullyQualifiedErrorId : RuntimeException\n",
        ),
        ("sh -c 'exit 7'", 7, ""),
        ("Write-Error 'only this'", 0, "only this\n    + FullyQualifiedErrorId : LabError\n"),
    ],
)
async def test_the_exit_code_is_that_of_exit_of_an_error_or_of_the_last_program(
    text: str, code: int, err: str
) -> None:
    assert await run(text) == ("", err, RemoteExit(code))


async def test_a_script_has_arguments_variables_folder_and_input() -> None:
    program = Program(
        script=b"\xef\xbb\xbfWrite-Output \"$env:A $args[0]\"\n$input\nsh -c 'pwd; exit 4'\n",
        interpreter="powershell",
        args=("b c",),
        env={"A": "ü"},
        cwd="/usr",
        stdin="eins\nzwei ü\n".encode(),
    )
    # The exit code of a script is that of exit, as with -File.
    assert await run(program) == ("ü b c\neins\nzwei ü\n/usr\n", "", RemoteExit(0))


async def test_a_missing_folder_starts_nothing() -> None:
    _, _, end = await run(Program(command="Write-Output never", cwd="/nowhere"))
    assert end.never_started
    assert "/nowhere" in (end.detail or "")


async def test_programs_with_secrets_or_another_interpreter_run_as_with_winrs() -> None:
    script = b"import os,sys; sys.stdout.write(open(os.environ['OPSJOBS_SECRETS']+'/t').read())"
    program = Program(script=script, interpreter="python", secrets={"t": Secret("s3cr3t")})
    async with opened() as (_, session):
        assert await collect(await session.start(program)) == (b"s3cr3t", b"", RemoteExit(0))


async def test_large_objects_and_inputs_come_in_fragments() -> None:
    async with opened(LabQuotas(envelope_kib=150)) as (host, session):
        out, _, end = await collect(await session.start("Write-Large 3000000"))
        assert (len(out), end) == (3_000_001, RemoteExit(0))
        lines = "".join(f"{n} " + "x" * 1000 + "\n" for n in range(1000))
        out, _, end = await collect(
            await session.start(Program(command="$input", stdin=lines.encode()))
        )
        assert out.decode() == lines
        large = f"Write-Output '{'ä' * 300_000}'"
        out, _, end = await collect(await session.start(large))
        assert out.decode() == "ä" * 300_000 + "\n"
        assert host.server.service.largest_request_bytes <= 150 << 10


async def test_output_comes_as_it_is_written_and_a_cancel_stops_the_pipeline() -> None:
    async with opened() as (host, session):
        process = await session.start("Write-Output up; Start-Sleep 600")
        assert await anext(aiter(process)) == Output("stdout", b"up\n")
        assert await process.kill(10) is CancelProof.KILLED
        assert (await collect(process))[2] == RemoteExit(None, "TERM")
        assert await process.kill(1) is CancelProof.ALREADY_FINISHED
        await process.close()
        await until(lambda: not host.server.service.shells)


async def test_a_pipeline_that_does_not_stop_ends_with_its_pool() -> None:
    async with opened() as (host, session):
        process = await session.start("Write-Output up; Start-Sleep 600")
        await anext(aiter(process))
        host.server.faults.fault_before["Signal"] = 1450
        assert await process.kill(0.1) is CancelProof.KILLED
        assert (await collect(process))[2] == RemoteExit(None, "KILL")
        assert not host.server.service.shells


async def test_what_one_run_changes_does_not_reach_the_next() -> None:
    async with opened() as (_, session):
        first = Program(command="Write-Output $env:A", env={"A": "1"})
        assert (await collect(await session.start(first)))[0] == b"1\n"
        assert (await collect(await session.start("Write-Output $env:A")))[0] == b"\n"


@pytest.mark.parametrize("action", ["Create", "Command", "Receive"])
async def test_a_broken_connection_is_told_from_a_start_that_did_not_happen(action: str) -> None:
    async with opened() as (host, session):
        if action == "Receive":
            process = await session.start("Start-Sleep -Milliseconds 300; Write-Output out")
            host.server.faults.close_after["Receive"] = 1
            out, _, end = await collect(process)
            assert (out, end.code) == (b"out\n", 0)
            assert "the connection broke" in (end.detail or "")
            return
        host.server.faults.close_after[action] = 1
        with pytest.raises(RemoteFailure) as failed:
            await session.start("Write-Output never")
        lost = ErrorCode.LOST if action == "Command" else ErrorCode.CONNECTION_LOST
        assert failed.value.code is lost


@pytest.mark.parametrize(
    ("which", "fault", "code"),
    [
        ("fault_after", OPERATION_TIMEOUT, ErrorCode.LOST),
        ("fault_after", 1450, ErrorCode.LOST),
        ("fault_before", SHELL_GONE, ErrorCode.CONNECTION_LOST),
    ],
)
async def test_only_a_refusal_shows_that_a_pipeline_has_not_started(
    which: str, fault: int, code: ErrorCode
) -> None:
    async with opened() as (host, session):
        getattr(host.server.faults, which)["Command"] = fault
        with pytest.raises(RemoteFailure) as failed:
            await session.start("Write-Output never")
        assert failed.value.code is code


async def test_quotas_are_waited_for() -> None:
    async with opened(LabQuotas(shells=1)) as (_, session):
        for n in range(3):
            process = await session.start(f"Write-Output {n}")
            assert (await collect(process))[0] == b"%d\n" % n
            await process.close()


@pytest.mark.parametrize("action", ["Receive", "Send"])
async def test_a_quota_that_refuses_a_request_costs_a_running_pipeline_nothing(
    action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.remote.winrm.process.REFUSED_PAUSE_SECONDS", 0.01)
    async with opened() as (host, session):
        host.server.faults.fault_before[action] = QUOTA
        program = Program(command="$input; exit 3", stdin=b"one\ntwo\n")
        assert await collect(await session.start(program)) == (b"one\ntwo\n", b"", RemoteExit(3))
        assert not host.server.faults.fault_before


async def test_a_pipeline_whose_input_a_quota_refuses_for_long_is_lost_and_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("opsjobs.remote.winrm.process.REFUSED_PAUSE_SECONDS", 0.001)

    async def refuse(*_: object) -> None:
        raise WsmanRefusal(QUOTA, "The maximum number of concurrent operations is exceeded.")

    async with opened() as (host, session):
        monkeypatch.setitem(host.server.service._actions, f"{SHELL}/Send", refuse)
        process = await session.start(Program(command="$input", stdin=b"one\n"))
        with pytest.raises(RemoteFailure) as lost:
            await collect(process)
        assert lost.value.code is ErrorCode.LOST
        assert "its input was cut off (The maximum number of" in lost.value.message
        assert f"(WinRM fault {QUOTA})" in lost.value.message
        await until(lambda: not host.server.service.shells)


async def test_a_jea_endpoint_is_sent_commands_and_no_script() -> None:
    command = "Get-Parameters -Name 'a b' -Force -Id 5 plain"
    out, _, end = await run(command, configuration=JEA)
    assert out == "Name='a b'\nForce=True\nId=5\nNone='plain'\n"
    assert end == RemoteExit(0)
    ours = Program(command="Get-Parameters -Id 1", env={"OPSJOBS_TARGET": "win-1"})
    assert (await run(ours, configuration=JEA))[0] == "Id=1\n"
    _, err, end = await run("Stop-Everything", configuration=JEA)
    assert "'Stop-Everything' is not recognized" in err
    assert end == RemoteExit(1)
    for program in (
        "Get-Service; Stop-Service x",
        Program(script=b"exit 0", interpreter="powershell"),
        Program(command="Get-Service", env={"A": "1"}),
    ):
        with pytest.raises(RemoteFailure) as refused:
            await run(program, configuration=JEA)
        assert refused.value.code is ErrorCode.INTERNAL


async def test_an_unknown_configuration_is_a_refusal() -> None:
    with pytest.raises(RemoteFailure) as refused:
        await run("Get-Command", configuration="Nowhere")
    assert refused.value.code is ErrorCode.CONNECTION_LOST
    assert "Nowhere" in refused.value.message


def test_only_commands_with_literal_values_are_commands() -> None:
    plan = plan_commands("Get-Item -Path:C:\\x -Recurse | Where-Object Name 'it''s' -eq \"b c\"")
    assert plan.commands == (
        ("Get-Item", (("Path", "C:\\x"), ("Recurse", True))),
        ("Where-Object", ((None, "Name"), (None, "it's"), ("eq", "b c"))),
    )
    assert plan_commands("a 0042 42 -b:-7 \"it''s\"").commands == (
        ("a", ((None, "0042"), (None, 42), ("b", -7), (None, "it''s"))),
    )
    for text in (
        "a; b", "a $b", "a (b)", "a {b}", "a \"$b\"", "a `b", "a @b", "a > b", "a & b", "a && b",
        "a [b]", "a 'b", "& a", "a | | b", "", "-a", "a\nb;c", "a #b", "a \u2018b\u2019", "a b'c'",
    ):  # fmt: skip
        with pytest.raises(UnsupportedProgram):
            plan_commands(text)


def test_lines_of_the_input_end_with_line_ends_only() -> None:
    assert plan_commands("a", stdin="b\x0cc\u2028d\r\ne\n\nf\rg\n".encode()).lines == (
        "b\x0cc\u2028d", "e", "", "f", "g",
    )  # fmt: skip
    assert plan_commands("a").lines == ()
    assert plan_commands("a", stdin=b"\n").lines == ("",)


def test_fragments_are_whole_however_they_are_cut() -> None:
    core = psrpcore.ClientRunspacePool()
    core.open()
    payload = core.data_to_send(500)
    whole = b""
    while payload is not None:
        whole, payload = whole + payload.data, core.data_to_send(500)
    for size in (1, 7, 20, 21, 22, 499, 10_000):
        cut = Fragments()
        assert (
            b"".join(cut.add(whole[at : at + size]) for at in range(0, len(whole), size)) == whole
        )
    endless = Fragments()
    header = bytes(16) + b"\0" + (1 << 20).to_bytes(4, "big")
    for _ in range(OBJECT_BYTES_MAX >> 20):
        endless.add(header + bytes(1 << 20))
    with pytest.raises(ProtocolError, match="32 MiB"):
        endless.add(header + bytes(1 << 20))


def test_objects_are_shown_as_text() -> None:
    assert render(None) == ""
    assert render(value=True) == "True"
    assert render([1, "b"]) == "1\nb"
    assert render({"a": 1}) == "a : 1"
    assert render(PSCustomObject(Name="x", Count=3)) == "Name  : x\nCount : 3"


def test_an_error_without_details_is_its_message() -> None:
    written: list[tuple[Stream, bytes]] = []
    writer = RecordWriter(lambda stream, data: written.append((stream, data)))
    error = ErrorRecord(Exception=NETException(Message="boom"), CategoryInfo=ErrorCategoryInfo())
    writer.write_error(error)
    writer.write_error(None)
    assert written == [("stderr", b"boom\n")]


async def test_the_test_of_a_target_has_the_steps_psrp_and_file() -> None:
    async with windows_host() as host:
        host.server.service.configurations.add(f"{POWERSHELL}/{JEA}")
        pool = WinrmPool(WinrmConnector())
        steps = await pool.test(host.endpoint(engine="psrp"))
        assert [(s.name, s.ok) for s in steps] == [
            ("connect", True), ("auth", True), ("psrp", True), ("file", True)
        ]  # fmt: skip
        steps = await pool.test(host.endpoint(engine="psrp", configuration=JEA))
        assert [(s.name, s.ok) for s in steps] == [
            ("connect", True),
            ("auth", True),
            ("psrp", True),
        ]
        steps = await pool.test(host.endpoint(engine="psrp", configuration="None"))
        assert [s.ok for s in steps] == [True, True, False]
        await pool.close()
