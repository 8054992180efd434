"""Faults of our processes: killed, frozen, stopped, killed at every numbered step."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterator, Mapping, Sequence

from chaos.fault_context import FaultContext
from chaos.long_text_work import long_log
from chaos.runner import Fault
from chaos.verdicts import DEAD, UNREACHABLE, Launched
from e2e.cluster import LEASE_SECONDS, WORKERS
from opsjobs import failpoints
from opsjobs.wakeup.celery_app import WAKEUP, WakeupApp, wakeup_queue

WAKEUPS = 100
# The process that passes a step, if it is not a worker.
_PASSED_BY = {
    **dict.fromkeys(("launch", "ledger.launch", "notify", "stream"), ("api",)),
    "publish": (*WORKERS, "scheduler"),
}
# The number of passages before there is work; the fault happens within so many after that.
_BEFORE = {"claim": 2}
_PASSAGES = {"begin": 2, "claim": 3, "settle": 4, "cancel": 3, "stream": 4, "publish": 2}
_PASSAGES_OF_MOST = 6
_ON_THE_WAY = frozenset({"session", "start"})
# A round launches by the API and has no schedules: kills at these steps are in
# tests/engine/test_firing_faults.py.
_OF_SCHEDULES = frozenset({"fire", "firing.prepare", "firing.launch"})


def worker_killed(context: FaultContext) -> None:
    context.launch()
    context.begun()
    context.moment()
    context.worker().kill()
    context.cancel()
    context.pause(LEASE_SECONDS + 1.5)


def every_worker_killed_three_times(context: FaultContext) -> None:
    context.launch(6.0)
    for _ in range(3):
        context.begun(0.2)
        context.moment(1.0)
        for name, worker in zip(WORKERS, context.workers, strict=True):
            worker.kill()
            context.cluster.spawn(name)
    context.cancel()


def long_log_taken_over(context: FaultContext) -> None:
    """Kill it twice, in the middle of logs of a megabyte with outputs.

    The next steps print these outputs.
    """
    context.launch(4.0)
    log = context.start(long_log(40, context.longer(0.15, 0.25)), context.some_addresses(1 / 3))
    context.watch(log)
    for _ in range(2):
        assert context.soon(lambda: _followers(context, log), 30.0), (
            "the logs were over before their workers died"
        )
        context.moment(1.5)
        name = context.chance.choice(_followers(context, log) or WORKERS)
        context.cluster.running[name].kill()
        context.cluster.spawn(name)
        context.pause(LEASE_SECONDS + 1.0)
    context.cancel()


def _followers(context: FaultContext, log: Launched) -> list[str]:
    """Return the workers that have stored a part of a first step's output, and not its end."""
    halfway = """
select distinct r.worker from target_runs r join job_execution_results x on x.target_run_id = r.id
where r.execution_id = %s and r.status = 'running' and x.status = 'running' and x.action = 'step-1' and x.stdout_stored > 0"""
    titles = {row["worker"] for row in context.cluster.rows(halfway, log.id)}
    return [name for name in WORKERS if context.cluster.running[name].title in titles]


def worker_frozen_beyond_its_lease(context: FaultContext) -> None:
    """Two owners: the other worker takes its runs over, and then it wakes without knowing of it."""
    context.launch(LEASE_SECONDS + 5)
    context.begun()
    frozen = context.worker()
    frozen.freeze()
    buried = "select 1 from workers where name = %s and buried_at is not null"
    context.soon(lambda: context.cluster.rows(buried, frozen.title), LEASE_SECONDS + 4)
    context.moment(1.5)
    frozen.thaw()
    context.cancel()


def worker_frozen_for_a_moment(context: FaultContext) -> None:
    context.launch()
    for _ in range(3):
        context.begun()
        frozen = context.worker()
        frozen.freeze()
        context.moment(LEASE_SECONDS / 2)
        frozen.thaw()
    context.cancel()


def deploy(context: FaultContext) -> None:
    """SIGTERM to each worker in turn, and a new one in its place."""
    context.launch(4.0)
    for name in WORKERS:
        context.begun()
        context.moment()
        assert context.cluster.running[name].end(signal.SIGTERM, 60) == 0
        context.cluster.spawn(name)
    context.cancel()


def all_of_it_stopped(context: FaultContext) -> None:
    """SIGTERM to all workers at once: for a while there is none."""
    context.launch(3.0)
    context.begun()
    for worker in context.workers:
        worker.process.send_signal(signal.SIGTERM)
    context.cancel()
    for worker in context.workers:
        worker.process.wait(60)


def wakeups(context: FaultContext) -> None:
    """Send a hundred wake-ups that are not merged, while there is work."""
    context.launch()
    app = WakeupApp(context.cluster.valkey.url)
    queue = wakeup_queue("default")
    with (
        app.connection_for_write() as connection,
        app.amqp.Producer(connection.channel(), auto_declare=False) as producer,
    ):
        for _ in range(WAKEUPS):
            app.send_task(
                WAKEUP,
                ("default",),
                queue=queue,
                producer=producer,
                retry=False,
                declare=(),
                ignore_result=True,
            )
            context.pause(0.01)
    context.cancel()


def api_killed_while_followed(context: FaultContext) -> None:
    context.launch(4.0)
    for launched in context.launched[:4]:
        context.watch(launched)
    for _ in range(3):
        context.moment(1.0)
        context.cluster.running["api"].kill()
        context.cluster.revive("api")
        context.begun(0.5)
    context.cancel()


def api_killed_after_the_commit(context: FaultContext) -> None:
    """It dies between commit and response, once for each of two launches:

    the client repeats the key.
    """
    for _ in range(2):
        context.cluster.arm("api", "notify:kill")
        context.launch_one()
    context.launch()
    context.begun()
    context.cancel()


def everything_killed(context: FaultContext) -> None:
    """A power cut of the whole service; the machines continue."""
    context.launch(3.0)
    context.begun()
    context.moment(1.0)
    cluster = context.cluster
    for running in cluster.running.values():
        running.process.kill()
    for server in (cluster.postgres, cluster.valkey):
        cluster.kill_server(server)
    for running in cluster.running.values():
        running.process.wait()


def poison(context: FaultContext) -> None:
    """Each worker that takes these runs dies before it can start them, however often."""
    context.launch(1.0, context.cluster.addresses[:6], cancel=False)
    over = "select 1 from job_executions where finished_at is null"
    for _ in range(12):
        for name in WORKERS:
            context.cluster.arm(name, "begin:kill")
        if context.soon(lambda: not context.cluster.rows(over), LEASE_SECONDS + 1):
            break


def _at(step: str) -> Fault:
    """All four kinds of failure at one step, each at a random passage.

    After the kill, the next ones happen in another process.
    """

    def inject(context: FaultContext) -> None:
        orders = _orders(context.chance, step)
        for name, order in orders.items():
            context.cluster.arm(name, order)
        context.launch()
        for launched in context.launched if step == "cancel" else ():
            launched.cancelled = True
        for launched in context.launched if step == "stream" else ():
            context.watch(launched)
        context.begun()
        if step == "attach":
            _hand_over(context, orders)
        context.cancel()
        context.soon(lambda: not all(context.cluster.running[name].alive for name in orders), 2.0)

    ways = ", ".join(f"`{step}:{way}`" for way in ("kill", "sleep", "error", "error_after"))
    return Fault(
        f"step {step}",
        ways,
        inject,
        frozenset({UNREACHABLE}) if step in _ON_THE_WAY else frozenset(),
    )


def _hand_over(context: FaultContext, orders: Mapping[str, str]) -> None:
    """One worker dies, so that the other one attaches to its runs, and dies of that."""
    heir, other = sorted(orders, key=lambda name: "kill" not in orders[name])
    context.cluster.running[other].kill()
    context.soon(lambda: not context.cluster.running[heir].alive, LEASE_SECONDS + 2.0)


def _orders(chance: random.Random, step: str) -> dict[str, str]:
    """Return the failpoints of each process, by its name."""
    names = _PASSED_BY.get(step, WORKERS)
    pairs = chance.sample((("sleep:0.7", "kill"), ("error", "error_after")), 2)
    told = (
        [pairs[0], pairs[1]]
        if len(names) > 1
        else [(*chance.sample(("sleep:0.7", "error", "error_after"), 3), "kill")]
    )
    return {
        name: ",".join(_spelt(chance, step, ways))
        for name, ways in zip(names, itertools.cycle(told))
    }


def _spelt(chance: random.Random, step: str, ways: Sequence[str]) -> list[str]:
    first = 1 + _BEFORE.get(step, 0)
    passages = range(first, first + max(_PASSAGES.get(step, _PASSAGES_OF_MOST), len(ways)))
    return [
        f"{step}:{way}@{n}"
        for way, n in zip(ways, sorted(chance.sample(passages, len(ways))), strict=True)
    ]


def steps() -> Iterator[Fault]:
    """Return a fault for every numbered step and every kind of failure there."""
    yield from (_at(step) for step in sorted(failpoints.NAMES - _OF_SCHEDULES))


FAULTS = (
    Fault("worker killed", "SIGKILL of one of two workers", worker_killed),
    Fault(
        "all workers killed, three times",
        "SIGKILL of both, thrice in one run, started again each time",
        every_worker_killed_three_times,
    ),
    Fault(
        "long log taken over",
        "SIGKILL, twice, of a worker in the middle of long logs whose values the next steps use",
        long_log_taken_over,
    ),
    Fault(
        "two owners",
        "SIGSTOP of a worker until the other one has its runs, then SIGCONT",
        worker_frozen_beyond_its_lease,
    ),
    Fault(
        "worker frozen",
        "SIGSTOP and SIGCONT within the lease, three times",
        worker_frozen_for_a_moment,
    ),
    Fault("deploy", "SIGTERM of each worker in turn, a new one in its place", deploy),
    Fault(
        "all workers stopped", "SIGTERM of both, and for a while there is none", all_of_it_stopped
    ),
    Fault("wake-ups", "a hundred wake-ups too many", wakeups),
    Fault(
        "API killed while followed",
        "SIGKILL of the API, three times; viewers resume by Last-Event-ID",
        api_killed_while_followed,
    ),
    Fault(
        "API killed after the commit",
        "it dies before the answer; the client comes back with its Idempotency-Key",
        api_killed_after_the_commit,
    ),
    Fault(
        "everything killed",
        "SIGKILL of all our processes, PostgreSQL and Redis at once",
        everything_killed,
    ),
    Fault("poison", "whoever takes the run dies of it", poison, frozenset({DEAD}), whole_only=True),
    *steps(),
)
