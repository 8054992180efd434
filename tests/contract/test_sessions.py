"""The contract of sessions, for every transport."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import get_args

import pytest

from contract.conftest import EVERY_BACKEND, NEVER, Backend, OpenBackend, backend_opener, collect
from kit.fake_remote import Break, Echo, FakeSessions, Gate, Pause
from kit.machines import local_endpoint
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof
from opsjobs.model.program import Program
from opsjobs.model.target import POSIX, Platform
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.remote.ssh.pool import SshPool


@pytest.fixture(params=EVERY_BACKEND)
def open_backend(request: pytest.FixtureRequest) -> OpenBackend:
    """Return an opener of each backend, including Windows."""
    return backend_opener(request)


async def run(
    backend: Backend, command: str, stdin: bytes = b""
) -> tuple[bytes, bytes, RemoteExit]:
    async with backend.sessions.session(backend.endpoint) as session:
        return await collect(await session.start(command, stdin=stdin))


async def test_the_output_and_the_exit_code_come_back(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        command = backend.script(
            "echo ok; echo oh >&2; exit 3",
            [Output("stdout", b"ok\n"), Output("stderr", b"oh\n"), RemoteExit(3)],
        )
        assert await run(backend, command) == (b"ok\n", b"oh\n", RemoteExit(3))


async def test_a_command_without_output_only_ends(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        assert await run(backend, backend.script("true", [RemoteExit(0)])) == (
            b"",
            b"",
            RemoteExit(0),
        )


@pytest.mark.parametrize(
    ("printf", "data"),
    [
        (r"a\000b\000", b"a\0b\0"),
        (r"\377\376\200", b"\xff\xfe\x80"),
        (r"no final newline", b"no final newline"),
        (r"\n\n", b"\n\n"),
        (r"opsjobs:\nopsjobs:0123456789abcdef 12\n", b"opsjobs:\nopsjobs:0123456789abcdef 12\n"),
        (r"ends like a mark opsjobs:", b"ends like a mark opsjobs:"),
    ],
)
async def test_bytes_come_back_exactly(open_backend: OpenBackend, printf: str, data: bytes) -> None:
    async with open_backend() as backend:
        command = f"printf '{printf}'; printf '{printf}' >&2"
        backend.script(command, [Output("stdout", data), Output("stderr", data), RemoteExit(0)])
        assert await run(backend, command) == (data, data, RemoteExit(0))


async def test_standard_input_reaches_the_command_and_ends(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        data = bytes(range(256)) * 1000
        assert await run(backend, backend.script("cat", [Echo(), RemoteExit(0)]), data) == (
            data,
            b"",
            RemoteExit(0),
        )


async def test_a_command_that_never_reads_its_input_still_ends(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        assert await run(backend, backend.script("exit 4", [RemoteExit(4)]), b"x" * 200_000) == (
            b"",
            b"",
            RemoteExit(4),
        )


async def test_a_command_without_input_reads_an_end_of_file(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        command = backend.script(
            "cat; echo done", [Echo(), Output("stdout", b"done\n"), RemoteExit(0)]
        )
        assert await run(backend, command) == (b"done\n", b"", RemoteExit(0))


async def test_a_signal_that_ends_the_command_is_named(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        _, _, end = await run(backend, backend.script("kill -KILL $$", [RemoteExit(None, "KILL")]))
        windows = backend.endpoint.target.winrm is not None  # Windows only has exit codes
        assert end == (RemoteExit(137) if windows else RemoteExit(None, "KILL"))


async def test_a_command_line_that_the_shell_cannot_read_fails_like_any_other(
    open_backend: OpenBackend,
) -> None:
    async with open_backend() as backend:
        command = backend.script(
            "echo before; )", [Output("stderr", b"sh: syntax error"), RemoteExit(2)]
        )
        out, err, end = await run(backend, command)
        assert (out, end.code) == (b"", 2)
        assert err


async def test_output_comes_before_the_command_ends(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        command = backend.script(
            "echo first; cat; sleep 30", [Output("stdout", b"first\n"), Pause(NEVER)]
        )
        async with backend.sessions.session(backend.endpoint) as session:
            process = await session.start(command)
            assert await anext(aiter(process)) == Output("stdout", b"first\n")
            assert await process.kill(0.5) is CancelProof.KILLED


async def test_several_commands_run_one_after_the_other_in_a_session(
    open_backend: OpenBackend,
) -> None:
    async with open_backend() as backend, backend.sessions.session(backend.endpoint) as session:
        for code in (0, 1, 2):
            process = await session.start(backend.script(f"exit {code}", [RemoteExit(code)]))
            assert await collect(process) == (b"", b"", RemoteExit(code))
            await process.close()


async def test_several_sessions_run_side_by_side(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        commands = [
            backend.script(f"echo {n}", [Output("stdout", b"%d\n" % n), RemoteExit(0)])
            for n in range(20)
        ]
        results = await asyncio.gather(*(run(backend, command) for command in commands))
        assert [out for out, _, _ in results] == [b"%d\n" % n for n in range(20)]


async def test_a_kill_ends_a_command_that_listens(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        command = backend.script("sleep 60", [Pause(NEVER)])
        async with backend.sessions.session(backend.endpoint) as session:
            process = await session.start(command)
            assert await process.kill(30.0) is CancelProof.KILLED
            assert (await collect(process))[2].signal == "TERM"


async def test_a_kill_ends_a_command_that_ignores_term(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        command = backend.script(
            "trap '' TERM; echo deaf; sleep 60; sleep 60",
            [Output("stdout", b"deaf\n"), Pause(NEVER)],
            ignores_term=True,
        )
        async with backend.sessions.session(backend.endpoint) as session:
            process = await session.start(command)
            assert await anext(aiter(process)) == Output("stdout", b"deaf\n")
            assert await process.kill(0.3) is CancelProof.KILLED
            assert (await collect(process))[2].signal == "KILL"


async def test_a_command_may_use_its_grace_to_tidy_up(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        if backend.fake is not None:
            return  # A script has no trap.
        command = "trap 'sleep 0.2; echo tidy; exit 7' TERM; echo up; sleep 60 & wait"
        async with backend.sessions.session(backend.endpoint) as session:
            process = await session.start(command)
            assert await anext(aiter(process)) == Output("stdout", b"up\n")
            assert await process.kill(30.0) is CancelProof.KILLED
            assert await collect(process) == (b"tidy\n", b"", RemoteExit(7))


async def test_a_kill_after_the_end_says_so(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, backend.sessions.session(backend.endpoint) as session:
        process = await session.start(backend.script("exit 5", [RemoteExit(5)]))
        assert await collect(process) == (b"", b"", RemoteExit(5))
        assert await process.kill(1.0) is CancelProof.ALREADY_FINISHED


async def test_a_kill_works_while_nobody_reads(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        endless = [Output("stdout", b"y\n" * 10_000)] * 1000
        command = backend.script("yes", [*endless, Pause(NEVER)])
        async with backend.sessions.session(backend.endpoint) as session:
            process = await session.start(command)
            assert await process.kill(2.0) is CancelProof.KILLED


async def test_a_session_may_be_left_while_a_command_runs(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        command = backend.script("sleep 3", [Pause(NEVER)])
        async with backend.sessions.session(backend.endpoint) as session:
            await session.start(command)
        assert (
            await run(
                backend, backend.script("echo still", [Output("stdout", b"still\n"), RemoteExit(0)])
            )
        )[0] == b"still\n"


async def test_a_reader_that_gives_up_disturbs_nobody(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        command = backend.script(
            "echo begun; sleep 3", [Output("stdout", b"begun\n"), Pause(NEVER)]
        )

        async def read() -> None:
            async with backend.sessions.session(backend.endpoint) as session:
                process = await session.start(command)
                async for _ in process:
                    begun.set()

        begun = asyncio.Event()
        reader = asyncio.create_task(read())
        await begun.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert (await run(backend, backend.script("exit 0", [RemoteExit(0)])))[2] == RemoteExit(0)


async def test_a_machine_that_answers_passes_the_trial(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        steps = await backend.sessions.test(backend.endpoint)
        needed = [step for step in steps if step.needed]
        assert all(step.ok for step in needed), steps
        assert needed[-1].name == "shell"


@pytest.mark.parametrize("platform", get_args(Platform))
async def test_a_session_keeps_to_its_capabilities(
    open_backend: OpenBackend, platform: str
) -> None:
    async with open_backend() as backend:
        there = replace(
            backend.endpoint, target=replace(backend.endpoint.target, platform=platform)
        )
        kind = type(backend.sessions)
        backend.script("exit 3", [RemoteExit(3)])
        async with backend.sessions.session(there) as session:
            can = session.capabilities
            assert can == (POSIX if kind is LocalSessions else there.target.capabilities)
            assert (session.durable() is not None) is can.durable
            assert await collect(await session.start("exit 3")) == (b"", b"", RemoteExit(3))
            if can.environment and can.posix_shell:
                program = Program(command="echo $NAME", env={"NAME": "ada"})
                backend.script("echo $NAME", [Output("stdout", b"ada\n"), RemoteExit(0)])
                assert (await collect(await session.start(program)))[0] == b"ada\n"
            if can.files:
                async with session.disk() as disk:
                    folder = await disk.look("/")
                assert folder is not None
                assert folder.kind == "folder"
        steps = {step.name for step in await backend.sessions.test(there)}
        if kind is SshPool:
            assert ("sudo" in steps, "sftp" in steps) == (can.become, can.files)


async def test_a_fake_breaks_and_waits_as_it_is_told() -> None:
    fakes, gate = FakeSessions(), Gate(asyncio.Event())
    fakes.machine("web-1").reply([Output("stdout", b"a"), gate, Break()])
    async with fakes.session(local_endpoint("web-1")) as session:
        process = await session.start("anything")
        pieces = aiter(process)
        assert await anext(pieces) == Output("stdout", b"a")
        await gate.reached.wait()
        gate.event.set()
        with pytest.raises(RemoteFailure):
            await anext(pieces)
    assert [start.command for start in fakes.machine("web-1").starts] == ["anything"]
