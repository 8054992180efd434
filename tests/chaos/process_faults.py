"""Our own processes: killed, frozen, stopped, killed at every numbered step."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterator, Mapping, Sequence

from chaos.judge import DEAD, UNREACHABLE, Launched
from chaos.play import Fault
from chaos.scene import Scene
from chaos.telling import long_log
from e2e.cluster import LEASE_SECONDS, WORKERS
from opsjobs import failpoints
from opsjobs.wakeup.celery_app import WAKEUP, WakeupApp, wakeup_queue

BELLS = 100
# Who passes a step, where it is not the workers.
_PASSED_BY = {
    **dict.fromkeys(("launch", "ledger.launch", "notify", "stream"), ("api",)),
    "publish": (*WORKERS, "scheduler"),
}
# After so many passages before there is work, and in so many afterwards, it happens.
_BEFORE = {"claim": 2}
_PASSAGES = {"begin": 2, "claim": 3, "settle": 4, "cancel": 3, "stream": 4, "publish": 2}
_PASSAGES_OF_MOST = 6
_ON_THE_WAY = frozenset({"session", "start"})
# A scene launches by the API and has no schedules: these are killed at in tests/engine/test_firing_faults.py.
_OF_SCHEDULES = frozenset({"fire", "firing.prepare", "firing.launch"})


def worker_killed(scene: Scene) -> None:
    scene.launch()
    scene.begun()
    scene.moment()
    scene.worker().kill()
    scene.cancel()
    scene.pause(LEASE_SECONDS + 1.5)


def every_worker_killed_three_times(scene: Scene) -> None:
    scene.launch(6.0)
    for _ in range(3):
        scene.begun(0.2)
        scene.moment(1.0)
        for name, worker in zip(WORKERS, scene.workers, strict=True):
            worker.kill()
            scene.stage.spawn(name)
    scene.cancel()


def long_log_taken_over(scene: Scene) -> None:
    """Twice, in the middle of logs of a megabyte, which hand on values that the next steps say again."""
    scene.launch(4.0)
    log = scene.start(long_log(40, scene.longer(0.15, 0.25)), scene.some_addresses(1 / 3))
    scene.watch(log)
    for _ in range(2):
        assert scene.soon(lambda: _followers(scene, log), 30.0), (
            "the logs were over before their workers died"
        )
        scene.moment(1.5)
        name = scene.chance.choice(_followers(scene, log) or WORKERS)
        scene.stage.running[name].kill()
        scene.stage.spawn(name)
        scene.pause(LEASE_SECONDS + 1.0)
    scene.cancel()


def _followers(scene: Scene, log: Launched) -> list[str]:
    """The workers that have stored a part of a first step's output, and not its end."""
    halfway = """
select distinct r.worker from target_runs r join job_execution_results x on x.target_run_id = r.id
where r.execution_id = %s and r.status = 'running' and x.status = 'running' and x.action = 'step-1' and x.stdout_stored > 0"""
    titles = {row["worker"] for row in scene.stage.rows(halfway, log.id)}
    return [name for name in WORKERS if scene.stage.running[name].title in titles]


def worker_frozen_beyond_its_lease(scene: Scene) -> None:
    """Two owners: the other one takes its runs over, and then it wakes and knows nothing of that."""
    scene.launch(LEASE_SECONDS + 5)
    scene.begun()
    frozen = scene.worker()
    frozen.freeze()
    buried = "select 1 from workers where name = %s and buried_at is not null"
    scene.soon(lambda: scene.stage.rows(buried, frozen.title), LEASE_SECONDS + 4)
    scene.moment(1.5)
    frozen.thaw()
    scene.cancel()


def worker_frozen_for_a_moment(scene: Scene) -> None:
    scene.launch()
    for _ in range(3):
        scene.begun()
        frozen = scene.worker()
        frozen.freeze()
        scene.moment(LEASE_SECONDS / 2)
        frozen.thaw()
    scene.cancel()


def deploy(scene: Scene) -> None:
    """SIGTERM of each worker in turn, and a new one in its place."""
    scene.launch(4.0)
    for name in WORKERS:
        scene.begun()
        scene.moment()
        assert scene.stage.running[name].end(signal.SIGTERM, 60) == 0
        scene.stage.spawn(name)
    scene.cancel()


def all_of_it_stopped(scene: Scene) -> None:
    """SIGTERM of all workers at once: for a while there is none."""
    scene.launch(3.0)
    scene.begun()
    for worker in scene.workers:
        worker.process.send_signal(signal.SIGTERM)
    scene.cancel()
    for worker in scene.workers:
        worker.process.wait(60)


def bells(scene: Scene) -> None:
    """A hundred bells, notified past the merging, while there is work."""
    scene.launch()
    app = WakeupApp(scene.stage.valkey.url)
    queue = wakeup_queue("default")
    with (
        app.connection_for_write() as connection,
        app.amqp.Producer(connection.channel(), auto_declare=False) as producer,
    ):
        for _ in range(BELLS):
            app.send_task(
                WAKEUP,
                ("default",),
                queue=queue,
                producer=producer,
                retry=False,
                declare=(),
                ignore_result=True,
            )
            scene.pause(0.01)
    scene.cancel()


def api_killed_while_followed(scene: Scene) -> None:
    scene.launch(4.0)
    for launched in scene.launched[:4]:
        scene.watch(launched)
    for _ in range(3):
        scene.moment(1.0)
        scene.stage.running["api"].kill()
        scene.stage.revive("api")
        scene.begun(0.5)
    scene.cancel()


def api_killed_after_the_commit(scene: Scene) -> None:
    """It dies between commit and answer, once for each of two launches: the client comes back with the same key."""
    for _ in range(2):
        scene.stage.arm("api", "notify:kill")
        scene.launch_one()
    scene.launch()
    scene.begun()
    scene.cancel()


def everything_killed(scene: Scene) -> None:
    """A power cut of the whole service; the machines go on."""
    scene.launch(3.0)
    scene.begun()
    scene.moment(1.0)
    stage = scene.stage
    for running in stage.running.values():
        running.process.kill()
    for server in (stage.postgres, stage.valkey):
        stage.kill_server(server)
    for running in stage.running.values():
        running.process.wait()


def poison(scene: Scene) -> None:
    """Whoever takes these runs dies before it can start them, however often."""
    scene.launch(1.0, scene.stage.addresses[:6], cancel=False)
    over = "select 1 from job_executions where finished_at is null"
    for _ in range(12):
        for name in WORKERS:
            scene.stage.arm(name, "begin:kill")
        if scene.soon(lambda: not scene.stage.rows(over), LEASE_SECONDS + 1):
            break


def _at(step: str) -> Fault:
    """All four ways to fail at one step, each at a passage by chance; what follows the kill happens in another process."""

    def inject(scene: Scene) -> None:
        orders = _orders(scene.chance, step)
        for name, order in orders.items():
            scene.stage.arm(name, order)
        scene.launch()
        for launched in scene.launched if step == "cancel" else ():
            launched.cancelled = True
        for launched in scene.launched if step == "stream" else ():
            scene.watch(launched)
        scene.begun()
        if step == "attach":
            _hand_over(scene, orders)
        scene.cancel()
        scene.soon(lambda: not all(scene.stage.running[name].alive for name in orders), 2.0)

    ways = ", ".join(f"`{step}:{way}`" for way in ("kill", "sleep", "error", "error_after"))
    return Fault(
        f"step {step}",
        ways,
        inject,
        frozenset({UNREACHABLE}) if step in _ON_THE_WAY else frozenset(),
    )


def _hand_over(scene: Scene, orders: Mapping[str, str]) -> None:
    """One worker dies, so that the other one attaches to its runs, and dies of that."""
    heir, other = sorted(orders, key=lambda name: "kill" not in orders[name])
    scene.stage.running[other].kill()
    scene.soon(lambda: not scene.stage.running[heir].alive, LEASE_SECONDS + 2.0)


def _orders(chance: random.Random, step: str) -> dict[str, str]:
    """What each process is told to do, by its name."""
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
    """Every numbered step, with every way to fail there."""
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
    Fault("bells", "a hundred bells too many", bells),
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
