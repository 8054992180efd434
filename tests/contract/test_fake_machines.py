"""The faults of a scripted machine do to durable runs what the real faults would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from contract.conftest import NEVER, collect
from contract.durable_machines import lost, never_starts
from kit.fake_remote import Break, Deed, FakeMachine, FakeSessions, Gate
from kit.machines import local_endpoint
from opsjobs.clock import TurnedClock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import RunKey, StartOrder
from opsjobs.remote.session import (
    CancelOutcome,
    ContactLost,
    Durable,
    NotStarted,
    Output,
    RemoteExit,
    RemoteProcess,
    SpoolChanged,
    SpoolUnavailable,
)

HERE = local_endpoint("web-1")
ONE, TWO = Output("stdout", b"one\n"), Output("stdout", b"two\n")


def order(*, attempt: int = 1, **limits: float) -> StartOrder:
    return StartOrder(
        RunKey(uuid4(), "step-1", attempt), "work", **{"timeout_seconds": NEVER, **limits}
    )  # type: ignore[arg-type]


@asynccontextmanager
async def scripted(
    *deeds: Deed, clock: TurnedClock | None = None
) -> AsyncIterator[tuple[FakeSessions, FakeMachine]]:
    """Yield a machine on which every command does this."""
    fakes = FakeSessions(clock)
    try:
        yield fakes, fakes.machine("web-1").reply(deeds)
    finally:
        await fakes.close()


@asynccontextmanager
async def durable_of(fakes: FakeSessions) -> AsyncIterator[Durable]:
    async with fakes.session(HERE) as session:
        durable = session.durable()
        assert durable is not None
        yield durable


async def contact_lost(process: RemoteProcess) -> bytes:
    """Return the output before contact broke; the run continues."""
    said = b""

    async def read() -> None:
        nonlocal said
        async for piece in process:
            assert isinstance(piece, Output)
            said += piece.data

    with pytest.raises(ContactLost):
        await read()
    return said


async def test_a_break_breaks_contact_once_and_the_run_goes_on() -> None:
    async with (
        scripted(ONE, Break(), TWO, Break(), RemoteExit(3)) as (fakes, web),
        durable_of(fakes) as durable,
    ):
        run = order()
        assert await contact_lost(await durable.begin(run, web.identity)) == b"one\n"
        assert await contact_lost(await durable.attach(run, web.identity, (4, 0))) == b"two\n"
        assert await collect(await durable.attach(run, web.identity, (8, 0))) == (
            b"",
            b"",
            RemoteExit(3),
        )
        assert len(web.starts) == 1


async def test_a_break_that_lies_before_the_offsets_breaks_nothing() -> None:
    async with (
        scripted(ONE, Break(), TWO, RemoteExit(0)) as (fakes, web),
        durable_of(fakes) as durable,
    ):
        run = order()
        await (await durable.begin(run, web.identity)).close()
        assert await collect(await durable.attach(run, web.identity, (5, 0))) == (
            b"wo\n",
            b"",
            RemoteExit(0),
        )


async def test_a_cut_breaks_contact_for_all_and_nobody_connects_until_it_is_mended() -> None:
    gate = Gate(asyncio.Event())
    async with scripted(ONE, gate, TWO, RemoteExit(0)) as (fakes, web):
        run = order()
        async with (
            durable_of(fakes) as durable,
            durable_of(fakes) as other,
            fakes.session(HERE) as session,
        ):
            reading = [
                await durable.begin(run, web.identity),
                await other.attach(run, web.identity, (0, 0)),
            ]
            direct = await session.start("directly")
            await gate.reached.wait()
            tasks = [asyncio.create_task(contact_lost(process)) for process in reading]
            await asyncio.sleep(0)
            web.cut()
            assert await asyncio.gather(*tasks) == [b"one\n"] * 2
            assert await lost(collect(direct))
            for asked in (
                durable.begin(run, web.identity),
                durable.look(run.key),
                session.start("again"),
            ):
                with pytest.raises(RemoteFailure) as failed:
                    await asked
                assert failed.value.code is ErrorCode.CONNECTION_LOST
            assert await durable.cancel(run.key, 1.0) == CancelOutcome(CancelProof.UNREACHABLE)
        with pytest.raises(RemoteFailure):
            async with fakes.session(HERE):
                pass
        gate.event.set()
        web.mend()
        async with durable_of(fakes) as durable:
            assert await collect(await durable.attach(run, web.identity, (4, 0))) == (
                b"two\n",
                b"",
                RemoteExit(0),
            )
        assert [start.order for start in web.starts] == [run, None]


async def test_a_reboot_takes_what_runs_and_leaves_what_has_ended() -> None:
    gate = Gate(asyncio.Event())
    async with scripted(ONE, RemoteExit(4)) as (fakes, web):
        ended, live = order(), order()
        before = web.identity
        async with durable_of(fakes) as durable:
            await collect(await durable.begin(ended, before))
            web.reply([TWO, gate])
            process = await durable.begin(live, before)
            await gate.reached.wait()
            web.reboot()
            assert await contact_lost(process) == b""
        assert (web.identity.store, web.identity.boot != before.boot) == (before.store, True)
        async with durable_of(fakes) as durable:
            with pytest.raises(SpoolChanged):
                await durable.begin(live, before)
            assert await lost(durable.attach(live, before, (0, 0)))
            assert await lost(durable.begin(live, web.identity))
            assert await collect(await durable.attach(ended, before, (0, 0))) == (
                b"one\n",
                b"",
                RemoteExit(4),
            )


async def test_a_machine_made_anew_knows_nothing() -> None:
    async with scripted(RemoteExit(4)) as (fakes, web):
        ended, before = order(), web.identity
        async with durable_of(fakes) as durable:
            await collect(await durable.begin(ended, before))
            await durable.cancel(order().key, 1.0)
        web.reimage()
        async with durable_of(fakes) as durable:
            with pytest.raises(SpoolChanged) as met:
                await durable.attach(ended, before, (0, 0))
            assert met.value.seen == web.identity != before
            assert not await never_starts(durable.attach(ended, web.identity, (0, 0)))
        assert not web.runs
        assert not web.voids


async def test_a_run_whose_wrapper_was_killed_is_lost_to_all() -> None:
    gate = Gate(asyncio.Event())
    async with scripted(ONE, gate) as (fakes, web), durable_of(fakes) as durable:
        run = order()
        process = await durable.begin(run, web.identity)
        await gate.reached.wait()
        web.lose_wrapper(run.key)
        assert await lost(collect(process))
        assert await lost(durable.attach(run, web.identity, (0, 0)))
        assert await lost(durable.begin(run, web.identity))
        assert await durable.look(run.key) is None
        killed = RemoteExit(None, "KILL")
        assert await durable.cancel(run.key, 1.0) == CancelOutcome(CancelProof.KILLED, killed)
        assert await collect(await durable.attach(run, web.identity, (0, 0))) == (
            b"one\n",
            b"",
            killed,
        )


async def test_an_orphan_that_ends_by_itself_has_no_end_on_record() -> None:
    gate = Gate(asyncio.Event())
    async with scripted(gate, RemoteExit(3)) as (fakes, web), durable_of(fakes) as durable:
        run = order()
        await durable.begin(run, web.identity)
        await gate.reached.wait()
        web.lose_wrapper(run.key)
        gate.event.set()
        while web.runs[run.key].working:
            await asyncio.sleep(0)
        assert await durable.look(run.key) == CancelOutcome(CancelProof.ALREADY_FINISHED)
        assert await durable.cancel(run.key, 1.0) == CancelOutcome(CancelProof.ALREADY_FINISHED)
        assert await lost(durable.attach(run, web.identity, (0, 0)))


async def test_a_machine_that_keeps_no_runs_says_why_or_has_no_word_for_it() -> None:
    async with scripted() as (fakes, web), durable_of(fakes) as durable:
        web.no_spool = "its disk is full"
        for asked in (
            durable.begin(order(), web.identity),
            durable.attach(order(), web.identity, (0, 0)),
        ):
            with pytest.raises(SpoolUnavailable, match="its disk is full"):
                await asked
        web.durable_off = True
        async with fakes.session(HERE) as session:
            assert session.durable() is None
        assert not web.starts


@pytest.mark.parametrize("begun", [True, False])
async def test_a_start_whose_answer_is_lost_has_begun_or_has_not(begun: bool) -> None:
    async with scripted(ONE, RemoteExit(0)) as (fakes, web), durable_of(fakes) as durable:
        web.refuse_start(RemoteFailure(ErrorCode.LOST, "no answer"), begun=begun)
        run = order()
        with pytest.raises(ContactLost):
            await durable.begin(run, web.identity)
        assert len(web.starts) == begun
        if not begun:
            assert not await never_starts(durable.attach(run, web.identity, (0, 0)))
        assert await collect(await durable.begin(run, web.identity)) == (
            b"one\n",
            b"",
            RemoteExit(0),
        )
        assert len(web.starts) == 1


async def test_a_start_may_fail_before_it_was_sent_or_die_before_it_began() -> None:
    async with scripted() as (fakes, web), durable_of(fakes) as durable:
        unsent, stillborn = order(), order()
        web.refuse_start(RemoteFailure(ErrorCode.CONNECTION_LOST, "not sent"))
        web.refuse_start(NotStarted(settled=True))
        with pytest.raises(RemoteFailure) as failed:
            await durable.begin(unsent, web.identity)
        assert failed.value.code is ErrorCode.CONNECTION_LOST
        assert await never_starts(durable.begin(stillborn, web.identity))
        assert await never_starts(durable.attach(stillborn, web.identity, (0, 0)))
        assert not await never_starts(durable.attach(unsent, web.identity, (0, 0)))
        assert not web.starts


async def test_the_watchdog_goes_by_the_turned_clock() -> None:
    clock, gate = TurnedClock(), Gate(asyncio.Event())
    async with scripted(ONE, gate, clock=clock) as (fakes, web), durable_of(fakes) as durable:
        run = order(timeout_seconds=30.0, grace_seconds=5.0)
        web.ignores_term = True
        process = await durable.begin(run, web.identity)
        await gate.reached.wait()
        clock.turn(29.0)
        assert await durable.look(run.key) is None
        clock.turn(1.0)
        await asyncio.sleep(0)
        assert await durable.look(run.key) is None
        clock.turn(5.0)
        assert await collect(process) == (b"one\n", b"", RemoteExit(None, "KILL", "timeout"))
        assert not web.kills


async def test_what_cannot_be_killed_goes_on_and_every_cancel_says_so() -> None:
    gate = Gate(asyncio.Event())
    async with scripted(gate, ONE, RemoteExit(0)) as (fakes, web), durable_of(fakes) as durable:
        run = order()
        web.unkillable = True
        process = await durable.begin(run, web.identity)
        await gate.reached.wait()
        assert await durable.cancel(run.key, 1.0) == CancelOutcome(CancelProof.UNREACHABLE)
        assert await process.kill(1.0) is CancelProof.UNREACHABLE
        gate.event.set()
        assert await collect(process) == (b"one\n", b"", RemoteExit(0))
        assert web.kills == [CancelProof.UNREACHABLE] * 2


async def test_a_run_outlives_its_session_and_ends_with_the_machines() -> None:
    gate = Gate(asyncio.Event())
    before = asyncio.all_tasks()
    async with scripted(gate, RemoteExit(0)) as (fakes, web):
        run = order()
        async with durable_of(fakes) as durable:
            await durable.begin(run, web.identity)
        await gate.reached.wait()
        assert web.runs[run.key].live
        assert web.open_sessions == 0
    assert asyncio.all_tasks() == before
