"""Durable runs through every login shell, including one that prints a greeting first."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from contract.conftest import Backend, OpenBackend, collect
from contract.durable_machines import SAY, alive, first, machine
from kit.backing_servers import open_folder
from kit.command_runs import run
from kit.machines import endpoint_of
from kit.os_accounts import account, needs
from kit.sshd import Sshd
from opsjobs.model.execution import CancelProof
from opsjobs.model.program import Program, RunKey, StartOrder
from opsjobs.model.secret import Secret
from opsjobs.remote.session import Output, RemoteExit
from remote.conftest import pool

GREETING = "echo 'Welcome to web-1, all you who enter. There is no second line!'\n"
COMPLAINT = "echo 'last login: never' >&2\n"


@dataclass(frozen=True, slots=True)
class Shell:
    """A login shell, and the file of the home that it reads for a command, too."""

    program: str
    startup: str | None = None


SHELLS = {
    "sh": Shell("sh"),
    "bash": Shell("bash", ".bashrc"),
    "rbash": Shell("rbash", ".bashrc"),
    "dash": Shell("dash"),
    "csh": Shell("csh", ".cshrc"),
    "tcsh": Shell("tcsh", ".tcshrc"),
    "fish": Shell("fish", ".config/fish/config.fish"),
    "busybox": Shell("busybox"),
    "zsh": Shell("zsh", ".zshenv"),
    "ksh": Shell("ksh"),
    "mksh": Shell("mksh"),
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Yield each shell that this machine has, as it would be in /etc/passwd."""
    wanted = SHELLS[request.param]
    found = needs(wanted.program)
    if wanted.program != "busybox":
        yield Shell(found, wanted.startup)
        return
    folder = Path("/var/tmp") / f"opsjobs-busybox-{os.getpid()}"
    folder.mkdir(mode=0o755)
    (folder / "ash").symlink_to(found)  # its name decides what it is
    yield Shell(str(folder / "ash"))
    shutil.rmtree(folder)


@pytest.fixture
def open_backend(server: Sshd, shell: Shell) -> Iterator[OpenBackend]:
    """Yield a machine whose account has this login shell, which greets at each start."""
    files = {
        shell.startup: GREETING + COMPLAINT.replace(" >&2", "")
        if "csh" in shell.program
        else GREETING + COMPLAINT
    }
    with account(shell=shell.program, files=files if shell.startup else {}) as user:  # type: ignore[arg-type]
        server.authorize(user, (server.folder / "login.pub").read_text().strip())

        @asynccontextmanager
        async def open_here() -> AsyncIterator[Backend]:
            with open_folder() as folder:
                folder.chmod(0o777)
                async with pool() as sessions:
                    yield Backend(sessions, endpoint_of(server, user=user), folder)

        yield open_here


async def test_a_greeting_is_seen_by_who_runs_directly(
    open_backend: OpenBackend, shell: Shell
) -> None:
    """Without it, the tests below would prove nothing."""
    async with open_backend() as backend:
        out, _, exited = await run(backend.sessions, backend.endpoint, "true")
    assert exited == RemoteExit(0)
    assert (b"Welcome" in out) is (shell.startup is not None)


async def test_output_and_exit_status_are_the_commands_alone(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order(f'{SAY}; echo "it\'s $0"; exit 3')
        assert await web.done(order) == (b"one\0\xffit's sh\n", b"\xfetwo\n", RemoteExit(3))
        assert web.starts(order) == 1


@pytest.mark.parametrize("durably", [True, False])
async def test_a_script_has_all_that_it_is_given_and_its_end_is_its_own(
    open_backend: OpenBackend, shell: Shell, durably: bool
) -> None:
    async with machine(open_backend) as web:
        script = (
            b'printf "%s\\0" "$@" "$A" "$(pwd)"; cat; cat "$OPSJOBS_SECRETS/s"; exit 127 # \xff\r'
        )
        given = ("a b", "", "it's\n!\\")
        program = Program(
            script=script,
            args=given,
            env={"A": "'$x"},
            cwd="/usr",
            stdin=b"\0in",
            secrets={"s": Secret("!'\n")},
        )
        said = "".join(f"{word}\0" for word in (*given, "'$x", "/usr")).encode() + b"\0in!'\n"
        lacking = replace(program, interpreter="/nowhere/sh")
        async with web.backend.sessions.session(web.backend.endpoint) as session:
            for wanted in (program, lacking):
                order = StartOrder.for_program(RunKey(uuid4(), "step-1", 1), wanted, 60.0)
                out, err, end = await collect(
                    await (web.begin(order) if durably else session.start(wanted))
                )
                assert (end.code, end.cause) == (
                    (127, None) if wanted is program else (None, "interpreter")
                )
                # A direct run shows the greeting, and messages of a restricted shell.
                assert (
                    out == said
                    if durably and wanted is program
                    else out.endswith(said if wanted is program else b"")
                )
                assert err == b"" or not durably
                if durably:
                    await web.durable.clean([order.key])


async def test_a_direct_command_has_its_variables_and_its_end_is_its_own(
    open_backend: OpenBackend,
) -> None:
    async with open_backend() as backend, backend.sessions.session(backend.endpoint) as session:
        told = {
            "OPSJOBS_TARGET": "web-1",
            "OPSJOBS_HOST": "fe80::1%eth0",
            "OPSJOBS_JOB": "it's $x !y \\\\ `z` * ~",
        }
        command = (
            'printf "%s|" "$OPSJOBS_TARGET" "$OPSJOBS_HOST" "$OPSJOBS_JOB" "it\'s $0 a!b"; exit 3'
        )
        out, _, end = await collect(await session.start(Program(command=command, env=told)))
    # the greeting is part of it
    assert out.endswith(f"{'|'.join([*told.values(), ''])}it's sh a!b|".encode())
    assert end == RemoteExit(3)


async def test_a_direct_command_is_one_line_and_its_shell_is_learnt_on_the_way(
    open_backend: OpenBackend, shell: Shell
) -> None:
    async with open_backend() as backend:
        told = {"OPSJOBS_JOB": 'it\'s $x `z` * ~ "q"'}
        seen = []
        for command, wanted in (
            ('echo "$OPSJOBS_JOB" "it\'s $0"; cat; exit 3', 3),
            (
                "echo a\necho b; exit 4",
                4,
            ),  # not a single line: it is sent another way, or as it is if the shell is known
            ("echo before; )", 2),
            ("kill -9 $$", None),
        ):
            async with backend.sessions.session(backend.endpoint) as session:
                out, err, end = await collect(
                    await session.start(Program(command=command, env=told))
                )
            assert (end.code, end.cause) == (wanted, None)
            assert b"opsjobs:" not in out + err
            seen.append(out)
        assert seen[0].endswith(f"{told['OPSJOBS_JOB']} it's sh\n".encode()) or seen[0].endswith(
            b" it's dash\n"
        )
        assert seen[1].endswith(b"a\nb\n")
        assert b"before" not in seen[2]


async def test_a_direct_command_is_killed_with_its_children_and_proof(
    open_backend: OpenBackend, shell: Shell
) -> None:
    async with open_backend() as backend, backend.sessions.session(backend.endpoint) as session:
        process = await session.start(
            Program(
                command="trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo at $!; wait"
            )
        )
        said = b""
        async for piece in process:
            assert isinstance(piece, Output)
            said += piece.data if piece.stream == "stdout" else b""
            if found := re.search(rb"at ([0-9]+)\n", said):
                break
        assert found is not None
        killing = asyncio.create_task(process.kill(0.1))
        await collect(process)
        assert await killing is CancelProof.KILLED
        assert not alive(int(found[1]))


async def test_a_direct_script_has_its_grace_and_leaves_nothing(
    open_backend: OpenBackend, shell: Shell
) -> None:
    async with open_backend() as backend, backend.sessions.session(backend.endpoint) as session:
        script = (
            b"trap 'echo tidy; exit 7' TERM; echo at:$OPSJOBS_SECRETS; while :; do sleep 0.05; done"
        )
        process = await session.start(Program(script=script, secrets={"s": Secret("x")}))
        said = b""
        async for piece in process:
            assert isinstance(piece, Output)
            said += piece.data if piece.stream == "stdout" else b""
            if re.search(rb"at:.*\n", said):
                break
        place = Path(said.partition(b"at:")[2].decode().strip())
        assert place.name == "secrets"
        killing = asyncio.create_task(process.kill(30.0))
        out, _, end = await collect(process)
        assert await killing is CancelProof.KILLED
        # A restricted shell stays the parent of ours, and does not survive the signal itself.
        assert end == RemoteExit(7) if "rbash" not in shell.program else end.signal == "TERM"
        assert out == b"tidy\n" or "rbash" in shell.program
        async with asyncio.timeout(60):
            while place.parent.exists():
                await asyncio.sleep(0.02)


async def test_a_run_that_takes_long_is_followed_live_let_go_and_found_again(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        latch = web.latch()
        order = web.order(f"echo first; {latch.wait}; echo last")
        process = await web.begin(order)
        assert await first(process, 6) == b"first\n"
        await process.close()
        async with web.elsewhere() as again:
            process = await again.attach(order, (6, 0))
            latch.open()
            assert await collect(process) == (b"last\n", b"", RemoteExit(0))
        assert web.starts(order) == 1


async def test_it_is_killed_with_proof_and_looked_at(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait")
        process = await web.begin(order)
        child = int(await first(process, 2))
        assert alive(child)
        assert await web.durable.look(order.key) is None
        settled = await web.durable.cancel(order.key, 0.2)
        assert settled.proof is CancelProof.KILLED
        assert not alive(child)
        seen = await web.durable.look(order.key)
        assert seen is not None
        assert seen.exit == settled.exit
        await process.close()


async def test_nothing_is_left_but_the_name_of_the_store(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("true")
        await web.done(order)
        await web.durable.clean([order.key])
        left = web.order("cd .opsjobs && find . -type f")
        out, _, _ = await web.done(left)
        assert sorted(name for name in out.decode().split() if str(left.key) not in name) == [
            "./id"
        ]
