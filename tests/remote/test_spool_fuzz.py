"""Starts, readers, keepers and voids are killed at random.

No run starts twice, and no byte is lost or repeated. TESTS_FUZZ_SECONDS (9) limits it,
TESTS_FUZZ_SEED repeats it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from kit.machines import local_endpoint
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program, RunKey, StartOrder
from opsjobs.model.secret import Secret
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import ContactLost, NotStarted, Output, RemoteExit, Stream
from remote.spool_machines import HOUR, PROGRAMS, Machine, kill, machine, ours

SECONDS = float(os.environ.get("TESTS_FUZZ_SECONDS", "9"))
SEED = int(os.environ.get("TESTS_FUZZ_SEED", "0")) or random.randrange(1 << 32)
AT_ONCE = 8


@dataclass
class Seen:
    """The output of one run, from all of its followers."""

    chance: random.Random
    order: StartOrder
    given: dict[Stream, bytearray] = field(
        default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()}
    )
    end: RemoteExit | str = ""
    keeper_killed: bool = False
    tries: int = 0


async def test_whatever_is_killed_no_run_starts_twice_and_no_byte_is_lost_or_repeated(
    shell: str,
) -> None:
    chance, outcomes = random.Random(f"{SEED} {shell}"), Counter[str]()
    loop = asyncio.get_running_loop()
    async with machine(shell) as web:
        until = loop.time() + SECONDS / len(PROGRAMS)
        while loop.time() < until:
            async with asyncio.timeout(SECONDS + 60), asyncio.TaskGroup() as games:
                played = [
                    games.create_task(run_once(web, random.Random(chance.random())))
                    for _ in range(AT_ONCE)
                ]
            outcomes.update(game.result() for game in played)
            kill_orphans(web)
            await web.tidy_up()
            await web.spool.clean([order.key for order in web.orders])
            assert [path for order in web.orders for path in remaining_files(web, order)] == []
            web.orders.clear()
            web.followed.clear()
    assert outcomes["done"] > 0, f"{shell}, seed {SEED}: {dict(outcomes)}"


async def run_once(web: Machine, chance: random.Random) -> str:
    """Run one command, with some trouble; return how it ended."""
    name = f"{chance.getrandbits(64):016x}"
    seen = Seen(chance, order(web, command(name, chance), chance))
    trouble = [asyncio.create_task(strike(seen, kill_keepers=chance.random() < 0.2))]
    trouble += [asyncio.create_task(rival(web, seen)) for _ in range(chance.choice([0, 0, 1, 2]))]
    voided = asyncio.create_task(void(web, seen)) if chance.random() < 0.15 else None
    try:
        await follow(web, seen)
    finally:
        for task in trouble:
            task.cancel()
        await asyncio.gather(*trouble, return_exceptions=True)
    proof = await voided if voided is not None else None
    try:
        check(web, seen, name, proof)
    except AssertionError as wrong:
        raise AssertionError(
            f"seed {SEED}, {seen.order.key} {seen.order.command!r} -> {seen.end}, {proof}: {wrong}"
        ) from wrong
    return seen.end if isinstance(seen.end, str) else "done" if proof is None else "cancelled"


def order(web: Machine, text: str, chance: random.Random) -> StartOrder:
    """Return a run; every third one is a script, with an input and a secret."""
    if chance.random() < 0.67:
        return web.order(text)
    program = Program(script=text.encode(), stdin=b"in", secrets={"a": Secret("secret")})
    made = StartOrder.for_program(RunKey(uuid4(), "step-1", 1), program, HOUR)
    web.orders.append(made)
    return made


def command(name: str, chance: random.Random) -> str:
    """Return a command that records its start, and keeps a copy of its output."""
    size = chance.choice([0, 1, 100, 998, 3000, 70_000, 300_000])
    pause = chance.choice(["", "", "sleep 0.05", "sleep 0.2", "sleep 0.4"])
    return (
        f"echo x >>start.{name}\nhead -c {size} /dev/urandom | tee out.{name}\n{pause}\n"
        f"head -c {size // 3} /dev/urandom | tee err.{name} >&2\n{pause}\nprintf '\\000\\377end' | tee -a out.{name}\nexit 5"
    )


async def follow(web: Machine, seen: Seen) -> None:
    """Follow the run as the engine does.

    Begin, and attach again from the last byte on; sometimes give up in the middle.
    """
    perhaps_begun = False
    while not seen.end:
        seen.tries += 1
        async with session(web) as here:
            reader = asyncio.create_task(read(here, seen, again=perhaps_begun))
            await asyncio.wait(
                {reader}, timeout=seen.chance.choice([None, None, seen.chance.random() * 0.4])
            )
            reader.cancel()
            perhaps_begun = True
            try:
                await reader
            except NotStarted as absent:
                perhaps_begun = False
                if absent.settled:
                    seen.end = "void"
            except (ContactLost, asyncio.CancelledError):
                continue
            except RemoteFailure as failure:
                if failure.code is ErrorCode.LOST:
                    seen.end = "lost"


async def read(web: Machine, seen: Seen, *, again: bool) -> None:
    given = (len(seen.given["stdout"]), len(seen.given["stderr"]))
    process = await web.attach(seen.order, given) if again else await web.begin(seen.order)
    assert again or given == (0, 0)
    async for piece in process:
        if isinstance(piece, Output):
            seen.given[piece.stream] += piece.data
        else:
            seen.end = piece


async def rival(web: Machine, seen: Seen) -> None:
    """Begin the same run elsewhere, and stop following it."""
    await asyncio.sleep(seen.chance.random() * 0.05)
    async with session(web) as here:
        try:
            await (await here.begin(seen.order)).close()
        except (RemoteFailure, NotStarted):
            return


async def void(web: Machine, seen: Seen) -> CancelProof:
    await asyncio.sleep(seen.chance.random() * 0.1)
    async with session(web) as here:
        return (await here.spool.cancel(seen.order.key, 0.5)).proof


async def strike(seen: Seen, *, kill_keepers: bool) -> None:
    """Kill processes that serve this run, one after the other.

    These are readers, and with `kill_keepers` keepers and watchdogs.
    """
    while True:
        await asyncio.sleep(seen.chance.random() * 0.3)
        named = str(seen.order.key).encode()
        # The path of a script contains its run's name, and so do the arguments of the process that
        # creates its folder: they do not serve the run.
        serving = [
            (pid, said)
            for pid, said in descendants()
            if named in said and b"/script." not in said and said[:5] != b"mkdir"
        ]
        keeping = {pid for pid, said in serving if b"set -C" in said}
        victims = [pid for pid, _ in serving if kill_keepers or pid not in keeping]
        if victims:
            victim = seen.chance.choice(victims)
            seen.keeper_killed |= victim in keeping
            kill([victim])


def descendants() -> list[tuple[int, bytes]]:
    """Return all descendants of this process, with their arguments.

    That is much faster than reading all processes.
    """
    found: list[tuple[int, bytes]] = []
    parents = [os.getpid()]
    for parent in parents:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                parents += [int(pid) for pid in task.read_text().split()]
    for pid in parents[1:]:
        with contextlib.suppress(OSError):
            found.append((pid, Path(f"/proc/{pid}/cmdline").read_bytes()))
    return found


def remaining_files(web: Machine, order: StartOrder) -> list[Path]:
    """Return the files of a program that were not removed."""
    return [
        *web.account.runs.glob(f"{order.key}.s"),
        *Path("/dev/shm").glob(f"opsjobs.{order.key}*"),
    ]


def kill_orphans(web: Machine) -> None:
    """Kill the tails of followers that were killed.

    Those of busybox do not end while nothing is written.
    """
    for order in web.orders:
        kill([pid for pid, said in ours(order.key).items() if said.startswith(b"tail\0")])


def check(web: Machine, seen: Seen, name: str, proof: CancelProof | None) -> None:
    def kept(what: str) -> bytes:
        path = web.account.home / f"{what}.{name}"
        return path.read_bytes() if path.exists() else b""

    starts, given = kept("start"), (bytes(seen.given["stdout"]), bytes(seen.given["stderr"]))
    assert starts in (b"", b"x\n"), "it started more than once"
    if isinstance(seen.end, RemoteExit) and proof in (None, CancelProof.ALREADY_FINISHED):
        # A killed keeper may take the watchdog or the command's own end with it.
        assert seen.end == RemoteExit(5) or seen.keeper_killed
        assert starts == b"x\n"
        for said, truth in zip(given, (kept("out"), kept("err")), strict=True):
            assert seen.keeper_killed or said == truth, (
                f"{len(said)} bytes instead of {len(truth)}: {said[-60:]!r}"
            )
    assert kept("out").startswith(given[0]) or len(kept("out")) < len(given[0])
    if seen.end == "void":
        assert starts == b""
        assert proof is not None or seen.keeper_killed
    if seen.end == "lost":
        assert seen.keeper_killed
    if proof is CancelProof.NEVER_STARTED:
        assert starts == b""


@asynccontextmanager
async def session(web: Machine) -> AsyncIterator[Machine]:
    """Yield the same machine over another session."""
    async with LocalSessions().session(local_endpoint()) as opened:
        here = Machine.over(opened, web.account)
        here.identity = web.identity
        yield here
