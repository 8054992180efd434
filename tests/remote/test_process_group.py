"""An incomplete list of processes proves neither the end nor the life of a process group."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.os_accounts import account
from opsjobs.model.execution import CancelProof
from opsjobs.remote.process_group import Ask, Census, GroupSignal, NoGroup, end_group

# To simulate a machine that hides processes: a mount namespace with another /proc. Processes and
# signals are real.
WITHOUT_PROC = "mount -t tmpfs none /proc"
HIDING = "mount -t proc -o hidepid=2 none /proc"


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    unshare = shutil.which("unshare")
    if (
        os.geteuid() != 0
        or unshare is None
        or subprocess.run([unshare, "-m", "true"], check=False).returncode
    ):
        pytest.skip("needs root: this machine cannot mount another /proc in a namespace of its own")


def asking(proc: str, *, user: str | None = None) -> Ask:
    """Return a start method on a machine with this /proc, as this user."""
    become = (
        ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user is not None else []
    )

    async def ask(question: GroupSignal) -> Census | None:
        command = [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'{proc} && exec "$@"',
            "sh",
            *become,
            *question.argv,
        ]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return question.answer(out)

    return ask


@contextmanager
def group(*command: str, user: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start a group of processes, and yield its leader once its command has written a line."""
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, user=user, group=user
    ) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        try:
            yield leader
        finally:
            if leader.poll() is None:
                os.killpg(leader.pid, signal.SIGKILL)


async def reaped(leader: subprocess.Popen[bytes], ask: Ask, grace: float = 0.2) -> CancelProof:
    """End the group; meanwhile reap its leader, as sshd does."""
    wait = asyncio.create_task(asyncio.to_thread(leader.wait))
    proof = await end_group(leader.pid, grace, ask)
    if proof is CancelProof.KILLED:
        await wait
    else:
        os.killpg(leader.pid, signal.SIGKILL)
        await wait
    return proof


async def test_a_command_is_killed_on_a_machine_that_lists_no_processes() -> None:
    with group("sh", "-c", "echo up; sleep 81 & wait") as leader:
        assert await reaped(leader, asking(WITHOUT_PROC)) is CancelProof.KILLED
        assert leader.returncode == -signal.SIGTERM


async def test_a_deaf_command_is_killed_on_a_machine_that_lists_no_processes() -> None:
    with group("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done") as leader:
        assert await reaped(leader, asking(WITHOUT_PROC)) is CancelProof.KILLED
        assert leader.returncode == -signal.SIGKILL


async def test_a_group_that_is_gone_has_finished_on_a_machine_that_lists_no_processes() -> None:
    with group("sh", "-c", "echo up") as leader:
        leader.wait()
        assert (
            await end_group(leader.pid, 0.2, asking(WITHOUT_PROC)) is CancelProof.ALREADY_FINISHED
        )


async def test_a_process_without_a_group_of_its_own_is_known_on_a_machine_that_lists_no_processes() -> (
    None
):
    with group("sh", "-c", "sh -c 'echo $$; sleep 60' & wait") as leader:
        child = int(Path(f"/proc/{leader.pid}/task/{leader.pid}/children").read_text().split()[0])
        with pytest.raises(NoGroup):
            await end_group(child, 0.2, asking(WITHOUT_PROC))


async def test_a_member_that_the_machine_hides_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("opsjobs.remote.process_group.PROOF_SECONDS", 1.0)
    with account() as user, group("sh", "-c", "echo up; sleep 60; sleep 60") as leader:
        started = time.monotonic()
        # This user sees no process of root's group, and may not signal it.
        assert await reaped(leader, asking(HIDING, user=user)) is CancelProof.UNREACHABLE
        assert time.monotonic() - started < 30


async def test_its_own_group_is_killed_on_a_machine_that_hides_those_of_others() -> None:
    with account() as user, group("sh", "-c", "echo up; sleep 60; sleep 60", user=user) as leader:
        assert await reaped(leader, asking(HIDING, user=user)) is CancelProof.KILLED


async def test_a_zombie_that_is_not_reaped_is_dead_on_a_machine_that_lists_all() -> None:
    with group("sh", "-c", "echo up; sleep 60; sleep 60") as leader:
        # The leader stays a zombie of this process: only the list shows its end.
        assert await end_group(leader.pid, 0.2, asking("true")) is CancelProof.KILLED
