"""Durable runs by way of every login shell, also of one that greets before it does anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.conftest import Ground, Opening, collect
from contract.durables import SAY, alive, first, machine
from kit.accounts import account, needs
from kit.machines import endpoint_of
from kit.servers import open_folder
from kit.sessions import run
from kit.sshd import Sshd
from opsjobs.model.execution import CancelProof
from opsjobs.remote.session import Exit
from remote.conftest import pool

GREETING = "echo 'Welcome to web-1, all you who enter. There is no second line!'\n"
COMPLAINT = "echo 'last login: never' >&2\n"


@dataclass(frozen=True, slots=True)
class Shell:
    """A program that can be a login shell, and the file of the home that it reads for a command, too."""

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
    """Each shell that this machine has, as what may stand in /etc/passwd."""
    wanted = SHELLS[request.param]
    found = needs(wanted.program)
    if wanted.program != "busybox":
        yield Shell(found, wanted.startup)
        return
    folder = Path("/var/tmp") / f"opsjobs-busybox-{os.getpid()}"
    folder.mkdir(mode=0o755)
    (folder / "ash").symlink_to(found)  # it is what it is called
    yield Shell(str(folder / "ash"))
    shutil.rmtree(folder)


@pytest.fixture
def ground(server: Sshd, shell: Shell) -> Iterator[Opening]:
    """A machine whose account has this login shell, which greets whenever it is started."""
    files = {shell.startup: GREETING + COMPLAINT.replace(" >&2", "") if "csh" in shell.program else GREETING + COMPLAINT}
    with account(shell=shell.program, files=files if shell.startup else {}) as user:  # type: ignore[arg-type]
        server.authorize(user, (server.folder / "login.pub").read_text().strip())

        @asynccontextmanager
        async def open_ground() -> AsyncIterator[Ground]:
            with open_folder() as folder:
                folder.chmod(0o777)
                async with pool() as sessions:
                    yield Ground(sessions, endpoint_of(server, user=user), folder)

        yield open_ground


async def test_a_greeting_is_seen_by_who_runs_directly(ground: Opening, shell: Shell) -> None:
    """So that the tests below prove something."""
    async with ground() as here:
        out, _, exited = await run(here.sessions, here.endpoint, "true")
    assert exited == Exit(0)
    assert (b"Welcome" in out) is (shell.startup is not None)


async def test_output_and_exit_status_are_the_commands_alone(ground: Opening) -> None:
    async with machine(ground) as web:
        order = web.order(f'{SAY}; echo "it\'s $0"; exit 3')
        assert await web.done(order) == (b"one\0\xffit's sh\n", b"\xfetwo\n", Exit(3))
        assert web.starts(order) == 1


async def test_a_run_that_takes_long_is_followed_live_let_go_and_found_again(ground: Opening) -> None:
    async with machine(ground) as web:
        latch = web.latch()
        order = web.order(f"echo first; {latch.wait}; echo last")
        process = await web.begin(order)
        assert await first(process, 6) == b"first\n"
        await process.close()
        async with web.elsewhere() as again:
            process = await again.attach(order, (6, 0))
            latch.open()
            assert await collect(process) == (b"last\n", b"", Exit(0))
        assert web.starts(order) == 1


async def test_it_is_killed_with_proof_and_looked_at(ground: Opening) -> None:
    async with machine(ground) as web:
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


async def test_nothing_is_left_but_the_name_of_the_store(ground: Opening) -> None:
    async with machine(ground) as web:
        order = web.order("true")
        await web.done(order)
        await web.durable.clean([order.key])
        left = web.order("cd .opsjobs && find . -type f")
        out, _, _ = await web.done(left)
        assert sorted(name for name in out.decode().split() if str(left.key) not in name) == ["./id"]
