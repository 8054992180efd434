"""The sandbox processes: a fault of one of them costs no more than one answer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from opsjobs.model.errors import Unavailable
from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.safety import Context, SafetyQuestion
from opsjobs.safety.check import check_text
from opsjobs.sandbox import child, pool, protocol
from opsjobs.sandbox.pool import SafetyCheckPool

SECONDS = 60.0


def make_question(text: str, interpreter: str = "sh", **given: object) -> SafetyQuestion:
    return replace(SafetyQuestion(interpreter, text, Context()), **given)  # type: ignore[arg-type]  # a test's own words


@asynccontextmanager
async def judges(**options: object) -> AsyncIterator[tuple[SafetyCheckPool, list[str]]]:
    failed: list[str] = []
    made = SafetyCheckPool(failed.append, **options)  # type: ignore[arg-type]  # as above
    try:
        yield made, failed
    finally:
        await asyncio.to_thread(made.close)


async def until(
    holds: Callable[[], bool], tick: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0.005)
) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            await tick()


@pytest.mark.parametrize(
    "question",
    [
        make_question("rm -rf /"),
        make_question("echo \ud800 \x00 ü"),
        make_question(
            "import shutil, sys\nshutil.rmtree(sys.argv[1])", "python", arguments=("/etc",)
        ),
        make_question(
            "import os, shutil\nshutil.rmtree(os.environ['X'])", "python", variables=(("X", "/"),)
        ),
        make_question(
            "import shutil, sys\nshutil.rmtree(sys.argv[1])",
            "python",
            arguments=("later",),
            unknown="later",
        ),
        replace(
            make_question("sh -c 'rm -rf \"$X\"/'"),
            context=Context(frozenset({"env=prod"}), 0.5, 100, True),
        ),
        make_question("#" * (200 << 10)),
        make_question("rm -rf /\n" + "#" * (200 << 10)),
        make_question("rm -rf $1\n" + "#" * (200 << 10), arguments=("/",)),
    ],
    ids=lambda question: question.text[:20].encode("ascii", "replace").decode(),
)
async def test_the_answer_is_that_of_the_judge(question: SafetyQuestion) -> None:
    async with judges() as (made, failed):
        found = await made.check(question)
        text = question.text[: (64 << 10) + 1]
        assert found == check_text(
            question.interpreter, text, context=question.context, given=question.given
        )
    assert failed == []


async def test_a_text_whose_inputs_are_too_large_is_not_judged_without_them() -> None:
    async with judges() as (made, _):
        given = {"arguments": ("x" * (200 << 10),)}
        found = await made.check(make_question('rm -rf "$1"/\n', **given))
        assert [finding.rule for finding in found] == ["too-large"]


async def test_a_process_that_is_killed_costs_nothing_but_a_second_try() -> None:
    async with judges() as (made, failed):
        await made.check(make_question("true"))
        (first,) = made.pids()
        os.kill(first, signal.SIGSTOP)  # in the middle of its answer
        answer = asyncio.create_task(made.check(make_question("rm -rf /")))
        await until(lambda: made.is_busy)
        os.kill(first, signal.SIGKILL)
        (finding,) = await answer
        assert (finding.rule, failed, made.pids() == [first]) == ("delete-everything", [], False)


async def test_a_process_stays_although_the_one_that_started_it_is_large() -> None:
    ours = bytearray(child.RESIDENT_BYTES_MAX + (64 << 20))
    ours[:: 4 << 10] = b"x" * len(ours[:: 4 << 10])  # so that it is resident
    async with judges() as (made, _):
        await made.check(make_question("true"))
        assert len(made.pids()) == 1
    del ours


async def test_one_that_was_killed_while_idle_is_replaced() -> None:
    async with judges() as (made, failed):
        await made.check(make_question("true"))
        (first,) = made.pids()
        os.kill(first, signal.SIGKILL)
        assert [finding.rule for finding in await made.check(make_question("rm -rf /"))] == [
            "delete-everything"
        ]
        assert (failed, first in made.pids()) == ([], False)


async def test_a_text_that_crashes_it_twice_asks_for_an_approval_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = _scripted(monkeypatch, tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")
    async with judges() as (made, failed):
        for _ in range(3):
            (finding,) = await made.check(make_question("rm -rf / # how it is told"))
            assert (finding.rule, finding.severity) == ("unjudged", SafetyVerdict.NEEDS_APPROVAL)
            assert ("crashed" in finding.reason, finding.excerpt) == (
                True,
                "rm -rf / # how it is told",
            )
        assert failed == ["crash"]
        assert len(started.read_text().split()) == 2, "once more, and then remembered"
        assert made.pids() == []


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("while True: pass", "time"),
        ("b'x' * (1 << 40)", "memory"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "time"),
        ("os.write(1, b'not a message at all')", "crash"),
    ],
)
async def test_time_memory_and_nonsense_are_failures_of_the_text_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str, reason: str
) -> None:
    _scripted(monkeypatch, tmp_path, does)
    seconds = 3.0 if "SIGSTOP" in does else 180.0  # the others come to their end by themselves
    monkeypatch.setattr(pool.JudgeProcess.ask, "__defaults__", (seconds,))
    async with judges() as (made, failed):
        (finding,) = await made.check(make_question("ls"))
        assert (finding.rule, finding.severity, failed) == (
            "unjudged",
            SafetyVerdict.NEEDS_APPROVAL,
            [reason],
        )
        monkeypatch.setattr(pool.JudgeProcess.ask, "__defaults__", (180.0,))
        other = await made.check(make_question("harmless"))
        assert other == ()


def _scripted(monkeypatch: pytest.MonkeyPatch, folder: Path, does: str) -> Path:
    """Let the real process do this with every text but `harmless`, like a fault in a grammar.

    Returns the file that counts.
    """
    started = folder / "started"
    program = f"""
import os, signal, sys
from opsjobs.sandbox import child
from opsjobs.safety.check import check_text
started = os.open({str(started)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
os.write(started, b"one ")
def slow_check(interpreter, text, **more):
    if text not in ("true", "harmless"):
        {does}
    return check_text(interpreter, text, **more)
child.check_text = slow_check
sys.exit(child.main())
"""
    real = subprocess.Popen

    def popen(_: object, **more: object) -> object:
        return real([sys.executable, "-c", program], **more)  # type: ignore[call-overload]  # as the pool's own

    monkeypatch.setattr(pool.subprocess, "Popen", popen)
    return started


async def test_nothing_is_started_before_a_text_is_judged_and_the_idle_are_ended() -> None:
    async with judges(idle_seconds=0.05) as (made, _):
        assert made.pids() == []
        await made.check(make_question("ls"))
        await until(lambda: made.pids() == [])
        assert await made.check(make_question("ls")) == ()


async def test_no_more_than_two_are_started_and_no_loop_is_blocked() -> None:
    async with judges() as (made, _):
        answers = [
            asyncio.create_task(made.check(make_question(f"rm -rf /srv/{n}"))) for n in range(40)
        ]
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            ticks += 1
            await asyncio.sleep(0)

        await until(lambda: all(answer.done() for answer in answers), tick)
        assert (len(made.pids()) <= pool.PROCESSES_MAX, ticks > len(answers)) == (True, True)


async def test_the_queue_is_bounded_and_checks_by_people_leave_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "QUEUE_MAX", 3)
    monkeypatch.setattr(pool, "CHECKS_MAX", 2)
    async with judges() as (made, _):
        checks = [
            asyncio.create_task(made.check_for_user(make_question(f"ls {n}"))) for n in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="2 texts"):
            await made.check_for_user(make_question("ls"))
        launches = [asyncio.create_task(made.check(make_question(f"ls -l {n}"))) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="3 texts"):
            await made.check(make_question("ls"))
        assert await asyncio.gather(*checks, *launches) == [()] * 4


async def test_a_process_that_cannot_be_started_is_no_fault_of_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool.sys, "executable", "/bin/false")
    async with judges() as (made, failed):
        with pytest.raises(Unavailable):
            await made.check(make_question("ls"))
        assert failed == []


async def test_it_has_no_secrets_no_other_files_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KEYS", "a-secret")
    if not Path("/proc/self/limits").exists():
        pytest.skip("needs /proc")
    with Path(os.devnull).open() as held:
        async with judges() as (made, _):
            await made.check(make_question("ls"))
            (pid,) = made.pids()
            proc = Path(f"/proc/{pid}")
            assert b"a-secret" not in (proc / "environ").read_bytes()
            limits = {
                line[:25].strip(): line.split()[-3]
                for line in (proc / "limits").read_text().splitlines()
            }
            assert limits["Max address space"] == str(child.MEMORY_BYTES_MAX)
            assert (limits["Max core file size"], limits["Max file size"]) == ("0", "0")
            assert {int(fd.name) for fd in (proc / "fd").iterdir()} == {0, 1, 2}
        assert not held.closed


async def test_it_ends_with_the_process_that_asks(tmp_path: Path) -> None:
    program = """
import asyncio, os, sys
from opsjobs.sandbox.pool import SafetyCheckPool
from opsjobs.safety import Context, SafetyQuestion
made = SafetyCheckPool()
asyncio.run(made.check(SafetyQuestion("sh", "ls", Context())))
print(*made.pids(), flush=True)
os.kill(os.getpid(), 9)
"""
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, check=False
    )
    pid = int(ran.stdout)
    await until(lambda: not _is_there(pid))


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_message_that_is_too_long_is_not_read() -> None:
    with pytest.raises(protocol.Malformed):
        protocol.length_of(protocol.HEADER.pack(protocol.MESSAGE_BYTES_MAX + 1))


def test_no_process_of_the_service_loads_a_grammar() -> None:
    program = "import sys, opsjobs.composition.worker, opsjobs.composition.scheduler, opsjobs.api.app; print('tree_sitter' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert ran.stdout.strip() == "False"


async def test_equal_questions_are_asked_once_also_if_the_first_caller_gives_up() -> None:
    async with judges() as (made, _):
        await made.check(make_question("true"))
        (pid,) = made.pids()
        os.kill(pid, signal.SIGSTOP)
        first = asyncio.create_task(made.check(make_question("rm -rf /")))
        await until(lambda: made.is_busy)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(made.check(make_question("rm -rf /")))
        await asyncio.sleep(0)
        assert (len(made._asking), made.pids()) == (1, [pid])
        os.kill(pid, signal.SIGCONT)
        assert [finding.rule for finding in await second] == ["delete-everything"]
        await until(lambda: not made.is_busy)
