"""Faults of PostgreSQL and Redis: killed, frozen, emptied, read-only, full."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import redis

from chaos.fault_context import FaultContext
from chaos.runner import Fault
from e2e.cluster import LEASE_SECONDS, WORKERS
from e2e.processes import ServiceProcess
from kit.tcp_proxy import Proxy
from opsjobs.engine.worker.lease_heartbeat import RENEWALS_PER_LEASE

SILENT_CLIENTS = 1_100
LEASE = b"opsjobs lease"
"""The application name of a lease's connection in PostgreSQL."""


def redis_stopped(context: FaultContext) -> None:
    context.launch()
    context.begun(0.1)
    context.cluster.kill_server(context.cluster.valkey)
    context.launch(1.0)
    context.cancel()
    context.pause(context.longer(1.5, 4.0))


def redis_hung(context: FaultContext) -> None:
    context.cluster.freeze(context.cluster.valkey)
    context.launch()
    context.begun()
    context.cancel()
    context.pause(context.longer(2.0, 6.0))


def redis_emptied(context: FaultContext) -> None:
    with redis.Redis.from_url(context.cluster.valkey.url) as client:
        for _ in range(round(context.longer(2, 4))):
            context.launch(1.0)
            client.flushall()
            context.pause(1.0)
            context.cancel()
            client.flushall()
            context.pause(1.0)


def postgres_killed(context: FaultContext) -> None:
    context.launch()
    context.begun()
    context.moment(1.0)
    context.cluster.kill_server(context.cluster.postgres)
    context.moment(context.longer(1.0, 4.0))
    context.cluster.postgres.start()
    context.cancel()


def postgres_away_until_commands_have_ended(context: FaultContext) -> None:
    context.launch(1.0)
    context.begun(0.5)
    context.cluster.kill_server(context.cluster.postgres)
    context.pause(context.longer(4.0, 8.0))


def postgres_session_killed(context: FaultContext) -> None:
    context.launch()
    for _ in range(2):
        context.begun()
        context.moment(1.0)
        context.soon(context.cluster.kill_a_backend, 30.0)
    context.cancel()


def postgres_hung(context: FaultContext) -> None:
    """It lasts longer than a lease."""
    context.launch(4.0)
    context.begun()
    context.cluster.freeze(context.cluster.postgres)
    context.pause(context.longer(4.0, 7.0))
    context.cluster.thaw(context.cluster.postgres)
    context.cancel()


def postgres_read_only(context: FaultContext) -> None:
    context.launch(3.0)
    context.begun()
    context.cluster.set_read_only(True)
    context.pause(context.longer(3.0, 6.0))
    context.cluster.set_read_only(False)
    context.cancel()


def postgres_disk_full(context: FaultContext) -> None:
    context.launch(3.0)
    context.begun()
    context.cluster.fill_postgres_disk()
    context.pause(context.longer(3.0, 6.0))
    context.cluster.free_postgres_disk()


def postgres_silent(context: FaultContext) -> None:
    """Its host disappears silently, and another one answers.

    Open connections stay open and silent, new connections work.
    """
    way = context.cluster.reach_postgres_by_proxy()
    context.launch(3.0)
    context.begun()
    context.moment(1.0)
    context.cluster.network.silence(way)
    context.cancel()
    context.pause(context.longer(4.0, 8.0))


def lease_silent(context: FaultContext) -> None:
    """Check that the worker renewed over a new connection, or left its runs to the other one.

    Either is recorded.
    """
    worker, way = _by_proxy(context)
    assert context.cluster.network.silence(way, LEASE), "there is no connection for a lease"
    since = time.time() + LEASE_SECONDS / RENEWALS_PER_LEASE / 2
    context.cancel()
    renewed = "select 1 from workers where name = %s and (buried_at is not null or renewed_at > to_timestamp(%s))"
    assert context.soon(
        lambda: context.cluster.rows(renewed, worker.title, since), 5 * LEASE_SECONDS
    ), "it neither renewed nor left"
    context.pause(context.longer(1.0, 3.0))


def lease_cut_off(context: FaultContext) -> None:
    """The other worker has to take its runs over, although it still writes output.

    After that it must recover.
    """
    worker, way = _by_proxy(context)
    context.cluster.network.silence(way, LEASE, new=True)
    buried = "select 1 from workers where name = %s and buried_at is not null"
    assert context.soon(lambda: context.cluster.rows(buried, worker.title), 5 * LEASE_SECONDS), (
        "it lives on without a lease"
    )
    context.cancel()
    context.moment(context.longer(1.0, 4.0))
    context.cluster.network.heal()
    again = "select 1 from workers where name = %s and buried_at is null"
    assert context.soon(lambda: context.cluster.rows(again, worker.title), 10 * LEASE_SECONDS), (
        "it does not live again"
    )


def _by_proxy(context: FaultContext) -> tuple[ServiceProcess, Proxy]:
    """Return one worker with runs that reaches PostgreSQL through a proxy, and the proxy."""
    name = context.chance.choice(WORKERS)
    way = context.cluster.reach_postgres_by_proxy(name)
    context.launch(context.longer(4.0, 8.0))
    context.begun()
    context.moment(1.0)
    return context.cluster.running[name], way


def clock_stepped(context: FaultContext) -> None:
    """Step the clock by more than a lease, and back."""
    context.launch(4.0)
    context.begun()
    context.moment(1.0)
    context.cluster.step_clock(context.chance.choice((-30.0, 30.0)))
    context.pause(context.longer(3.0, 6.0))
    context.cancel()
    context.cluster.step_clock(0)


def api_clients_silent(context: FaultContext) -> None:
    """Open more connections than a process may usually have, all of them silent; work continues."""
    with ExitStack() as stack:
        for _ in range(SILENT_CLIENTS):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", context.cluster.port))
        context.launch()
        context.begun()
        context.cancel()
        context.pause(context.longer(1.0, 3.0))


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
