"""Durable runs on a Windows host that is unreadable, was restarted, or has a full disk.

PowerShell cannot be run here: the stand-in performs the same steps.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from contract.conftest import Latch, collect
from contract.durable_machines import alive, first, identity_of, lost
from kit.small_disk import fill, small_disk
from kit.windows_hosts import until
from kit.windows_runs import Runs, break_spool, runs
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program, StartOrder
from opsjobs.remote.session import (
    CancelOutcome,
    ContactLost,
    NotStarted,
    RemoteExit,
    SpoolUnavailable,
)

SECOND = 10_000_000
"""A second in ticks, the unit of Windows."""
UNREACHABLE = CancelOutcome(CancelProof.UNREACHABLE)


@contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that does not belong to opsjobs."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def start_time(pid: int) -> str:
    """Return the start time of a process, as the stand-in writes it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


async def start_unread_run(on: Runs, folder: Path) -> tuple[StartOrder, Latch]:
    """Start a run whose reader has left after the first line.

    The run waits for the latch, then exits with 7.
    """
    latch = Latch(folder / "latch")
    order = on.order(f"echo up; {latch.wait}; exit 7")
    process = await on.durable.begin(order, on.identity)
    assert await first(process, 3) == b"up\n"
    await process.close()
    return order, latch


# --- another boot


@pytest.mark.parametrize("mark", ["keeper", "program"])
async def test_a_cancel_after_a_reboot_ends_no_stranger_with_the_id_of_the_run(mark: str) -> None:
    async with runs() as on:
        order = on.order("sleep 60")
        on.files(order).mkdir()
        (on.files(order) / "start").write_text(order.digest)
        with stranger() as process:
            other = f"{process.pid} {start_time(process.pid)} 4711"
            gone = f"{process.pid} 1 4711"
            for name in ("keeper", "program"):
                (on.files(order) / name).write_text(other if name == mark else gone)
            found = CancelOutcome(CancelProof.ALREADY_FINISHED)
            assert await on.durable.look(order.key) == found
            assert await on.durable.cancel(order.key, 0.0) == found
            assert process.poll() is None
            await on.durable.clean([order.key])
            assert process.poll() is None
        assert not on.files(order).exists()


async def test_a_cancel_ends_no_stranger_that_was_started_later(tmp_path: Path) -> None:
    async with runs() as on:
        order = on.order("echo up; kill -KILL $PPID; exec sleep 60")
        await first(await on.durable.begin(order, on.identity), 3)
        program = on.files(order) / "program"
        pid, started, boot = program.read_text().split()
        assert boot == on.identity.boot
        os.kill(int(pid), 9)
        await until(lambda: not alive(int(pid)))
        with stranger() as process:
            program.write_text(f"{process.pid} {started} {boot}")
            assert (await on.durable.cancel(order.key, 0.0)).proof is CancelProof.ALREADY_FINISHED
            assert process.poll() is None


@pytest.mark.parametrize(
    ("witness", "steps"),
    [("-", (5, 10, 3)), ("-", (-9, -2, 0)), ("services", (3600, -86_400)), ("", (1, 1, -1))],
)
async def test_a_clock_that_is_set_is_no_reboot(
    witness: str, steps: tuple[int, ...], tmp_path: Path
) -> None:
    async with runs() as on:
        variables = on.host.server.service.variables
        boot = on.host.folder / "home" / ".opsjobs" / "boot"
        if witness:
            boot.unlink()
            variables["OPSJOBS_LAB_WITNESS"] = witness
        order, latch = await start_unread_run(on, tmp_path)
        moment = int(on.identity.boot)
        for seconds in steps:
            moment += seconds * SECOND
            variables["OPSJOBS_LAB_BOOT"] = str(moment)
            if not witness:  # so little that nothing is requested
                variables["OPSJOBS_LAB_WITNESS"] = "another"
            assert await identity_of(on.durable) == on.identity
            assert await on.durable.look(order.key) is None
        latch.open()
        rest = await collect(await on.durable.attach(order, on.identity, (3, 0)))
        assert rest == (b"", b"", RemoteExit(7))


@pytest.mark.parametrize(("witness", "seconds"), [("-", 11), ("another", 2)])
async def test_a_boot_of_another_time_is_a_reboot(witness: str, seconds: int) -> None:
    async with runs() as on:
        order = on.order("echo up; sleep 60")
        await first(await on.durable.begin(order, on.identity), 3)
        moment = int(on.identity.boot) + seconds * SECOND
        variables = on.host.server.service.variables
        variables |= {"OPSJOBS_LAB_BOOT": str(moment), "OPSJOBS_LAB_WITNESS": witness}
        assert (await identity_of(on.durable)).boot == str(moment)
        assert await lost(on.durable.attach(order, on.identity, (3, 0)))
        # No earlier process is ended: its id may belong to another process now.
        pid = int((on.files(order) / "program").read_text().split()[0])
        assert (await on.durable.cancel(order.key, 0.0)).proof is CancelProof.ALREADY_FINISHED
        assert alive(pid)
        os.kill(pid, 9)


# --- what cannot be read


async def assert_unclear(on: Runs, order: StartOrder) -> None:
    """Check that the run is neither lost nor unstarted: contact is lost, and may be regained."""
    with pytest.raises(ContactLost, match="cannot read its files"):
        await collect(await on.durable.attach(order, on.identity, (0, 0)))
    with pytest.raises(ContactLost, match="cannot read its files"):
        await on.durable.look(order.key)
    assert await on.durable.cancel(order.key, 0.0) == UNREACHABLE


@pytest.mark.parametrize("name", ["end", "keeper", "void"])
async def test_a_file_that_cannot_be_read_is_not_taken_for_one_that_is_not_there(
    name: str, tmp_path: Path
) -> None:
    async with runs() as on:
        order, latch = await start_unread_run(on, tmp_path)
        on.host.server.service.variables["OPSJOBS_LAB_UNREADABLE"] = name
        await assert_unclear(on, order)
        on.host.server.service.variables.clear()
        # The cancel has voided it, which is not checked any more once it has begun.
        assert await on.durable.look(order.key) is None
        latch.open()
        rest = await collect(await on.durable.attach(order, on.identity, (3, 0)))
        assert rest == (b"", b"", RemoteExit(7))
        assert on.starts == 1


async def test_a_start_that_cannot_be_read_is_not_taken_for_none() -> None:
    async with runs() as on:
        order = on.order("exit 0")
        on.host.server.service.variables["OPSJOBS_LAB_UNREADABLE"] = "start"
        with pytest.raises(ContactLost, match="cannot read its files"):
            await on.durable.attach(order, on.identity, (0, 0))
        with pytest.raises(ContactLost, match="cannot read its files"):
            await on.durable.look(order.key)


async def test_a_name_of_the_store_that_cannot_be_read_starts_nothing() -> None:
    async with runs() as on:
        on.host.server.service.variables["OPSJOBS_LAB_UNREADABLE"] = "id"
        order = on.order("exit 0")
        with pytest.raises(ContactLost, match="cannot read its files"):
            await on.durable.begin(order, on.identity)
        with pytest.raises(RemoteFailure) as failed:
            await on.durable.identity()
        assert failed.value.code is ErrorCode.CONNECTION_LOST
        on.host.server.service.variables.clear()
        assert await collect(await on.durable.begin(order, on.identity)) == (
            b"",
            b"",
            RemoteExit(0),
        )
        assert on.starts == 1


async def test_output_that_cannot_be_read_is_not_taken_for_none() -> None:
    async with runs() as on:
        order = on.order("echo out")
        await collect(await on.durable.begin(order, on.identity))
        on.host.server.service.variables["OPSJOBS_LAB_UNREADABLE"] = "1"
        with pytest.raises(ContactLost):
            await collect(await on.durable.attach(order, on.identity, (0, 0)))
        on.host.server.service.variables.clear()
        rest = await collect(await on.durable.attach(order, on.identity, (0, 0)))
        assert rest == (b"out\n", b"", RemoteExit(0))


async def test_a_keeper_that_cannot_see_whether_its_run_is_void_does_not_begin_it() -> None:
    async with runs() as on:
        on.host.server.service.variables["OPSJOBS_LAB_UNREADABLE"] = "void"
        order = on.order("exit 0")
        with pytest.raises(ContactLost):
            await on.durable.begin(order, on.identity)
        await until((on.files(order) / "end").exists)
        on.host.server.service.variables.clear()
        with pytest.raises(NotStarted) as absent:
            await on.durable.attach(order, on.identity, (0, 0))
        assert absent.value.settled
        assert not (on.host.folder / "home" / "starts").exists()


async def test_a_process_that_may_not_be_looked_at_is_not_taken_for_a_dead_one(
    tmp_path: Path,
) -> None:
    async with runs() as on:
        order, latch = await start_unread_run(on, tmp_path)
        on.host.server.service.variables["OPSJOBS_LAB_FORBIDDEN"] = "1"
        await assert_unclear(on, order)
        await on.durable.clean([order.key])
        assert on.files(order).exists()
        on.host.server.service.variables.clear()
        latch.open()
        rest = await collect(await on.durable.attach(order, on.identity, (0, 0)))
        assert rest == (b"up\n", b"", RemoteExit(7))


async def test_a_helper_that_ends_without_an_answer_does_not_end_the_run(tmp_path: Path) -> None:
    async with runs() as on:
        order, latch = await start_unread_run(on, tmp_path)
        program = on.host.folder / "programs" / "powershell.exe"
        right = program.read_text()
        program.write_text("#!/bin/sh\ncat >/dev/null; echo out of memory >&2; exit 1\n")
        with pytest.raises(ContactLost, match="out of memory"):
            await on.durable.attach(order, on.identity, (3, 0))
        with pytest.raises(ContactLost):
            await on.durable.look(order.key)
        assert await on.durable.cancel(order.key, 0.0) == UNREACHABLE
        with pytest.raises(SpoolUnavailable):
            await on.durable.begin(on.order("exit 0"), on.identity)
        program.write_text(right)
        latch.open()
        rest = await collect(await on.durable.attach(order, on.identity, (3, 0)))
        assert rest == (b"", b"", RemoteExit(7))


# --- a program that cannot be looked up, or not be ended


@pytest.mark.parametrize("error", ["ProcessLookupError", "FileNotFoundError"])
async def test_a_program_that_ended_before_it_was_looked_up_is_not_taken_for_one_that_never_began(
    error: str,
) -> None:
    async with runs() as on:
        started = "start(*given).wait()" if error == "ProcessLookupError" else "pass"
        break_spool(
            on,
            f"def _looked_up(*given, start=_start_program):\n    {started}\n    raise {error}\n\n\n"
            "_start_program = _looked_up",
        )
        order = on.order("exit 0")
        process = await on.durable.begin(order, on.identity)
        if error == "FileNotFoundError":
            end = (await collect(process))[2]
            assert (end.cause, end.never_started) == ("interpreter", True)
            return
        with pytest.raises(RemoteFailure) as gone:
            await collect(process)
        assert gone.value.code is ErrorCode.LOST
        assert on.starts == 1
        assert not (on.files(order) / "input").exists()


SPARED = """
def _may_end(pid):
    return str(pid) != Path(os.environ["HOME"], "kept").read_text().strip()
"""
CUT_OFF = """
def _cut_off(pids, number, send=_signal):
    send(pids, number)
    if number == signal.SIGKILL and Path(os.environ["HOME"], "cut").exists():
        os._exit(97)


_signal = _cut_off
"""


async def test_each_cancel_looks_again_for_a_descendant_that_it_may_not_end() -> None:
    async with runs() as on:
        break_spool(on, SPARED)
        kept = on.host.folder / "home" / "kept"
        order = on.order("sleep 60 & echo $! >kept; echo up; wait")
        await first(await on.durable.begin(order, on.identity), 3)
        pid = int(kept.read_text())
        try:
            for _ in range(2):  # the run itself has ended
                assert await on.durable.cancel(order.key, 0.0) == UNREACHABLE
                assert await on.durable.look(order.key) is None
                assert alive(pid)
            left = (on.files(order) / "left").read_text().split()
            assert left == [str(pid), start_time(pid), on.identity.boot]
            kept.write_text("0")
            killed = CancelOutcome(CancelProof.KILLED, RemoteExit(None, "KILL", "cancel"))
            assert await on.durable.cancel(order.key, 0.0) == killed
            assert not alive(pid)
            assert await on.durable.look(order.key) is not None
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


async def test_a_cancel_that_is_cut_off_after_its_kill_has_said_what_it_may_not_end() -> None:
    async with runs() as on:
        break_spool(on, SPARED + CUT_OFF)
        home = on.host.folder / "home"
        order = on.order("sleep 60 & echo $! >kept; echo up; wait")
        await first(await on.durable.begin(order, on.identity), 3)
        pid = int((home / "kept").read_text())
        try:
            (home / "cut").touch()
            assert await on.durable.cancel(order.key, 0.0) == UNREACHABLE
            (home / "cut").unlink()
            await until((on.files(order) / "end").exists)
            assert await on.durable.cancel(order.key, 0.0) == UNREACHABLE
            assert alive(pid)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


@pytest.mark.parametrize("torn", ["", "4711 12"])
async def test_a_torn_list_of_what_could_not_be_ended_is_no_proof(torn: str) -> None:
    async with runs() as on:
        order = on.order("echo up; exec sleep 60")
        await first(await on.durable.begin(order, on.identity), 3)
        pid = int((on.files(order) / "program").read_text().split()[0])
        (on.files(order) / "left").write_text(torn)
        assert await on.durable.cancel(order.key, 0.0) == UNREACHABLE
        await until((on.files(order) / "end").exists)
        assert not alive(pid), "what is known is ended"
        assert await on.durable.cancel(order.key, 0.0) == UNREACHABLE
        with pytest.raises(ContactLost, match="cannot read its files"):
            await on.durable.look(order.key)


async def test_what_a_cancel_could_not_end_is_no_stranger_with_its_id() -> None:
    async with runs() as on:
        order = on.order("exit 3")
        await collect(await on.durable.begin(order, on.identity))
        boot = on.identity.boot
        with stranger() as process:
            pid, started = process.pid, start_time(process.pid)
            (on.files(order) / "left").write_text(f"{pid} 1 {boot} {pid} {started} 4711 ")
            finished = CancelOutcome(CancelProof.ALREADY_FINISHED, RemoteExit(3))
            assert await on.durable.cancel(order.key, 0.0) == finished
            assert process.poll() is None


# --- what a clean-up leaves


async def test_a_start_whose_keeper_never_came_is_voided_after_minutes() -> None:
    async with runs() as on:
        old, new, looked_at = on.order(""), on.order(""), on.order("")
        for order, age in ((old, 130), (new, 5), (looked_at, 130)):
            on.files(order).mkdir()
            start = on.files(order) / "start"
            start.write_text(order.digest)
            moment = time.time() - age
            os.utime(start, (moment, moment))
        never = CancelOutcome(CancelProof.NEVER_STARTED)
        assert await on.durable.look(looked_at.key) == never
        assert await on.durable.look(new.key) is None
        assert await on.durable.clean([old.key, new.key]) == {new.key}
        assert not on.files(old).exists()
        assert on.files(new).exists()


HELD = """
def _rmtree(path, rmtree=shutil.rmtree, **more):
    if not (Path(path) / "held").exists():
        rmtree(path, **more)


shutil.rmtree = _rmtree
"""


async def test_a_clean_up_names_the_runs_whose_files_are_held_open() -> None:
    async with runs() as on:
        break_spool(on, HELD)
        orders = [on.order("exit 0") for _ in range(4)]
        for order in orders:
            await collect(await on.durable.begin(order, on.identity))
        for order in orders[1::2]:
            (on.files(order) / "held").touch()
        keys = [order.key for order in orders]
        assert await on.durable.clean(keys) == {keys[1], keys[3]}
        assert [on.files(order).exists() for order in orders] == [False, True, False, True]
        for order in orders[1::2]:
            (on.files(order) / "held").unlink()
        assert await on.durable.clean(keys) == frozenset()


async def test_a_clean_up_does_without_the_temporary_folder() -> None:
    async with runs() as on:
        break_spool(on, "def _remove_leftovers():\n    raise PermissionError('may not be listed')")
        order = on.order("exit 0")
        await collect(await on.durable.begin(order, on.identity))
        assert await on.durable.clean([order.key]) == frozenset()
        assert not on.files(order).exists()


@pytest.mark.parametrize("home", ["", "/Users/Default"])
async def test_a_user_who_never_logged_on_is_told_to(home: str) -> None:
    async with runs() as on:
        on.host.server.service.variables["HOME"] = home
        with pytest.raises(SpoolUnavailable, match="has no profile there"):
            await on.durable.identity()


# --- a keeper that cannot write


UNWRITTEN = """
def _move(path, text, move=_move_mark):
    if path.name == "program":
        raise OSError("no space")
    return move(path, text)


_move_mark = _move
"""


async def test_a_keeper_that_cannot_write_down_its_program_still_waits_for_it() -> None:
    async with runs() as on:
        break_spool(on, UNWRITTEN)
        end = await collect(await on.durable.begin(on.order("echo out; exit 3"), on.identity))
        assert end == (b"out\n", b"", RemoteExit(3))


async def test_a_keeper_that_cannot_write_down_its_program_still_ends_it_in_time() -> None:
    async with runs() as on:
        break_spool(on, UNWRITTEN)
        key = on.order("").key
        order = StartOrder.for_program(key, Program(command="sleep 60"), 1.0)
        end = await collect(await on.durable.begin(order, on.identity))
        assert end == (b"", b"", RemoteExit(None, "KILL", "timeout"))


async def test_a_run_whose_program_is_not_written_down_ends_with_its_keeper() -> None:
    async with runs() as on:
        break_spool(on, UNWRITTEN)
        order = on.order("echo $$; sleep 60")
        pid = int(await first(await on.durable.begin(order, on.identity), 2))
        killed = CancelOutcome(CancelProof.KILLED, RemoteExit(None, "KILL", "cancel"))
        assert await on.durable.cancel(order.key, 0.0) == killed
        assert not alive(pid)


# --- full disks


@contextmanager
def small_home(on: Runs, kib: int) -> Iterator[Path]:
    """Give the host a small disk for its home."""
    with small_disk(kib) as disk:
        home = on.host.folder / "home"
        home.rename(on.host.folder / f"home-{uuid4()}")
        home.symlink_to(disk)
        yield home


async def test_on_a_full_disk_nothing_is_started_and_later_it_is() -> None:
    async with runs() as on:
        with small_home(on, 256) as home:
            identity = await on.durable.identity()
            order = on.order("echo out; exit 3")
            fill(home)
            with pytest.raises(SpoolUnavailable, match="not writable"):
                await on.durable.begin(order, identity)
            (home / "filler").unlink()
            assert not (home / "starts").exists()
            end = await collect(await on.durable.begin(order, identity))
            assert end == (b"out\n", b"", RemoteExit(3))
            assert (home / "starts").read_text() == "x\n"


async def test_a_full_disk_at_a_first_contact_is_said() -> None:
    async with runs() as on:
        with small_home(on, 64) as home:
            fill(home)
            with pytest.raises(SpoolUnavailable, match="not writable"):
                await on.durable.identity()


@pytest.mark.parametrize("size", [0, 100_000])
async def test_an_end_is_recorded_on_a_disk_that_became_full(size: int) -> None:
    async with runs() as on:
        with small_home(on, 1024) as home:
            identity = await on.durable.identity()
            full = "cat /dev/zero >filler 2>/dev/null"
            order = on.order(f"head -c {size} /dev/zero; {full}; echo lost; exit 5")
            out, _, end = await collect(await on.durable.begin(order, identity))
            assert end == RemoteExit(5, None, "disk_full")
            assert out.startswith(b"\0" * size)
            again = await collect(await on.durable.attach(order, identity, (0, 0)))
            assert again[2] == RemoteExit(5, None, "disk_full")
            (home / "filler").unlink()
            busy = Program(command=f"{full}; sleep 20")
            order = StartOrder.for_program(on.order("").key, busy, 1.0)
            end = (await collect(await on.durable.begin(order, identity)))[2]
            assert end.cause == "timeout"


async def test_a_success_whose_output_a_full_disk_did_not_take_is_told_from_a_whole_one() -> None:
    async with runs() as on:
        with small_home(on, 1024) as home:
            identity = await on.durable.identity()
            full = "echo begun; cat /dev/zero >filler 2>/dev/null; seq 20000 2>/dev/null; true"
            out, _, end = await collect(await on.durable.begin(on.order(full), identity))
            assert len(out) % 512 == 0, "what the disk took ends with a whole block"
            assert end == RemoteExit(0, None, "disk_full")
            (home / "filler").unlink()
            whole = "head -c 8192 /dev/zero; head -c 4096 /dev/zero >&2"
            for command, code in ((whole, 0), ("echo no; exit 3", 3), ("exit 4", 4)):
                end = (await collect(await on.durable.begin(on.order(command), identity)))[2]
                assert end == RemoteExit(code)


async def test_a_cancel_on_a_full_disk_is_proven() -> None:
    async with runs() as on:
        with small_home(on, 1024):
            identity = await on.durable.identity()
            order = on.order("echo up; cat /dev/zero >filler 2>/dev/null; echo full >&2; sleep 60")
            process = await on.durable.begin(order, identity)
            await first(process, 3)
            await asyncio.sleep(0)
            found = await on.durable.cancel(order.key, 0.0)
            assert found == CancelOutcome(CancelProof.KILLED, RemoteExit(None, "KILL", "cancel"))
