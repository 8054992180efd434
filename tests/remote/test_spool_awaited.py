"""A short command costs no other process while a caller awaits it.

It gets a keeper as soon as no caller does.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kit.machines import local_endpoint
from opsjobs.model.program import StartOrder
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.spool import durable
from remote.spool_machines import Machine, account, machine, marked, open_machine, until

IN_MEMORY = ("dash", "busybox")
"""Shells that keep a here-document in memory."""


@pytest.mark.parametrize("shell", IN_MEMORY)
async def test_while_it_is_awaited_its_watchdog_starts_nothing(
    shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with account(shell) as made:
        async with open_machine(LocalSessions(), local_endpoint(), made) as web:
            await web.done("echo first")
            assert web.spool._login.awaits
            witness = _noted_sleeps(web)
            monkeypatch.setattr(durable, "LIVE_SECONDS", 3600.0)
            for number in range(10):
                assert await web.done(f"echo {number}") == (
                    f"{number}\n".encode(),
                    b"",
                    RemoteExit(0),
                )
            assert not witness.exists()
            monkeypatch.undo()
            # Followed live, it is watched as any other.
            assert await web.done("sleep 0.4; echo done") == (
                b"done\n",
                b"",
                RemoteExit(0),
            )
            assert witness.exists()


def _noted_sleeps(web: Machine) -> Path:
    """Let each `sleep` of this account write a line from now on; return the file."""
    witness = web.account.home / "sleeps"
    (web.account.programs / "sleep").unlink(missing_ok=True)
    (web.account.programs / "sleep").write_text(
        f'#!/bin/sh\necho "$@" >>"{witness}"\nexec /bin/sleep "$@"\n'
    )
    (web.account.programs / "sleep").chmod(0o755)
    return witness


async def test_a_shell_that_may_keep_it_in_a_file_is_not_given_it_so() -> None:
    with account("bash") as made:
        async with open_machine(LocalSessions(), local_endpoint(), made) as web:
            await web.done("true")
            assert web.spool._login.plain
            assert not web.spool._login.awaits


@pytest.mark.parametrize(
    "command",
    [
        'echo "$HOME" \'$x\' `echo y` \\\\ "\\$z" $((1+1))',
        "cat <<E\n$((1+2))\n\nE\n\n",
        "echo a \\\n  b; echo 'c\n  d'",
        'x=\'""\'; echo $x \'<<""\' \\a; echo ${x#?} $# "$@" $0',
        "  \techo blanks  'at  both'\t ends  \t",
        "echo 'Á ü € 😀'; echo Áüß€",
        "echo " + "x" * 900,
        "echo " + "€" * 900,
        "echo " + "x" * 5000,
    ],
)
@pytest.mark.parametrize("shell", IN_MEMORY)
async def test_it_is_the_same_command_either_way(shell: str, command: str) -> None:
    async with machine(shell) as web:
        awaited = await web.done(command)
        web.spool._login.awaits = False
        assert await web.done(command) == awaited
        assert awaited[2] == RemoteExit(0)


@pytest.mark.parametrize("shell", IN_MEMORY)
async def test_who_waited_is_gone_and_its_time_limit_holds(shell: str) -> None:
    async with machine(shell) as web:
        order = _endless(web)
        process = await web.begin(order)
        await process.close()
        await until(lambda: marked(order.key) == [])
        assert (await web.again(order))[2] == RemoteExit(None, "TERM", "timeout")


@pytest.mark.parametrize("shell", IN_MEMORY)
async def test_nobody_reads_what_it_says_and_its_time_limit_holds(shell: str) -> None:
    async with machine(shell) as web:
        order = _endless(web)
        await web.begin(order)
        await until(lambda: marked(order.key) == [])
        assert (await web.again(order))[2] == RemoteExit(None, "TERM", "timeout")


@pytest.mark.parametrize("shell", IN_MEMORY)
async def test_who_waited_is_gone_unnoticed_and_its_time_limit_holds_from_the_attach_on(
    shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only one half of a connection breaks, sshd keeps the other:

    standard input does not end.
    """
    monkeypatch.setattr(durable, "LIVE_SECONDS", 3600.0)
    async with machine(shell) as web:
        order = _endless(web)
        await web.begin(order)
        await asyncio.sleep(1.2)
        assert marked(order.key) != []
        assert (await web.again(order))[2] == RemoteExit(None, "TERM", "timeout")


def _endless(web: Machine) -> StartOrder:
    return web.order("while :; do sleep 1; done", timeout_seconds=0.3, grace_seconds=5.0)
