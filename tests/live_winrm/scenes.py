"""The contract of the WinRM transport, as scenes.

Their commands mean the same to cmd.exe and to the `/bin/sh` of the stand-in, so that each scene can
be played on both, recorded and replayed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest

from contract.conftest import collect
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program, RunKey, StartOrder
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.remote.winrm.pool import WinrmPool

NAME = "opsjobs-live.bin"
KEY = RunKey(UUID(int=20), "live", 1)


@dataclass(frozen=True, slots=True)
class HostUnderTest:
    """A host under test."""

    pool: WinrmPool
    endpoint: Endpoint

    def over(self, **options: Any) -> HostUnderTest:
        """Return the same host with other options of WinRM."""
        target = self.endpoint.target
        assert target.winrm is not None
        changed = target.winrm.model_copy(update=options)
        return replace(self, endpoint=replace(self.endpoint, target=replace_winrm(target, changed)))

    async def run(self, command: str | Program) -> tuple[str, str, RemoteExit]:
        """Return both streams as text with LF, and the exit."""
        async with self.pool.session(self.endpoint) as session:
            out, err, end = await collect(await session.start(command))
        return _text(out), _text(err), end


def replace_winrm(target: Any, options: Any) -> Any:
    """Return the target with these options."""
    return replace(target, winrm=options)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def script(text: str, **more: Any) -> Program:
    """Return a PowerShell script."""
    return Program(script=text.encode(), interpreter="powershell", **more)


async def output_and_exit_code(place: HostUnderTest) -> None:
    out, err, end = await place.run("echo out&& echo err 1>&2&& exit 3")
    assert (out.split(), err.split(), end) == (["out"], ["err"], RemoteExit(3))


async def variables_and_input(place: HostUnderTest) -> None:
    named = Program(command="echo %LIVE% $LIVE", env={"LIVE": "grün & 5"})
    assert "grün & 5" in (await place.run(named))[0]
    sort = Program(command="sort", stdin=b"b\nc\na\n")
    assert (await place.run(sort))[0].split() == ["a", "b", "c"]


async def a_missing_folder(place: HostUnderTest) -> None:
    _, _, end = await place.run(Program(command="echo never", cwd="Z:\\nowhere\\at-all"))
    assert (end.never_started, end.cause) == (True, "folder")


async def much_input_and_output(place: HostUnderTest) -> None:
    lines = "".join(f"{n:06} {'x' * 57}\n" for n in range(3000))
    out, _, end = await place.run(Program(command="sort", stdin=lines.encode()))
    assert (out, end.code) == (lines, 0)


async def a_script_with_arguments(place: HostUnderTest) -> None:
    text = "Write-Output \"got $args[0]\"\n[Console]::Error.WriteLine('careful')\nexit 9\n"
    out, err, end = await place.run(script(text, args=("grüße 日本",)))
    assert (out, end.code) == ("got grüße 日本\n", 9)
    assert "careful" in err


async def a_secret_is_a_file(place: HostUnderTest) -> None:
    text = 'Write-Output "in $env:OPSJOBS_SECRETS"\n'
    out, _, end = await place.run(script(text, secrets={"token": Secret("live-token")}))
    assert ("opsjobs-" in out, "live-token" in out, end.code) == (True, False, 0)


async def a_cancel(place: HostUnderTest) -> None:
    async with place.pool.session(place.endpoint) as session:
        process = await session.start(script("Write-Output 'up'\nStart-Sleep 600\n"))
        first = await anext(aiter(process))
        assert isinstance(first, Output)
        assert await process.kill(5) is CancelProof.KILLED


async def pipelines(place: HostUnderTest) -> None:
    over = place.over(engine="psrp")
    out, err, end = await over.run(
        "Write-Output 'out'; Write-Warning 'low disk'; Write-Error 'broken'; exit 4"
    )
    assert (out, end.code) == ("out\n", 4)
    assert "WARNING: low disk" in err
    assert "broken" in err


async def a_cancelled_pipeline(place: HostUnderTest) -> None:
    over = place.over(engine="psrp")
    async with over.pool.session(over.endpoint) as session:
        process = await session.start("Write-Output 'up'; Start-Sleep 600")
        assert await anext(aiter(process)) == Output("stdout", b"up\n")
        assert await process.kill(5) is CancelProof.KILLED


async def an_unknown_configuration(place: HostUnderTest) -> None:
    with pytest.raises(RemoteFailure) as refused:
        await place.over(engine="psrp", configuration="Opsjobs.Nowhere").run("Get-Command")
    assert refused.value.code in (ErrorCode.CONNECTION_LOST, ErrorCode.AUTH_FAILED)
    assert "WinRM fault" in refused.value.message


async def durable_runs(place: HostUnderTest) -> None:
    order = StartOrder(KEY, "echo durable&& exit 5", 60.0, grace_seconds=5.0)
    async with place.pool.session(place.endpoint) as session:
        durable = session.durable()
        assert durable is not None
        identity = await durable.identity()
        await durable.clean([KEY])  # left by an earlier run
        out, _, end = await collect(await durable.begin(order, identity))
        assert (_text(out), end.code) == ("durable\n", 5)
        again, _, end = await collect(await durable.attach(order, identity, (3, 0)))
        assert (_text(again), end.code) == ("able\n", 5)
        assert (await durable.cancel(KEY, 1.0)).proof is CancelProof.ALREADY_FINISHED
        assert await durable.clean([KEY]) == frozenset()


async def files(place: HostUnderTest) -> None:
    data = bytes(range(256)) * 64
    async with place.pool.session(place.endpoint) as session, session.disk() as disk:
        await disk.remove(NAME + ".part")
        draft = await disk.draft(NAME + ".part", must_be_new=True)
        await draft.write(0, data)
        await draft.sync()
        await draft.close()
        await disk.replace(NAME + ".part", NAME)
        assert await disk.digest(NAME) == hashlib.sha256(data).digest()
        there = await disk.open(NAME)
        assert await there.read(100, 50) == data[100:150]
        await there.close()
        await disk.remove(NAME)
        assert await disk.look(NAME) is None


async def the_test_of_the_target(place: HostUnderTest) -> None:
    steps = await place.pool.test(place.endpoint)
    assert [step.name for step in steps] == ["connect", "auth", "shell", "durable", "file"]
    assert all(step.ok for step in steps), steps


async def a_wrong_password(place: HostUnderTest) -> None:
    assert place.endpoint.credential is not None
    wrong = replace(place.endpoint.credential, password=Secret("not the password"), version=9)
    with pytest.raises(RemoteFailure) as refused:
        await replace(place, endpoint=replace(place.endpoint, credential=wrong)).run("exit 0")
    assert refused.value.code is ErrorCode.AUTH_FAILED


Scene = Callable[[HostUnderTest], Awaitable[None]]
SCENES: tuple[Scene, ...] = (
    output_and_exit_code,
    variables_and_input,
    a_missing_folder,
    much_input_and_output,
    a_script_with_arguments,
    a_secret_is_a_file,
    a_cancel,
    pipelines,
    a_cancelled_pipeline,
    an_unknown_configuration,
    durable_runs,
    files,
    the_test_of_the_target,
    a_wrong_password,
)
