"""A wave of 5,000 runs at one barrier: processes are killed in the commit that opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import psycopg

from chaos import long_texts
from chaos.cluster import HALVES, ChaosCluster
from chaos.fault_context import FaultContext
from chaos.runner import Fault
from chaos.verdicts import RIGHT, Launched, Seen
from chaos.work import Work, lines
from e2e.cluster import WORKERS
from e2e.processes import wait_until

WAVE = 5_000
IMPORTED_AT_ONCE = 1_000
CONCURRENCY = "400"
GATHERED = ("gather", "together")
COMMIT_SECONDS = 180.0
CROWD = long_texts.name("crowd", characters=80)
_HOST = "crowd.invalid"
"""Nothing is ever started on these, so none of them is connected to:

they wait, reach the barrier and end.
"""

_AT_A_BARRIER = """
select id from target_runs where execution_id = %s and status = 'waiting' and waiting_for = 'barrier' order by id limit 1"""
_ORDER = """
select r.wave, max(x.finished_at) filter (where x.action = 'gather') as gathered,
  min(x.started_at) filter (where x.action in ('together', 'step-1')) as went_on,
  min(x.started_at) as began, max(r.finished_at) as ended
from target_runs r join job_execution_results x on x.target_run_id = r.id
where r.execution_id = %s and x.started_at is not null group by 1 order by 1"""


def barrier(context: FaultContext) -> None:
    """Two commits:

    all of the first wave continue together, and the second wave follows the first one.
    """
    cluster = context.cluster
    _add_targets_without_machine(cluster)
    cluster.restart(*WORKERS, OPSJOBS_CONCURRENCY=CONCURRENCY)
    launched = _launch(context)
    context.own = _checker(cluster, launched)
    wait_until(lambda: cluster.rows(_AT_A_BARRIER, launched.id), "a run stands at the barrier")
    (first,) = cluster.rows(_AT_A_BARRIER, launched.id)
    _killed_in_the_commit(context, "target_runs where id", first["id"])
    _killed_in_the_commit(context, "execution_gates where execution_id", launched.id)


def _add_targets_without_machine(cluster: ChaosCluster) -> None:
    names = [
        long_texts.name(f"crowd-{n}", characters=40)
        for n in range(WAVE - len(cluster.addresses) // 2)
    ]
    for at in range(0, len(names), IMPORTED_AT_ONCE):
        some = [
            {"name": name, "host": _HOST, "groups": [CROWD]}
            for name in names[at : at + IMPORTED_AT_ONCE]
        ]
        cluster.post("/targets/import", {"targets": some}, 200)


def _launch(context: FaultContext) -> Launched:
    """Return half of the machines for the first wave, beside the crowd.

    The others are in the second wave.
    """
    first, second = context.cluster.addresses[::2], context.cluster.addresses[1::2]
    pause = {"type": "wait", "duration": "10ms"}
    work = Work(
        "barrier",
        [lines(10, 0.1)],
        before=[{"key": GATHERED[0], **pause}, {"key": GATHERED[1], "scope": "barrier", **pause}],
        policy={"waves": [WAVE, "100%"]},
    )
    work.steps[0].more["targets"] = {"selector": "half"}
    targets = {
        "ids": [context.cluster.name_of(address) for address in first],
        "groups": [CROWD],
        "selector": f"half={HALVES[1]}",
    }
    return context.start(
        work,
        [*first, *[_HOST] * (WAVE - len(first)), *second],
        max_parallel=10_000,
        targets=targets,
    )


def _killed_in_the_commit(context: FaultContext, rows: str, value: int) -> None:
    """Hold the rows of this commit, kill the processes in it, then let it finish or fail."""
    with _held(context.cluster, f"select 1 from {rows} = %s for update", value) as holder:
        wait_until(
            lambda: _in_its_way(context.cluster, holder),
            "a commit stands in its middle",
            COMMIT_SECONDS,
        )
        killed = [*WORKERS, *context.chance.choice(([], ["scheduler"]))]
        for name in killed:
            context.cluster.running[name].kill()
        if context.chance.choice((True, False)):
            for pid in _in_its_way(context.cluster, holder):
                context.cluster.rows("select pg_terminate_backend(%s)", pid)
    for name in killed:
        context.cluster.spawn(
            name, **({"OPSJOBS_CONCURRENCY": CONCURRENCY} if name in WORKERS else {})
        )


@contextmanager
def _held(cluster: ChaosCluster, query: str, value: int) -> Iterator[int]:
    with psycopg.connect(cluster.postgres.url) as connection:
        connection.execute(query.encode(), [value])
        yield connection.info.backend_pid


def _in_its_way(cluster: ChaosCluster, holder: int) -> list[int]:
    waiting = cluster.rows(
        "select pid from pg_stat_activity where %s = any(pg_blocking_pids(pid))", holder
    )
    return [int(row["pid"]) for row in waiting]


def _checker(cluster: ChaosCluster, launched: Launched) -> Callable[[Seen], str | None]:
    """Check that the crowd has ended without a start, and the others started in order.

    It is the order of barrier and waves.
    """

    @cache
    def order() -> str | None:
        waves = cluster.rows(_ORDER, launched.id)
        if any(wave["went_on"] < wave["gathered"] for wave in waves):
            return f"went on before all had come to the barrier: {waves}"
        if len(waves) != 2 or waves[1]["began"] < waves[0]["ended"]:
            return f"began before the wave before it had ended: {waves}"
        return None

    def check(seen: Seen) -> str | None:
        if seen.row["host"] != _HOST:
            return order()
        told = {action: result["status"] for action, result in seen.results.items()}
        passed = all(told.get(action) == "succeeded" for action in GATHERED)
        right = (
            seen.row["status"] == "succeeded"
            and passed
            and told.get("step-1", "skipped") == "skipped"
            and not seen.started
        )
        return RIGHT if right else f"stood at the barrier, and is {seen.row['status']} with {told}"

    return check


FAULTS = (
    Fault(
        "barrier of 5,000",
        "SIGKILL of both workers in the commit that opens a barrier, and in the one that opens a wave",
        barrier,
        end_seconds=300.0,
    ),
)
