"""Durable runs with each shell: started at most once, exact output and exit, found again."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kit.command_runs import read_to_end
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.remote.session import CancelOutcome, ContactLost, NotStarted, RemoteExit, SpoolChanged
from remote.spool_machines import Machine, first, kill, machine, marked, ours, until, within

ALL_BYTES = bytes(range(256))


def printf(data: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"no final newline",
        b"\0",
        b"a\0b\n\0\0",
        ALL_BYTES,
        b"  blanks and \\ backslashes %s\t\n\n",
        b"1 5\nX done 0\n",
        b"\x1e0123456789abcdef E 0 - 0 0\n",
        ALL_BYTES * 20,
    ],
)
async def test_output_is_exact_at_once_and_from_the_record(shell: str, data: bytes) -> None:
    async with machine(shell) as web:
        order = web.order(f"printf '{printf(data)}'; printf '{printf(data)}' >&2; exit 7")
        assert await web.done(order) == (data, data, RemoteExit(7))
        assert await web.again(order) == (data, data, RemoteExit(7))
        assert await read_to_end(await web.attach(order, (len(data), len(data) // 2))) == (
            b"",
            data[len(data) // 2 :],
            RemoteExit(7),
        )


async def test_megabytes_on_both_streams_are_exact(shell: str) -> None:
    async with machine(shell) as web:
        data = secrets.token_bytes(5_000_001)
        source = web.account.home / "data"
        source.write_bytes(data)
        order = web.order("cat data; cat data >&2")
        assert await web.done(order) == (data, data, RemoteExit(0))
        assert await web.again(order) == (data, data, RemoteExit(0))
        # Both streams at once, and slowly enough to be followed live.
        order = web.order("sleep 0.1; cat data & cat data >&2; wait; echo end")
        assert await web.done(order) == (data + b"end\n", data, RemoteExit(0))


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 128, 129, 137, 143, 192, 193, 255])
async def test_an_exit_code_is_one(shell: str, code: int) -> None:
    async with machine(shell) as web:
        order = web.order(f"exit {code}")
        assert (await web.done(order))[2] == RemoteExit(code)
        assert (await web.again(order))[2] == RemoteExit(code)


@pytest.mark.parametrize("name", ["TERM", "KILL", "HUP", "INT", "USR1"])
async def test_a_signal_that_ends_the_command_is_named(shell: str, name: str) -> None:
    async with machine(shell) as web:
        end = (await web.done(f"kill -{name} $$; sleep 5"))[2]
        # bash reports a killed command like one that exits with this code
        number = {"TERM": 143, "KILL": 137, "HUP": 129, "INT": 130, "USR1": 138}[name]
        assert end == (RemoteExit(number) if shell == "bash" else RemoteExit(None, name))


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "ALRM", "PIPE"])
async def test_a_signal_to_the_whole_group_of_the_command_does_not_end_its_keeper(
    shell: str, name: str
) -> None:
    async with machine(shell) as web:
        order = web.order(f"trap 'exit 5' {name}; kill -{name} 0; sleep 5")
        assert (await web.done(order))[2] == RemoteExit(5)


async def test_a_command_has_the_signals_of_any_login(shell: str) -> None:
    async with machine(shell) as web:
        text = "/bin/sed -n 's/^SigIgn:[^0-9]*//p' /proc/self/status; /usr/bin/yes | head -n 1"
        await web.done(
            "true"
        )  # from now on without a shell around it, in which busybox ignores a signal
        out, err, end = await web.done(text)
        assert (out, err, end.code) == await machine_says(web, text)
        assert out.endswith(b"\ny\n")


async def test_a_command_finds_the_place_of_any_login(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order(
            'pwd; umask; echo "$# $0 ${c-}${n-}${OLDPWD-}$OPSJOBS_RUN"; ls -l /proc/self/fd | grep -c .opsjobs'
        )
        out, err, _ = await web.done(order)
        lines = out.decode().splitlines()
        assert lines[0] == str(web.account.home)
        assert int(lines[1], 8) == os.umask(os.umask(0o22))
        assert lines[2] == f"0 sh {order.key}"
        assert lines[3] == "1", "only its own standard error"
        assert err == b""


async def test_a_command_that_the_shell_cannot_read_fails_like_any_other(shell: str) -> None:
    async with machine(shell) as web:
        out, err, end = await web.done("echo before; )")
        assert out == b""
        assert b"yntax" in err
        assert end.code in (1, 2)


async def test_a_command_of_many_lines_keeps_its_comments_quotes_and_here_documents(
    shell: str,
) -> None:
    async with machine(shell) as web:
        text = "#!/bin/sh\n\n# a comment \\\necho 'a\n  b' \\\n  \"c\\td\"  # more\ncat <<'END'\n$HOME \\\n\tend\nEND\nfalse"
        expected = (await machine_says(web, text))[:2]
        short = web.order(text)
        assert (await web.done(short))[:2] == expected
        long = web.order(text + "\n# " + "x" * 20_000 + "\nfalse")
        assert (await web.done(long))[:2] == expected
        assert list(web.account.runs.glob("*.p")) == []


async def machine_says(web: Machine, text: str) -> tuple[bytes, bytes, int]:
    """Return the shell's messages for the command itself."""
    asked = await asyncio.create_subprocess_exec(
        web.account.programs / "sh",
        "-c",
        text,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(web.account.home), "PATH": web.account.path},
    )
    out, err = await asked.communicate()
    return out, err, asked.returncode or 0


async def test_a_command_that_ends_in_the_middle_of_a_word_is_not_continued(shell: str) -> None:
    async with machine(shell) as web:
        assert (await web.done("printf %s a\\"))[0] == (await machine_says(web, "printf %s a\\"))[0]


async def test_the_same_key_begins_once_however_many_begin_it_at_once(shell: str) -> None:
    async with machine(shell) as web:
        for command in (
            "echo ran >>witness; echo out; exit 3",
            "echo ran >>witness; sleep 0.2; echo out; exit 3",
        ):
            order = web.order(command)
            (web.account.home / "witness").unlink(missing_ok=True)
            done = await asyncio.gather(*(web.done(order) for _ in range(8)))
            assert done == [(b"out\n", b"", RemoteExit(3))] * 8
            assert (web.account.home / "witness").read_text() == "ran\n"


async def test_what_a_command_left_behind_does_not_hold_its_end_up(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("sleep 30 & echo out")
        assert await within(25, web.done(order)) == (b"out\n", b"", RemoteExit(0))
        order = web.order("(while sleep 0.01; do echo more; done) & sleep 0.2; echo out; exit 4")
        out, _, end = await within(60, web.done(order))
        assert b"out\n" in out
        assert end == RemoteExit(4)
        for leftover in web.orders:
            kill(marked(leftover.key))


async def test_a_void_holds_against_a_start_that_comes_late(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("echo ran >>witness")
        assert await web.spool.cancel(order.key, 1.0) == CancelOutcome(CancelProof.NEVER_STARTED)
        for _ in range(2):
            with pytest.raises(NotStarted) as late:
                await web.begin(order)
            assert late.value.settled
        assert not (web.account.home / "witness").exists()


async def test_a_start_whose_keeper_died_over_the_first_byte_of_its_record_is_settled(
    shell: str,
) -> None:
    async with machine(shell) as web:
        order = web.order("echo ran")
        web.file(order, "x").touch()
        with pytest.raises(NotStarted) as absent:
            await web.attach(order)
        assert absent.value.settled
        with pytest.raises(NotStarted):
            await web.begin(order)


async def test_a_payload_that_is_cut_off_starts_nothing(shell: str) -> None:
    async with machine(shell) as web:
        start, talk = web.spool._start, web.spool._talk
        for left in (0, 3, 20, 30, 45, -1):
            order = web.order("echo ran >>witness; echo more")

            async def cut(line: str, stdin: bytes, left: int = left) -> object:
                return await start(line, stdin[: left if left >= 0 else len(stdin) + left - 5])

            web.spool._start = web.spool._talk = cut  # type: ignore[assignment]
            try:
                with pytest.raises((ContactLost, NotStarted, Exception)):
                    await web.done(order)
            finally:
                web.spool._start, web.spool._talk = start, talk
            assert not (web.account.home / "witness").exists()
            with pytest.raises(NotStarted):
                await web.attach(order)


# --- identity


async def test_a_store_is_made_once_however_many_come_first(shell: str) -> None:
    async with machine(shell) as web:
        (web.account.runs.parent / "id").unlink()
        seen = await asyncio.gather(*(web.learn() for _ in range(12)))
        assert len(set(seen)) == 1
        assert sorted(path.name for path in web.account.runs.parent.iterdir()) == ["id", "runs"]
        assert list(web.account.runs.iterdir()) == []
        assert (
            web.account.runs.stat().st_mode & 0o777,
            web.account.runs.parent.stat().st_mode & 0o777,
        ) == (0o700, 0o700)


async def test_a_run_of_another_boot_is_lost_unless_its_end_is_on_record(shell: str) -> None:
    async with machine(shell) as web:
        done, live = web.order("exit 3"), web.order("echo up; sleep 30")
        await web.done(done)
        await first(await web.begin(live))
        keeper = web.keeper(live)
        for order in (done, live):
            record = web.file(order, "x")
            record.write_text(
                record.read_text().replace(
                    web.identity.boot, "11111111-2222-3333-4444-555555555555"
                )
            )
        assert (await web.again(done))[2] == RemoteExit(3)
        with pytest.raises(RemoteFailure) as lost:
            await web.attach(live)
        assert lost.value.code is ErrorCode.LOST
        assert not isinstance(lost.value, ContactLost)
        assert await web.spool.cancel(live.key, 0.1) == CancelOutcome(CancelProof.ALREADY_FINISHED)
        kill([*marked(live.key), keeper])


async def test_after_a_reboot_the_machine_tells_for_how_long_it_would_know_of_a_run(
    shell: str,
) -> None:
    old = "11111111-2222-3333-4444-555555555555"
    async with machine(shell) as web:
        absent, void, live = web.order("true"), web.order("true"), web.order("echo up; sleep 30")
        await web.spool.cancel(void.key, 0.1)
        await first(await web.begin(live))
        told = web.account.runs.parent / "id"
        token, note = told.read_text().splitlines()
        assert note.startswith(f"{web.identity.boot} ")
        before = replace(web.identity, boot=old)
        notes = {
            "": False,
            f"{old} another.machine\n": False,
            f"{note.replace(web.identity.boot, old)}\n": True,
        }
        for text, known in notes.items():
            told.write_text(f"{token}\n{text}{note}\n")
            for order in (absent, void):
                with pytest.raises(NotStarted if known else RemoteFailure) as said:
                    await web.spool.attach(order, before, (0, 0))
                if isinstance(said.value, NotStarted):
                    assert said.value.settled is (order is void)
                    assert said.value.up_seconds is not None
                    assert 0 < said.value.up_seconds <= time.clock_gettime(time.CLOCK_BOOTTIME)
        with pytest.raises(RemoteFailure):
            await web.spool.attach(live, before, (0, 0))
        assert await web.learn() == replace(before, boot=note.split()[0])
        assert told.read_text().splitlines()[0] == token


async def test_a_boot_is_noted_once(shell: str) -> None:
    async with machine(shell) as web:
        await asyncio.gather(*(web.spool.identity() for _ in range(3)))
        await web.spool.identity()
        lines = (web.account.runs.parent / "id").read_text().splitlines()
        assert set(lines[1:]) == {lines[1]}
        many = "".join(f"{number} other.machine\n" for number in range(1000))
        (web.account.runs.parent / "id").write_text(f"{lines[0]}\n{many}")
        assert await web.learn() == web.identity
        assert (web.account.runs.parent / "id").read_text() == f"{lines[0]}\n{many}"


async def test_another_home_is_another_store(shell: str) -> None:
    async with machine(shell) as web, machine(shell) as other:
        assert web.identity.store != other.identity.store
        assert web.identity.boot == other.identity.boot
        order = web.order("echo ran >>witness")
        with pytest.raises(SpoolChanged) as met:
            await web.spool.begin(order, other.identity)
        assert met.value.seen == web.identity
        with pytest.raises(SpoolChanged):
            await web.spool.attach(order, other.identity, (0, 0))
        assert not (web.account.home / "witness").exists()


async def test_a_run_of_another_release_says_so(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("exit 3")
        await web.done(order)
        record = web.file(order, "x")
        record.write_text(record.read_text().replace("\n1 ", "\n2 "))
        with pytest.raises(RemoteFailure, match="another release") as lost:
            await web.attach(order)
        assert lost.value.code is ErrorCode.LOST


# --- keepers, watchdogs


async def test_a_run_whose_keeper_was_killed_is_lost_and_a_cancel_ends_what_is_left(
    shell: str,
) -> None:
    async with machine(shell) as web:
        order = web.order("echo up; sleep 120")
        process = await web.begin(order)
        await first(process)
        kill([web.keeper(order)])
        with pytest.raises(RemoteFailure) as lost:
            await within(60, read_to_end(process))
        assert lost.value.code is ErrorCode.LOST
        assert not isinstance(lost.value, ContactLost)
        assert await web.spool.look(order.key) is None, "the command lives"
        assert (await web.spool.cancel(order.key, 0.5)).proof is CancelProof.KILLED
        assert marked(order.key) == []
        assert await web.spool.look(order.key) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, RemoteExit(None, "KILL")
        )


async def test_a_command_that_was_killed_from_outside_ends_by_that(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("echo up; sleep 30")
        process = await web.begin(order)
        await first(process)
        kill(marked(order.key))
        assert (await within(60, read_to_end(process)))[2] == (
            RemoteExit(137) if shell == "bash" else RemoteExit(None, "KILL")
        )


async def test_the_watchdog_outlives_keeper_and_channel(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order(
            "trap '' TERM; echo up; while :; do sleep 1; done",
            timeout_seconds=4.0,
            grace_seconds=0.3,
        )
        process = await web.begin(order)
        await first(process)
        kill([web.keeper(order)])
        await process.close()
        await until(lambda: marked(order.key) == [])
        assert (await web.again(order))[2] == RemoteExit(None, "KILL", "timeout")


async def test_a_watchdog_without_keeper_and_command_goes_away(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("echo up; sleep 30")
        process = await web.begin(order)
        await first(process)
        kill([web.keeper(order), *marked(order.key)])
        await process.close()
        await until(lambda: ours(order.key) == {})


async def test_a_short_timeout_is_kept_to_the_tenth_of_a_second(shell: str) -> None:
    async with machine(shell) as web:
        loop = asyncio.get_running_loop()
        began = loop.time()
        order = web.order("sleep 20", timeout_seconds=0.3)
        assert (await web.done(order))[2] == RemoteExit(None, "TERM", "timeout")
        assert 0.3 <= loop.time() - began < 15


async def test_output_that_grows_over_its_limit_ends_the_command(shell: str) -> None:
    async with machine(shell) as web:
        command = "trap '' TERM; n=0; while [ $n -lt 20000 ]; do echo $n >&2; n=$((n+1)); done; while :; do sleep 1; done"
        order = web.order(command, limit_bytes=50_000, grace_seconds=0.2)
        _, err, end = await within(60, web.done(order))
        assert err == b"".join(b"%d\n" % n for n in range(err.count(b"\n")))
        assert len(err) > 50_000
        assert end == RemoteExit(None, "KILL", "output_limit")


async def test_output_that_is_opened_anew_counts_too() -> None:
    async with machine() as web:
        more = "exec 3>>/dev/stdout; n=0; while [ $n -lt 20000 ]; do echo $n >&3; n=$((n+1)); done; while :; do sleep 1; done"
        _, _, end = await within(
            50, web.done(web.order(more, limit_bytes=50_000, grace_seconds=0.2))
        )
        assert end.cause == "output_limit"


async def test_nothing_of_ours_goes_on_after_the_end(shell: str) -> None:
    async with machine(shell) as web:
        short, long = web.order("echo out"), web.order("echo out; sleep 0.3; echo more")
        for order in (short, long):
            await (await web.begin(order)).close()
            await read_to_end(await web.attach(order))
            await web.done(order)
            await until(lambda order=order: ours(order.key) == {})  # type: ignore[misc]


# --- clean


async def test_a_clean_removes_its_own_files_and_no_others(shell: str) -> None:
    async with machine(shell) as web:
        orders = [
            web.order("kill -TERM $$"),
            web.order("exit 200"),
            web.order("sleep 0.2"),
            web.order("true"),
        ]
        for order in orders[:3]:
            await web.done(order)
        await web.spool.cancel(orders[3].key, 0.0)
        kept = [
            web.account.runs / name
            for name in ("other", f"{orders[0].key}0.x", f"{orders[0].key}.xx", "id.x")
        ]
        for path in kept:
            path.touch()
        await web.spool.clean([order.key for order in orders])
        assert sorted(web.account.runs.iterdir()) == sorted(kept)
        assert (web.account.runs.parent / "id").read_text().splitlines()[0] == web.identity.store


async def test_the_digest_is_that_of_the_command(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("echo out", environment={"A": "1"})
        await web.done(order)
        assert order.digest in web.file(order, "x").read_text()
        for other in (replace(order, command="echo out "), replace(order, environment={"A": "2"})):
            with pytest.raises(RemoteFailure, match="another command"):
                await web.attach(other)


async def test_a_stranger_with_the_id_of_a_dead_watchdog_is_left_alone(shell: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: chooses the id of a process")
    async with machine(shell) as web:
        order = web.order("echo up; until [ -e gate ]; do sleep 0.05; done; exit 4")
        process = await web.begin(order)
        await first(process)
        keeper = int(web.file(order, "x").read_text().split("\n")[2].split()[2].split(".")[0])
        watchdog = watchdog_of(keeper, str(order.key))
        os.kill(watchdog, signal.SIGKILL)
        # The keeper reaps it with the next process of the command that ends; from then on its id is
        # free.
        await until(lambda: not Path(f"/proc/{watchdog}").exists())
        with with_id(watchdog) as stranger:
            (web.account.home / "gate").touch()
            assert (await read_to_end(process))[2] == RemoteExit(4)
            assert stranger.poll() is None


def watchdog_of(keeper: int, key: str) -> int:
    """Return the child of the keeper whose environment does not have the mark of the run."""
    children = [
        int(pid) for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    ]
    unmarked = [
        pid
        for pid in children
        if f"OPSJOBS_RUN={key}".encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    assert len(unmarked) == 1
    return unmarked[0]


@contextmanager
def with_id(wanted: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process with this id, which must be free."""
    for _ in range(1_000):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(wanted - 1))
        made = subprocess.Popen(["sleep", "60"])
        if made.pid == wanted:
            break
        made.kill()
        made.wait()
    else:
        pytest.skip("this machine cannot give a process the id that is wanted: others take it")
    try:
        yield made
    finally:
        made.kill()
        made.wait()
