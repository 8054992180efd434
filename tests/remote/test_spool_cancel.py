"""A cancel of a durable run ends all its processes and no others; its result is the proof."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from kit.command_runs import read_to_end
from opsjobs.model.execution import CancelProof
from opsjobs.remote.session import CancelOutcome, RemoteExit
from remote.spool_machines import alive, first, kill, machine, marked, until, within

# Twelve processes that leave their parents, sessions and terminals, ignore TERM, and create new
# ones for a while.
DAEMONS = """
trap '' TERM HUP INT
bomb() {
  trap '' TERM HUP INT
  n=$1
  while [ $n -lt 4 ]; do
    n=$((n+1))
    setsid sh -c 'trap "" TERM HUP INT; (while :; do sleep 1; done) & while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &
    (trap '' TERM; bomb $n) &
  done
  while :; do sleep 1; done
}
bomb 2 &
sleep 0.3
echo up
while :; do sleep 1; done
"""


async def test_processes_that_daemonise_and_ignore_term_leave_no_survivor(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order(DAEMONS)
        process = await web.begin(order)
        await first(process)
        await until(lambda: len(marked(order.key)) > 8)
        settlement = await within(60, web.spool.cancel(order.key, 0.3))
        assert settlement == CancelOutcome(CancelProof.KILLED, RemoteExit(None, "KILL", "cancel"))
        assert marked(order.key) == []
        assert (await read_to_end(process))[2] == RemoteExit(None, "KILL", "cancel")


async def test_processes_that_fork_all_the_time_leave_no_survivor() -> None:
    async with machine() as web:
        # Each generation lives only briefly, and there are many at a time.
        breed = "f() { trap '' TERM; n=0; while [ $n -lt 200 ]; do (sleep 0.05); n=$((n+1)); done; }; f & f & f & f & echo up; wait"
        order = web.order(f"trap '' TERM; {breed}")
        await first(await web.begin(order))
        assert (await within(60, web.spool.cancel(order.key, 0.2))).proof is CancelProof.KILLED
        assert marked(order.key) == []


async def test_a_cancel_leaves_the_processes_of_other_runs_alone(shell: str) -> None:
    async with machine(shell) as web:
        orders = [
            web.order("echo up; setsid sleep 60 & sleep 60"),
            web.order("echo up; setsid sleep 60 & sleep 60"),
        ]
        # The tenth attempt's key begins with the first one's.
        key = orders[0].key
        orders.append(replace(orders[0], key=replace(key, attempt=10)))
        web.orders.append(orders[-1])
        for order in orders:
            await first(await web.begin(order))
        assert (await web.spool.cancel(key, 0.2)).proof is CancelProof.KILLED
        assert marked(key) == []
        # They say that they are up before they start the others.
        await until(lambda: [len(marked(order.key)) for order in orders[1:]] == [3, 3])
        assert await web.spool.look(orders[2].key) is None


async def test_what_a_run_has_started_is_left_alone_once_the_run_has_ended(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $!")
        out, _, _ = await web.done(order)
        assert await web.spool.cancel(order.key, 0.1) == CancelOutcome(
            CancelProof.ALREADY_FINISHED, RemoteExit(0)
        )
        assert alive(int(out))
        kill(marked(order.key))


async def test_a_process_that_hides_from_its_environment_is_found_by_its_session(
    shell: str,
) -> None:
    async with machine(shell) as web:
        order = web.order(
            "env -i sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait"
        )
        pid = int(await first(await web.begin(order), 2))
        assert pid not in marked(order.key)
        assert (await web.spool.cancel(order.key, 0.2)).proof is CancelProof.KILLED
        assert not alive(pid)


async def test_a_command_that_kills_its_whole_group_takes_its_keeper_along_and_a_cancel_tells(
    shell: str,
) -> None:
    async with machine(shell) as web:
        # It waits for the file, so that it lives until its first output was read.
        order = web.order(
            "echo up; while [ ! -e go ]; do sleep 0.05; done; setsid sleep 60 & kill -KILL 0"
        )
        process = await web.begin(order)
        await first(process)
        keeper = web.keeper(order)
        (web.account.home / "go").touch()
        await until(lambda: not alive(keeper))
        assert await web.spool.look(order.key) is None or marked(order.key) == []
        proof = (await web.spool.cancel(order.key, 0.2)).proof
        assert proof in (CancelProof.KILLED, CancelProof.ALREADY_FINISHED)
        assert marked(order.key) == []


async def test_a_cancel_in_the_middle_of_a_start_kills_or_prevents_it(shell: str) -> None:
    async with machine(shell) as web:
        for pause in (0.0, 0.0, 0.001, 0.002, 0.003, 0.004, 0.006, 0.01):
            order = web.order("echo ran >>witness; sleep 60; echo more >>witness")
            beginning = asyncio.create_task(web.begin(order))
            await asyncio.sleep(pause)
            settlement = await web.spool.cancel(order.key, 1.0)
            await asyncio.gather(beginning, return_exceptions=True)
            witness = web.account.home / "witness"
            if settlement.proof is CancelProof.NEVER_STARTED:
                assert not witness.exists()
            else:
                assert settlement.proof is CancelProof.KILLED
            assert marked(order.key) == []
            witness.unlink(missing_ok=True)


async def test_many_cancels_at_once_agree(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("echo up; sleep 60")
        await first(await web.begin(order))
        settlements = await asyncio.gather(*(web.spool.cancel(order.key, 2.0) for _ in range(4)))
        assert {settlement.exit for settlement in settlements} <= {
            RemoteExit(None, "TERM", "cancel"),
            RemoteExit(None, "KILL", "cancel"),
        }
        assert {settlement.proof for settlement in settlements} <= {
            CancelProof.KILLED,
            CancelProof.ALREADY_FINISHED,
        }
        assert CancelProof.KILLED in {settlement.proof for settlement in settlements}


async def test_a_cancel_takes_no_longer_than_the_command_does(shell: str) -> None:
    async with machine(shell) as web:
        order = web.order("echo up; sleep 60")
        await first(await web.begin(order))
        began = time.monotonic()
        assert (await web.spool.cancel(order.key, 30.0)).proof is CancelProof.KILLED
        assert time.monotonic() - began < 25
