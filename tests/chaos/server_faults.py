"""PostgreSQL and Redis: killed, frozen, emptied, read-only, full."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import redis

from chaos.play import Fault
from chaos.scene import Scene
from e2e.cluster import LEASE_SECONDS, WORKERS
from e2e.processes import ServiceProcess
from kit.tcp_proxy import Proxy
from opsjobs.engine.worker.lease_heartbeat import RENEWALS_PER_LEASE

SILENT_CLIENTS = 1_100
LEASE = b"opsjobs lease"
"""The application name by which PostgreSQL, and who listens in, know the connection of a lease."""


def redis_stopped(scene: Scene) -> None:
    scene.launch()
    scene.begun(0.1)
    scene.stage.kill_server(scene.stage.valkey)
    scene.launch(1.0)
    scene.cancel()
    scene.pause(scene.longer(1.5, 4.0))


def redis_hung(scene: Scene) -> None:
    scene.stage.freeze(scene.stage.valkey)
    scene.launch()
    scene.begun()
    scene.cancel()
    scene.pause(scene.longer(2.0, 6.0))


def redis_emptied(scene: Scene) -> None:
    with redis.Redis.from_url(scene.stage.valkey.url) as client:
        for _ in range(round(scene.longer(2, 4))):
            scene.launch(1.0)
            client.flushall()
            scene.pause(1.0)
            scene.cancel()
            client.flushall()
            scene.pause(1.0)


def postgres_killed(scene: Scene) -> None:
    scene.launch()
    scene.begun()
    scene.moment(1.0)
    scene.stage.kill_server(scene.stage.postgres)
    scene.moment(scene.longer(1.0, 4.0))
    scene.stage.postgres.start()
    scene.cancel()


def postgres_away_until_commands_have_ended(scene: Scene) -> None:
    scene.launch(1.0)
    scene.begun(0.5)
    scene.stage.kill_server(scene.stage.postgres)
    scene.pause(scene.longer(4.0, 8.0))


def postgres_session_killed(scene: Scene) -> None:
    scene.launch()
    for _ in range(2):
        scene.begun()
        scene.moment(1.0)
        scene.soon(scene.stage.kill_a_backend, 30.0)
    scene.cancel()


def postgres_hung(scene: Scene) -> None:
    """Longer than a lease."""
    scene.launch(4.0)
    scene.begun()
    scene.stage.freeze(scene.stage.postgres)
    scene.pause(scene.longer(4.0, 7.0))
    scene.stage.thaw(scene.stage.postgres)
    scene.cancel()


def postgres_read_only(scene: Scene) -> None:
    scene.launch(3.0)
    scene.begun()
    scene.stage.set_read_only(True)
    scene.pause(scene.longer(3.0, 6.0))
    scene.stage.set_read_only(False)
    scene.cancel()


def postgres_disk_full(scene: Scene) -> None:
    scene.launch(3.0)
    scene.begun()
    scene.stage.fill_postgres_disk()
    scene.pause(scene.longer(3.0, 6.0))
    scene.stage.free_postgres_disk()


def postgres_silent(scene: Scene) -> None:
    """Its host is gone without a word, and another one answers: what is open stays open and silent, new connections are good."""
    way = scene.stage.reach_postgres_by_proxy()
    scene.launch(3.0)
    scene.begun()
    scene.moment(1.0)
    scene.stage.network.silence(way)
    scene.cancel()
    scene.pause(scene.longer(4.0, 8.0))


def lease_silent(scene: Scene) -> None:
    """The worker renews over a new connection, or leaves its runs to the other one: either way it is on record."""
    worker, way = _by_proxy(scene)
    assert scene.stage.network.silence(way, LEASE), "there is no connection for a lease"
    since = time.time() + LEASE_SECONDS / RENEWALS_PER_LEASE / 2
    scene.cancel()
    renewed = "select 1 from workers where name = %s and (buried_at is not null or renewed_at > to_timestamp(%s))"
    assert scene.soon(lambda: scene.stage.rows(renewed, worker.title, since), 5 * LEASE_SECONDS), (
        "it neither renewed nor left"
    )
    scene.pause(scene.longer(1.0, 3.0))


def lease_cut_off(scene: Scene) -> None:
    """The other worker has to take its runs over, although it still writes what they say. After that it is to live again."""
    worker, way = _by_proxy(scene)
    scene.stage.network.silence(way, LEASE, new=True)
    buried = "select 1 from workers where name = %s and buried_at is not null"
    assert scene.soon(lambda: scene.stage.rows(buried, worker.title), 5 * LEASE_SECONDS), (
        "it lives on without a lease"
    )
    scene.cancel()
    scene.moment(scene.longer(1.0, 4.0))
    scene.stage.network.heal()
    again = "select 1 from workers where name = %s and buried_at is null"
    assert scene.soon(lambda: scene.stage.rows(again, worker.title), 10 * LEASE_SECONDS), (
        "it does not live again"
    )


def _by_proxy(scene: Scene) -> tuple[ServiceProcess, Proxy]:
    """One worker with work that reaches PostgreSQL by a proxy, and that."""
    name = scene.chance.choice(WORKERS)
    way = scene.stage.reach_postgres_by_proxy(name)
    scene.launch(scene.longer(4.0, 8.0))
    scene.begun()
    scene.moment(1.0)
    return scene.stage.running[name], way


def clock_stepped(scene: Scene) -> None:
    """By more than a lease, and back."""
    scene.launch(4.0)
    scene.begun()
    scene.moment(1.0)
    scene.stage.step_clock(scene.chance.choice((-30.0, 30.0)))
    scene.pause(scene.longer(3.0, 6.0))
    scene.cancel()
    scene.stage.step_clock(0)


def api_clients_silent(scene: Scene) -> None:
    """More connections than a process may usually have open, which say nothing; work goes on beside them."""
    with ExitStack() as stack:
        for _ in range(SILENT_CLIENTS):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", scene.stage.port))
        scene.launch()
        scene.begun()
        scene.cancel()
        scene.pause(scene.longer(1.0, 3.0))


FAULTS = (
    Fault(
        "Redis stopped",
        "SIGKILL of Redis while there is work, and launches without it",
        redis_stopped,
    ),
    Fault("Redis hung", "SIGSTOP of Redis: it accepts and says nothing", redis_hung),
    Fault("Redis emptied", "FLUSHALL every second", redis_emptied),
    Fault(
        "PostgreSQL killed", "SIGKILL of PostgreSQL, and a start up to 4 s later", postgres_killed
    ),
    Fault(
        "PostgreSQL away",
        "SIGKILL of PostgreSQL until all commands have ended",
        postgres_away_until_commands_have_ended,
    ),
    Fault(
        "PostgreSQL session killed",
        "SIGKILL of one session: PostgreSQL drops all of them",
        postgres_session_killed,
    ),
    Fault("PostgreSQL hung", "SIGSTOP of PostgreSQL for longer than a lease", postgres_hung),
    Fault("PostgreSQL read-only", "default_transaction_read_only for 6 s", postgres_read_only),
    Fault(
        "PostgreSQL silent",
        "every open connection to PostgreSQL is silent for good; new ones are good",
        postgres_silent,
    ),
    Fault(
        "lease silent",
        "a worker's connection for its lease is silent for good; its pool and new ones are good",
        lease_silent,
    ),
    Fault(
        "lease cut off",
        "no connection for a worker's lease answers until it is taken for dead; its pool is good",
        lease_cut_off,
    ),
    Fault(
        "clock stepped",
        "PostgreSQL's clock jumps by 30 s, forwards or backwards, and back",
        clock_stepped,
    ),
    Fault(
        "clients silent", "1,100 connections to the API that never say anything", api_clients_silent
    ),
    Fault(
        "PostgreSQL's disk full", "not a block left for 6 s", postgres_disk_full, needs_root=True
    ),
)
