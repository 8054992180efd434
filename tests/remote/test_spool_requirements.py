"""The requirements of durable runs on a machine, and the failures if one is missing."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kit.backing_servers import open_folder
from kit.command_runs import read_to_end
from kit.machines import endpoint_of, local_endpoint
from kit.small_disk import fill, small_disk
from kit.sshd import Sshd
from opsjobs.model.execution import CancelProof
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import (
    CancelOutcome,
    NotStarted,
    RemoteExit,
    SpoolChanged,
    SpoolUnavailable,
)
from opsjobs.remote.spool.channel import Start
from remote.conftest import pool
from remote.spool_machines import (
    NEEDED,
    Account,
    Machine,
    account,
    first,
    kill,
    machine,
    marked,
    open_machine,
    ours,
    until,
    within,
)

NO_EXEC: Callable[[str], str] = lambda line: f"{line.removeprefix('exec ')}; exit $?"  # noqa: E731  it is a value beside others


@pytest.mark.parametrize(
    "missing",
    [("setsid",), ("mktemp", "head"), ("tail",), ("ps", "env", "sed", "awk", "stat", "readlink")],
)
async def test_a_machine_with_little_on_its_path_runs_follows_and_cancels(
    shell: str, missing: tuple[str, ...]
) -> None:
    with account(shell) as made:
        async with open_machine(LocalSessions(), local_endpoint(), made.without(*missing)) as web:
            assert await web.done("echo out; echo err >&2; exit 3") == (
                b"out\n",
                b"err\n",
                RemoteExit(3),
            )
            order = web.order("echo up; until [ -e gate ]; do sleep 0.05; done; echo down")
            process = await web.begin(order)
            assert await within(60, first(process)) == b"up\n"
            (made.home / "gate").touch()
            assert await read_to_end(process) == (b"down\n", b"", RemoteExit(0))
            assert await web.again(order) == (b"up\ndown\n", b"", RemoteExit(0))
            order = web.order("trap '' TERM; echo up; sleep 60; sleep 60")
            await first(await web.begin(order))
            assert await web.spool.cancel(order.key, 0.2) == CancelOutcome(
                CancelProof.KILLED, RemoteExit(None, "KILL", "cancel")
            )


@pytest.mark.parametrize("tool", NEEDED)
async def test_what_cannot_be_done_without_is_named(tool: str) -> None:
    with account("dash") as made:
        with pytest.raises(SpoolUnavailable, match=rf"web-1 lacks {tool}\b"):
            async with open_machine(LocalSessions(), local_endpoint(), made.without(tool)):
                pass
        assert not made.runs.parent.exists()


async def test_a_sleep_without_fractions_only_makes_it_slower(shell: str) -> None:
    with account(shell) as made:
        few = made.without("sleep")
        (made.programs / "sleep").write_text(
            f'#!{made.programs}/sh\ncase $1 in *.*) exit 1;; esac\nexec {shutil.which("sleep")} "$1"\n'
        )
        (made.programs / "sleep").chmod(0o755)
        async with open_machine(LocalSessions(), local_endpoint(), few) as web:
            order = web.order("sleep 1; exit 2", timeout_seconds=30)
            await (await web.begin(order)).close()
            assert (await web.again(order))[2] == RemoteExit(2)


# --- a login shell that stays before ours, as fish and rbash do: the keeper leads no group


async def test_under_a_login_shell_that_stays_the_command_gets_a_group_of_its_own(
    shell: str,
) -> None:
    with account(shell) as made:
        async with open_machine(LocalSessions(), local_endpoint(), made) as web:
            dress(web, NO_EXEC)
            assert await web.done("echo out; exit 3") == (b"out\n", b"", RemoteExit(3))
            order = web.order("trap '' TERM; echo up; sleep 60; sleep 60", grace_seconds=0.2)
            await first(await web.begin(order))
            assert web.file(order, "g").exists()
            assert await web.spool.cancel(order.key, 0.2) == CancelOutcome(
                CancelProof.KILLED, RemoteExit(None, "KILL", "cancel")
            )
            assert marked(order.key) == []
            order = web.order(
                "trap '' TERM; while :; do sleep 1; done", timeout_seconds=0.5, grace_seconds=0.2
            )
            assert (await web.done(order))[2] == RemoteExit(None, "KILL", "timeout")


async def test_under_a_login_shell_that_stays_setsid_is_needed() -> None:
    with account("dash") as made:
        few = made.without("setsid")
        async with LocalSessions().session(local_endpoint()) as session:
            web = Machine.over(session, few)
            dress(web, NO_EXEC)
            with pytest.raises(SpoolUnavailable, match="setsid"):
                await web.spool.begin(web.order("true"), None)


def dress(web: Machine, line_of: Callable[[str], str]) -> None:
    """Send lines in another form."""
    session_start, account_ = web.bare, web.account

    def dressed(start: Start) -> Start:
        return lambda line, stdin: start(line_of(account_.line(line)), stdin)

    web.spool._start, web.spool._beside = dressed(session_start[0]), dressed(session_start[1])
    web.spool._talk = web.spool._beside
    web.spool._login.plain = False


# --- a kernel without /proc, as of macOS and BSD


async def test_a_machine_without_proc_does_it_with_ps(shell: str) -> None:
    with account(shell) as made:
        for name, text in {
            "sysctl": "echo 11111111-ABCD",
            "ps": f'exec {shutil.which("ps")} "$@"',
        }.items():
            (made.programs / name).unlink(missing_ok=True)
            (made.programs / name).write_text(f"#!{made.programs}/sh\n{text}\n")
            (made.programs / name).chmod(0o755)
        async with LocalSessions().session(local_endpoint()) as session:
            web = Machine.over(session, made)
            dress(web, lambda line: line.replace("/proc/", "/nowhere/"))
            assert (await web.learn()).boot == "11111111-ABCD"
            order = web.order("echo out; echo err >&2; exit 3")
            assert await web.done(order) == (b"out\n", b"err\n", RemoteExit(3))
            assert await web.again(order) == (b"out\n", b"err\n", RemoteExit(3))
            order = web.order("trap '' TERM; echo up; sh -c \"trap '' TERM; sleep 60\"; sleep 60")
            process = await web.begin(order)
            await first(process)
            assert await web.spool.look(order.key) is None
            assert await web.spool.cancel(order.key, 0.3) == CancelOutcome(
                CancelProof.KILLED, RemoteExit(None, "KILL", "cancel")
            )
            assert marked(order.key) == []
            order = web.order(
                "trap '' TERM; while :; do sleep 1; done", timeout_seconds=0.5, grace_seconds=0.2
            )
            process = await web.begin(order)
            await process.close()
            await until(lambda: marked(order.key) == [])
            assert (await web.again(order))[2] == RemoteExit(None, "KILL", "timeout")
            order = web.order("echo up; sleep 60")
            await first(await web.begin(order))
            kill([web.keeper(order)])
            await until(lambda: web.keeper(order) not in marked(order.key))
            assert await web.spool.look(order.key) == CancelOutcome(CancelProof.ALREADY_FINISHED)
            kill(
                [*ours(order.key)]
                # the watchdog, too: it cannot see that no process is left, and would stay until its
                # limit
            )
            await web.tidy_up()


# --- homes


@pytest.fixture
def spare_folder(server: Sshd) -> Iterator[Path]:
    """Return the folder for an account without a home; remove it afterwards.

    It does not exist yet.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: makes folders for others")
    folder = Path(f"/var/tmp/opsjobs-{pwd.getpwnam(server.user).pw_uid}")
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    with suppress(NotADirectoryError):
        shutil.rmtree(folder, ignore_errors=True)
    folder.unlink(missing_ok=True)


@pytest.fixture
def account_without_home(server: Sshd) -> Iterator[Account]:
    """Create an account whose home belongs to another user."""
    with account("dash") as made:
        made.home.chmod(0o755)
        yield made


async def test_who_has_no_home_gets_a_folder_that_is_closed_to_others(
    server: Sshd, account_without_home: Account, spare_folder: Path
) -> None:
    async with (
        pool() as sessions,
        open_machine(sessions, endpoint_of(server), account_without_home) as web,
    ):
        assert web.identity.store.endswith(f"@{spare_folder.stat().st_uid}")
        assert spare_folder.stat().st_mode & 0o777 == 0o700
        order = web.order("sleep 0.2; echo out; exit 3")
        assert await web.done(order) == (b"out\n", b"", RemoteExit(3))
        assert await web.again(order) == (b"out\n", b"", RemoteExit(3))
        assert (spare_folder / "runs" / f"{order.key}.x").exists()
        assert await web.spool.look(order.key) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, RemoteExit(3)
        )
        live = web.order("echo up; sleep 60")
        await first(await web.begin(live))
        assert (await web.spool.cancel(live.key, 1.0)).proof is CancelProof.KILLED
        await web.spool.clean([order.key, live.key])
        assert list((spare_folder / "runs").iterdir()) == []


async def test_a_home_in_the_folder_of_spare_folders_is_a_home() -> None:
    folder = Path("/var/tmp") / f"opsjobs-test-{os.getpid()}"
    try:
        with account("dash", home=folder) as made:
            async with open_machine(LocalSessions(), local_endpoint(), made) as web:
                assert "@" not in web.identity.store
                assert await web.done("echo out; exit 3") == (b"out\n", b"", RemoteExit(3))
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("trap", ["a folder of another user", "a link", "a file"])
async def test_a_spare_folder_that_somebody_laid_there_is_not_used(
    server: Sshd, account_without_home: Account, spare_folder: Path, trap: str
) -> None:
    with open_folder() as elsewhere:
        if trap == "a folder of another user":
            spare_folder.mkdir(mode=0o777)
            spare_folder.chmod(0o777)
        elif trap == "a link":
            shutil.chown(elsewhere, server.user)
            spare_folder.symlink_to(elsewhere)
        else:
            spare_folder.touch(0o666)
        async with pool() as sessions, sessions.session(endpoint_of(server)) as session:
            web = Machine.over(session, account_without_home)
            with pytest.raises(SpoolUnavailable, match="cannot store runs"):
                await web.spool.begin(web.order("true"), None)
        assert list(elsewhere.iterdir()) == []


# --- disks


async def test_on_a_full_disk_nothing_is_started_and_later_it_is(shell: str) -> None:
    with small_disk(256) as home, account(shell, home=home) as made:
        async with open_machine(LocalSessions(), local_endpoint(), made) as web:
            order = web.order("echo ran >>witness; echo out; exit 3")
            fill(home)
            with pytest.raises(SpoolUnavailable, match="disk may be full"):
                await web.begin(order)
            (home / "filler").unlink()
            assert not (home / "witness").exists()
            with suppress(NotStarted):
                assert await web.done(order) == (b"out\n", b"", RemoteExit(3))
                assert (home / "witness").read_text() == "ran\n"


async def test_a_full_disk_at_a_first_contact_is_said_or_gone_around() -> None:
    with small_disk(64) as home, account("dash", home=home) as made:
        fill(home)
        async with LocalSessions().session(local_endpoint()) as session:
            web = Machine.over(session, made)
            with pytest.raises((SpoolChanged, SpoolUnavailable)) as met:
                await web.spool.begin(web.order("true"), None)
            if isinstance(met.value, SpoolChanged):
                assert met.value.seen.store.endswith(f"@{os.getuid()}")


@pytest.mark.parametrize("size", [0, 100_000])
async def test_an_end_is_recorded_on_a_disk_that_became_full(shell: str, size: int) -> None:
    with small_disk(1024) as home, account(shell, home=home) as made:
        async with open_machine(LocalSessions(), local_endpoint(), made) as web:
            order = web.order(
                f"head -c {size} /dev/zero; cat /dev/zero >filler 2>/dev/null; echo lost; exit 5"
            )
            out, _, end = await web.done(order)
            assert end == RemoteExit(5, None, "disk_full")
            assert out.startswith(b"\0" * size)
            assert (await web.again(order))[2] == RemoteExit(5, None, "disk_full")
            (home / "filler").unlink()
            fill_after = web.order(
                "exec 3>filler; while printf %4096s x >&3; do :; done 2>/dev/null; sleep 20",
                timeout_seconds=1.0,
            )
            assert (await web.done(fill_after))[2].cause == "timeout"
            (home / "filler").unlink()


async def test_a_success_whose_output_a_full_disk_did_not_take_is_told_from_a_whole_one(
    shell: str,
) -> None:
    with small_disk(1024) as home, account(shell, home=home) as made:
        async with open_machine(LocalSessions(), local_endpoint(), made) as web:
            lost = web.order(
                "echo begun; cat /dev/zero >filler 2>/dev/null; seq 20000 2>/dev/null; true"
            )
            out, _, end = await web.done(lost)
            assert len(out) % 1024 == 0, "what the disk took ends with a whole block"
            assert end == RemoteExit(0, None, "disk_full")
            (home / "filler").unlink()
            # Whole blocks, a failure, and a failure that wrote nothing: on a disk with room, all
            # stay as they were.
            assert (await web.done("head -c 8192 /dev/zero; head -c 4096 /dev/zero >&2"))[
                2
            ] == RemoteExit(0)
            assert (await web.done("echo no; exit 3"))[2] == RemoteExit(3)
            assert (await web.done("exit 4"))[2] == RemoteExit(4)


# --- what nobody may see


async def test_the_command_is_in_no_arguments_environment_or_file(shell: str) -> None:
    async with machine(shell) as web:
        canary = f"canary-{os.getpid()}"
        order = web.order(
            f": {canary}\necho up; until [ -e gate ]; do sleep 0.05; done; : {canary}",
            environment={"GIVEN": "plain"},
        )
        seen: list[str] = []
        watching = asyncio.create_task(watch(canary.encode(), web.account.home, seen))
        process = await web.begin(order)
        await first(process)
        other = await web.attach(order)
        assert await web.spool.look(order.key) is None
        (web.account.home / "gate").touch()
        assert (await read_to_end(process))[2] == (await read_to_end(other))[2] == RemoteExit(0)
        long = web.order(f": {canary}\n{'# filling' * 2000}\nsleep 0.3")
        assert (await web.done(long))[2] == RemoteExit(0)
        watching.cancel()
        assert set(seen) <= {f"{long.key}.p"}, (
            "a long command is in a file until its shell has opened it"
        )
        assert not [
            path for path in web.account.runs.iterdir() if canary.encode() in path.read_bytes()
        ]


async def watch(canary: bytes, home: Path, seen: list[str]) -> None:
    """Search for it wherever other or later users could."""
    while True:
        for folder in Path("/proc").glob("[0-9]*"):
            for what in ("cmdline", "environ"):
                with suppress(OSError):
                    if int(folder.name) != os.getpid() and canary in (folder / what).read_bytes():
                        seen.append(f"{folder.name} {what}")
        for path in (home / ".opsjobs").rglob("*"):
            with suppress(OSError):
                if path.is_file() and canary in path.read_bytes():
                    seen.append(path.name)
        await asyncio.sleep(0.005)
