"""The contract of the end of durable runs: cancel with its proof, watchdog, clean-up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from contract.conftest import EVERY_BACKEND, NEVER, OpenBackend, backend_opener, collect
from contract.durable_machines import alive, first, lost, machine, never_starts, until_ended
from kit.fake_remote import Deed, Pause
from opsjobs.model.execution import CancelProof
from opsjobs.remote.session import CancelOutcome, NotStarted, Output, RemoteExit

GRACE_SECONDS = 30.0
"""For what heeds its first signal: it is over long before."""
TIMEOUT_SECONDS = 3.0
"""For what has to write its first line before, also on a busy machine."""


@pytest.fixture(params=EVERY_BACKEND)
def open_backend(request: pytest.FixtureRequest) -> OpenBackend:
    """Return an opener of each backend, including Windows."""
    return backend_opener(request)


# --- cancel and kill


async def test_what_is_cancelled_before_it_begins_never_starts(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("true")
        assert await web.durable.cancel(order.key, 1.0) == CancelOutcome(CancelProof.NEVER_STARTED)
        assert await never_starts(web.begin(order))
        assert await never_starts(web.attach(order))
        assert await web.durable.cancel(order.key, 1.0) == CancelOutcome(CancelProof.NEVER_STARTED)
        assert await web.durable.look(order.key) == CancelOutcome(CancelProof.NEVER_STARTED)
        assert web.starts(order) == 0


async def test_a_cancel_and_a_begin_at_the_same_moment_agree(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web, web.elsewhere() as again:
        orders = [web.order("sleep 60", [Pause(NEVER)]) for _ in range(4)]
        for order in orders:
            begun, settlement = await asyncio.gather(
                web.begin(order), again.durable.cancel(order.key, 2.0), return_exceptions=True
            )
            assert isinstance(settlement, CancelOutcome)
            if settlement.proof is CancelProof.NEVER_STARTED:
                assert isinstance(begun, NotStarted), begun
                assert begun.settled
                assert web.starts(order) == 0
            else:
                assert settlement.proof is CancelProof.KILLED
                assert await web.durable.look(order.key) is not None


async def test_a_cancel_ends_a_run_that_listens(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web, web.elsewhere() as again:
        order = web.order("echo up; sleep 60", [Output("stdout", b"up\n"), Pause(NEVER)])
        process = await web.begin(order)
        assert await first(process, 3) == b"up\n"
        settlement = await again.durable.cancel(order.key, GRACE_SECONDS)
        assert settlement == CancelOutcome(
            CancelProof.KILLED, RemoteExit(None, web.first_signal, "cancel")
        )
        assert await collect(process) == (b"", b"", RemoteExit(None, web.first_signal, "cancel"))
        assert await web.durable.look(order.key) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, RemoteExit(None, web.first_signal, "cancel")
        )


async def test_a_cancel_ends_a_run_that_ignores_term(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order(
            "trap '' TERM; echo deaf; sleep 60; sleep 60",
            [Output("stdout", b"deaf\n"), Pause(NEVER)],
            ignores_term=True,
        )
        process = await web.begin(order)
        assert await first(process, 5) == b"deaf\n"
        assert await web.durable.cancel(order.key, 0.3) == CancelOutcome(
            CancelProof.KILLED, RemoteExit(None, "KILL", "cancel")
        )
        assert (await collect(process))[2] == RemoteExit(None, "KILL", "cancel")


async def test_a_run_may_use_its_grace_to_tidy_up(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        if web.backend.fake is not None or web.windows:
            return  # A script has no trap, and Windows has no signals.
        order = web.order("trap 'sleep 0.2; echo tidy; exit 7' TERM; echo up; sleep 60 & wait")
        process = await web.begin(order)
        assert await first(process, 3) == b"up\n"
        assert await web.durable.cancel(order.key, GRACE_SECONDS) == CancelOutcome(
            CancelProof.KILLED, RemoteExit(7, cause="cancel")
        )
        assert await collect(process) == (b"tidy\n", b"", RemoteExit(7, cause="cancel"))


@pytest.mark.parametrize("escape", ["", "setsid"])
async def test_a_cancel_ends_what_the_command_left_in_the_background(
    open_backend: OpenBackend, escape: str
) -> None:
    async with machine(open_backend) as web:
        if web.backend.fake is not None:
            return  # A script has no children.
        order = web.order(
            f"{escape} sh -c 'trap : TERM; echo $$; while :; do sleep 60; done' & wait"
        )
        process = await web.begin(order)
        pid = int(await first(process, 2))
        assert (await web.durable.cancel(order.key, 0.3)).proof is CancelProof.KILLED
        assert not alive(pid)


async def test_a_second_cancel_finds_the_end(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("sleep 60", [Pause(NEVER)])
        await web.begin(order)
        end = (await web.durable.cancel(order.key, GRACE_SECONDS)).exit
        assert await web.durable.cancel(order.key, GRACE_SECONDS) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, end
        )


async def test_a_cancel_after_the_end_keeps_the_true_exit(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("exit 5", [RemoteExit(5)])
        process = await web.begin(order)
        assert await collect(process) == (b"", b"", RemoteExit(5))
        assert await web.durable.cancel(order.key, 1.0) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, RemoteExit(5)
        )
        assert await process.kill(1.0) is CancelProof.ALREADY_FINISHED
        assert await collect(await web.attach(order)) == (b"", b"", RemoteExit(5))


async def test_a_kill_ends_the_run_for_all_who_follow_it(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web, web.elsewhere() as again:
        order = web.order("sleep 60", [Pause(NEVER)])
        both = [await web.begin(order), await again.attach(order)]
        reading = [asyncio.create_task(collect(process)) for process in both]
        assert await both[1].kill(GRACE_SECONDS) is CancelProof.KILLED
        assert [end for _, _, end in await asyncio.gather(*reading)] == [
            RemoteExit(None, web.first_signal, "cancel")
        ] * 2


async def test_a_kill_works_while_nobody_reads(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("yes", [*[Output("stdout", b"y\n" * 10_000)] * 100, Pause(NEVER)])
        process = await web.begin(order)
        assert await process.kill(2.0) is CancelProof.KILLED


async def test_a_signal_that_ends_the_command_is_named(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        done = await web.done(web.order("kill -KILL $$", [RemoteExit(None, "KILL")]))
        # Windows only has exit codes.
        assert done[2] == (RemoteExit(137) if web.windows else RemoteExit(None, "KILL"))


async def test_a_run_whose_keeper_was_killed_is_lost_until_a_cancel_ends_what_is_left_of_it(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        order = web.order(
            "echo up; kill -KILL $PPID; sleep 60", [Output("stdout", b"up\n"), Pause(NEVER)]
        )
        process = await web.begin(order)
        if web.backend.fake is not None:
            await first(process, 3)
            web.backend.fake.machine(web.backend.endpoint.target.name).lose_wrapper(order.key)
        await lost(collect(process))
        await lost(web.attach(order))
        await lost(web.begin(order))
        assert await web.durable.look(order.key) is None
        killed = RemoteExit(None, "KILL")
        assert await web.durable.cancel(order.key, 0.3) == CancelOutcome(CancelProof.KILLED, killed)
        assert await collect(await web.attach(order)) == (b"up\n", b"", killed)
        assert web.starts(order) == 1


# --- the watchdog on the machine


async def test_the_watchdog_ends_what_takes_too_long(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order(
            "echo up; sleep 60",
            [Output("stdout", b"up\n"), Pause(NEVER)],
            timeout_seconds=TIMEOUT_SECONDS,
        )
        assert await web.done(order) == (
            b"up\n",
            b"",
            RemoteExit(None, web.first_signal, "timeout"),
        )
        assert await collect(await web.attach(order, (3, 0))) == (
            b"",
            b"",
            RemoteExit(None, web.first_signal, "timeout"),
        )
        assert await web.durable.look(order.key) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, RemoteExit(None, web.first_signal, "timeout")
        )


async def test_the_watchdog_kills_what_ignores_term(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        command = "trap '' TERM; echo deaf; sleep 60; sleep 60"
        order = web.order(
            command,
            [Output("stdout", b"deaf\n"), Pause(NEVER)],
            ignores_term=True,
            timeout_seconds=TIMEOUT_SECONDS,
            grace_seconds=0.3,
        )
        assert await web.done(order) == (b"deaf\n", b"", RemoteExit(None, "KILL", "timeout"))


async def test_the_watchdog_works_while_nobody_follows(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("sleep 60", [Pause(NEVER)], timeout_seconds=1.0)
        await (await web.begin(order)).close()
        await until_ended(web, order)
        assert (await collect(await web.attach(order)))[2].cause == "timeout"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_the_watchdog_ends_what_writes_too_much(
    open_backend: OpenBackend, stream: str
) -> None:
    async with machine(open_backend) as web:
        deeds: Sequence[Deed] = [
            Output("stdout" if stream == "stdout" else "stderr", b"y\n" * 40_000),
            Pause(NEVER),
        ]
        order = web.order(
            f"i=0; while [ $i -lt 40000 ]; do echo y; i=$((i+1)); done {'>&2' if stream == 'stderr' else ''}; sleep 60",
            deeds,
            limit_bytes=65_536,
        )
        out, err, end = await web.done(order)
        said = out + err
        # A slow machine ends it before the last line. A byte that it wrote is never missing in the
        # middle.
        assert 65_536 < len(said) <= 80_000
        assert said == (b"y\n" * 40_000)[: len(said)]
        assert end == RemoteExit(None, web.first_signal, "output_limit")


async def test_output_as_long_as_the_limit_is_let_be(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order(
            "printf 12345678; sleep 1.5",
            [Output("stdout", b"12345678"), RemoteExit(0)],
            limit_bytes=8,
        )
        assert await web.done(order) == (b"12345678", b"", RemoteExit(0))


# --- look and clean


async def test_a_look_touches_nothing(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        latch = web.latch()
        order = web.order(f"{latch.wait}; exit 8", [latch.gate, RemoteExit(8)])
        assert await web.durable.look(order.key) == CancelOutcome(CancelProof.NEVER_STARTED)
        process = await web.begin(order)
        assert await web.durable.look(order.key) is None
        latch.open()
        assert (await collect(process))[2] == RemoteExit(8)
        assert await web.durable.look(order.key) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, RemoteExit(8)
        )


async def test_what_was_cleaned_is_forgotten(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        ran, void = web.order("exit 1", [RemoteExit(1)]), web.order("true")
        await web.done(ran)
        await web.durable.cancel(void.key, 0.0)
        await web.durable.clean([ran.key, void.key])
        for order in (ran, void):
            assert not await never_starts(web.attach(order))


async def test_a_clean_leaves_a_live_run_alone_and_forgives_an_unknown_one(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        latch = web.latch()
        order = web.order(
            f"echo up; {latch.wait}", [Output("stdout", b"up\n"), latch.gate, RemoteExit(0)]
        )
        process = await web.begin(order)
        assert await first(process, 3) == b"up\n"
        await web.durable.clean([order.key, web.order("never begun").key])
        latch.open()
        assert await collect(process) == (b"", b"", RemoteExit(0))
        assert await collect(await web.attach(order)) == (b"up\n", b"", RemoteExit(0))


async def test_without_its_output_a_run_still_refuses_a_second_start(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        order = web.order(
            "echo out; echo err >&2; exit 3",
            [Output("stdout", b"out\n"), Output("stderr", b"err\n"), RemoteExit(3)],
        )
        assert await web.done(order) == (b"out\n", b"err\n", RemoteExit(3))
        await web.durable.clean([order.key, web.order("never begun").key], output_only=True)
        assert await web.durable.look(order.key) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, RemoteExit(3)
        )
        assert await web.done(order) == (b"", b"", RemoteExit(3))
        assert web.starts(order) == 1


async def test_the_output_of_a_live_run_stays(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        latch = web.latch()
        order = web.order(
            f"echo up; {latch.wait}", [Output("stdout", b"up\n"), latch.gate, RemoteExit(0)]
        )
        process = await web.begin(order)
        assert await first(process, 3) == b"up\n"
        await web.durable.clean([order.key], output_only=True)
        latch.open()
        assert await collect(process) == (b"", b"", RemoteExit(0))
        assert await collect(await web.attach(order)) == (b"up\n", b"", RemoteExit(0))


async def test_a_clean_of_nothing_is_nothing(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        await web.durable.clean([])
