"""The connection test reports sudo and SFTP in addition to the steps that sessions need."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.backing_servers import open_folder
from kit.machines import endpoint_of
from kit.sshd import sshd
from remote.conftest import pool

# No shell finds a program with this name, by which sshd calls its own SFTP server.
NO_SFTP = 'ForceCommand eval "$SSH_ORIGINAL_COMMAND"'
PATH = "/usr/local/bin:/usr/bin:/bin"


def sudo(folder: Path, script: str) -> str:
    """Return a setting of sshd with which commands find this sudo."""
    program = folder / "sudo"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    folder.chmod(0o755)
    return f"SetEnv PATH={folder}:{PATH}"


async def test_a_machine_with_all_of_it_says_so_each_with_its_time() -> None:
    with open_folder() as folder, sshd(settings=[sudo(folder, 'test "$*" = "-n true"')]) as server:
        async with pool() as sessions:
            steps = await sessions.test(endpoint_of(server))
    assert [(s.name, s.ok, s.error) for s in steps] == [
        (n, True, None) for n in ("connect", "auth", "shell", "sudo", "sftp")
    ]
    assert all(step.ms > 0 for step in steps)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo a password is required >&2; exit 1", "a password is required"),
        ("exit 1", "said nothing"),
    ],
)
async def test_what_is_not_there_is_told_and_the_machine_works_all_the_same(
    script: str, said: str
) -> None:
    with open_folder() as folder, sshd(settings=[sudo(folder, script), NO_SFTP]) as server:
        async with pool() as sessions:
            steps = {step.name: step for step in await sessions.test(endpoint_of(server))}
    assert [(name, step.ok, step.needed) for name, step in steps.items()] == [
        ("connect", True, True),
        ("auth", True, True),
        ("shell", True, True),
        ("sudo", False, False),
        ("sftp", False, False),
    ]
    assert said in (steps["sudo"].error or "")
    assert "SFTP" in (steps["sftp"].error or "")


async def test_a_network_device_is_asked_for_neither() -> None:
    with sshd() as server:
        async with pool() as sessions:
            steps = await sessions.test(endpoint_of(server, platform="network"))
    assert [step.name for step in steps] == ["connect", "auth", "shell"]
