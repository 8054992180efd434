"""Programs on a Windows host start as they were sent, with files, input and exit code."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import tree_sitter
import tree_sitter_powershell

from contract.conftest import collect
from kit.windows_hosts import WindowsHost, until, windows_host
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import SCRIPT_BYTES_MAX, Program, RunKey, StartOrder
from opsjobs.model.secret import Secret
from opsjobs.remote.session import Output, RemoteExit, Session
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.remote.winrm.programs import (
    Launch,
    bootstrap_line,
    launch_program,
    launch_spool,
    order_parameters,
    quote_argument,
    read_helper,
)

EVERY_BYTE = bytes(range(256))


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[WindowsHost, Session]]:
    async with windows_host() as host:
        pool = WinrmPool(WinrmConnector())
        async with pool.session(host.endpoint()) as session:
            yield host, session
        await pool.close()


async def run(program: Program) -> tuple[bytes, bytes, RemoteExit]:
    async with opened() as (_, session):
        return await collect(await session.start(program))


async def test_a_command_has_its_variables_folder_and_input() -> None:
    program = Program(
        command='echo "$A"; pwd; cat; exit 5',
        env={"A": "b'\"<&>ü\t\nc"},
        cwd="/usr",
        stdin=EVERY_BYTE * 1000,
    )
    out, err, end = await run(program)
    assert out == "b'\"<&>ü\t\nc\n/usr\n".encode() + EVERY_BYTE * 1000
    assert (err, end) == (b"", RemoteExit(5))


async def test_a_missing_folder_starts_nothing() -> None:
    _, _, end = await run(Program(command="echo never", cwd="/nowhere"))
    assert end.cause == "folder"
    assert end.never_started
    assert "/nowhere" in (end.detail or "")


async def test_a_script_is_run_from_a_file_with_its_arguments() -> None:
    args = ("", " ", 'a"b', "c\\", 'd\\"', "%PATH%", "ünï", "*", "x y\\\\", "&|<>^")
    script = b"import sys; sys.stdout.write(repr(sys.argv[1:])); sys.exit(200)"
    out, err, end = await run(Program(script=script, interpreter="python", args=args))
    assert (out, err, end) == (repr(list(args)).encode(), b"", RemoteExit(200))


async def test_a_script_arrives_byte_for_byte() -> None:
    script = b'cat "$0"; exit 0\n' + EVERY_BYTE * 1000
    script = (script + b"x" * SCRIPT_BYTES_MAX)[:SCRIPT_BYTES_MAX]
    out, _, end = await run(Program(script=script, interpreter="sh"))
    assert out == script
    assert end == RemoteExit(0)


async def test_secrets_are_files_that_are_gone_afterwards() -> None:
    secrets = {"token": Secret("s3cr3t"), "key": Secret("ü\n")}
    script = b"""
import os, sys
folder = os.environ["OPSJOBS_SECRETS"]
print(folder, sorted(os.listdir(folder)), open(folder + "/token").read())
print(sys.stdin.read())
"""
    async with opened() as (_, session):
        program = Program(script=script, interpreter="python", secrets=secrets, stdin=b"in")
        out, _, end = await collect(await session.start(program))
        folder, _, rest = out.decode().partition(" ")
        assert rest == "['key', 'token'] s3cr3t\nin\n"
        assert end == RemoteExit(0)
        gone = await collect(await session.start(f"ls -d {folder}"))
        assert gone[2].code != 0


async def test_a_command_may_have_secrets() -> None:
    program = Program(
        command="cat $OPSJOBS_SECRETS/token; exit 9", secrets={"token": Secret("s3cr3t")}
    )
    assert await run(program) == (b"s3cr3t", b"", RemoteExit(9))


@pytest.mark.parametrize(
    ("interpreter", "script", "out"),
    [
        ("powershell", b'Write-Output "$env:A $args[0]"\nexit 9', b"1 b c\r\n"),
        ("cmd", b"@echo off\r\necho 1 $1\r\nexit 9\r\n", b"1 b c\n"),
        ("sh", b'echo "$A $1"; exit 9', b"1 b c\n"),
    ],
)
async def test_the_interpreter_is_the_one_that_was_asked_for(
    interpreter: str, script: bytes, out: bytes
) -> None:
    program = Program(script=script, interpreter=interpreter, args=("b c",), env={"A": "1"})
    assert await run(program) == (out, b"", RemoteExit(9))


async def test_a_missing_interpreter_is_told_apart_from_every_exit_code() -> None:
    _, err, end = await run(Program(script=b"exit 1", interpreter="ruby"))
    assert (err, end.code, end.cause) == (b"", None, "interpreter")
    assert "ruby" in (end.detail or "")


async def test_the_output_of_a_script_comes_as_it_is_written_and_a_kill_removes_its_files() -> None:
    script = b"import os,sys,time; print(os.path.dirname(__file__), flush=True); time.sleep(60)"
    async with opened() as (host, session):
        process = await session.start(Program(script=script, interpreter="python"))
        first = await anext(aiter(process))
        assert isinstance(first, Output)
        assert await process.kill(10) is CancelProof.KILLED
        # a process that survives its helper ends with the shell
        assert not host.server.service.shells
        assert (await collect(process))[2].signal == "TERM"
        folder = first.data.decode().strip()
        assert (await collect(await session.start(f"ls -d {folder}")))[2].code != 0


async def test_the_folder_of_a_program_whose_helper_was_killed_is_removed() -> None:
    script = b"import os,signal,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    script += b"print(os.environ['OPSJOBS_SECRETS'], flush=True); time.sleep(60)"
    program = Program(script=script, interpreter="python", secrets={"token": Secret("s3cr3t")})
    async with opened() as (_, session):
        process = await session.start(program)
        first = await anext(aiter(process))
        assert isinstance(first, Output)
        folder = Path(first.data.decode().strip()).parent
        assert folder.name.startswith("opsjobs-")
        assert await process.kill(0.1) is CancelProof.KILLED
        assert (await collect(process))[2].signal == "KILL"
        await until(lambda: not folder.exists())


@pytest.mark.parametrize(
    ("interpreter", "script", "sent"),
    [
        ("powershell", "echo ü".encode(), b"\xef\xbb\xbf" + "echo ü".encode()),
        ("powershell", b"\xef\xbb\xbfecho \xc3\xbc", b"\xef\xbb\xbfecho \xc3\xbc"),
        ("powershell", b"echo \xfc", b"echo \xfc"),
        ("powershell", b"echo u", b"echo u"),
        ("pwsh", "echo ü".encode(), "echo ü".encode()),
    ],
)
def test_windows_powershell_is_told_that_a_script_is_utf8(
    interpreter: str, script: bytes, sent: bytes
) -> None:
    launch = launch_program(Program(script=script, interpreter=interpreter))
    assert launch.stdin is not None
    assert parameters(launch)["script"] == len(sent)
    assert launch.stdin.endswith(b"}" + sent)


def parameters(launch: Launch) -> dict[str, Any]:
    """Return the arguments of the helper's cmdlets, which a host may log (event 4103)."""
    assert launch.stdin is not None
    header, _, rest = launch.stdin.partition(b"\n")
    helper, given = map(int, header.split())
    found: dict[str, Any] = json.loads(rest[helper : helper + given])
    return found


@pytest.mark.parametrize("durable", [False, True])
def test_what_a_cmdlet_is_given_holds_no_secret_no_script_and_no_input(durable: bool) -> None:
    program = Program(
        script=b"echo the script",
        interpreter="sh",
        secrets={"token": Secret("s3cr3t"), "key": Secret("\u00fc")},
        stdin=b"the input",
    )
    if durable:
        order = StartOrder.for_program(RunKey(uuid4(), "step-1", 1), program, 60.0)
        given, data = order_parameters(order)
        launch = launch_spool({"op": "start", **given}, data)
    else:
        launch = launch_program(program)
    assert launch.stdin is not None
    assert launch.stdin.endswith("}echo the scripts3cr3t\u00fcthe input".encode())
    logged = json.dumps(parameters(launch))
    for value in (b"s3cr3t", "\u00fc".encode(), b"echo the script", b"the input"):
        assert value.decode() not in logged
        assert base64.b64encode(value).decode() not in logged
    assert parameters(launch)["secrets"] == [
        {"name": "token", "size": 6},
        {"name": "key", "size": 2},
    ]
    assert b"s3cr3t" not in launch.line.encode()


async def test_an_empty_script_and_an_empty_secret_are_files_as_well() -> None:
    found = await run(Program(script=b"", interpreter="sh", secrets={"none": Secret("")}))
    assert found == (b"", b"", RemoteExit(0))


def test_a_program_does_not_learn_the_nonce_of_its_reports() -> None:
    launch = launch_program(Program(script=b"exit 0", interpreter="sh"))
    assert launch.nonce is not None
    assert launch.place is not None
    assert launch.nonce not in launch.place


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo a\necho b", "use a script"),
        ("x" * 9000, "8191 characters"),
        ("echo \x01", "control character"),
    ],
)
async def test_a_line_that_cmd_cannot_read_is_refused(command: str, words: str) -> None:
    async with opened() as (_, session):
        with pytest.raises(RemoteFailure) as refused:
            await session.start(Program(command=command))
        assert refused.value.code is ErrorCode.INTERNAL
        assert words in refused.value.message


def test_arguments_are_quoted_as_windows_programs_split_them() -> None:
    assert quote_argument("a b") == '"a b"'
    assert quote_argument('a"b') == '"a\\"b"'
    assert quote_argument("a\\") == '"a\\\\"'
    assert quote_argument('a\\"') == '"a\\\\\\""'
    assert quote_argument("") == '""'


def test_the_helper_fits_in_a_line_and_is_known_by_its_first_one() -> None:
    assert len(bootstrap_line()) < 8191
    assert " -OutputFormat Text " in bootstrap_line()
    assert read_helper("bootstrap").startswith("$ProgressPreference='SilentlyContinue'\n")
    assert read_helper("run").startswith("# opsjobs-helper run 1\n")


def test_the_helpers_are_powershell() -> None:
    """Checked with a parser of others: PowerShell itself cannot be run here."""
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    for name in ("bootstrap", "run", "clean", "spool"):
        tree = parser.parse(read_helper(name).encode())
        assert not tree.root_node.has_error, name
