"""The worker's process: Celery with a hosted engine.

Redis is healthy, stopped, frozen, restarted or empty.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest
import redis

from opsjobs.standalone.valkey import Valkey
from opsjobs.telemetry.metrics import Metrics
from opsjobs.wakeup import Notifier
from wakeup.server_processes import Hosted, freeze, own_redis, thaw, until

CONNECTED = "Connected to redis"
# Alone on a machine it takes 0.2 to 1.3 s; a crowded one gets some room. A stop that waits for
# Redis takes forever.
STOP_SECONDS = 30.0


@pytest.fixture
def server() -> Iterator[Valkey]:
    """A Redis that the test may break."""
    with own_redis() as made:
        yield made


@pytest.fixture
def metrics() -> Metrics:
    """Return the notifier's metrics."""
    return Metrics()


@pytest.fixture
def notifier(server: Valkey, metrics: Metrics) -> Iterator[Notifier]:
    """Return a started notifier on `server`."""
    made = Notifier(server.url, metrics)
    made.start()
    yield made
    made.stop()


def wakeup_count(metrics: Metrics, result: str) -> float:
    """Return the number of wake-ups with this result."""
    return metrics.registry.get_sample_value("opsjobs_wakeups_total", {"result": result}) or 0.0


def test_each_ring_reaches_the_engine(server: Valkey, notifier: Notifier) -> None:
    with Hosted("worker", server.url) as worker:
        worker.wait_for(CONNECTED)
        for _ in range(5):  # one by one: nothing else would wake it
            notifier.notify("default")
            worker.wait_for("WAKE")
        assert worker.end()[0] == 0


def test_bells_of_another_zone_are_not_heard(server: Valkey, notifier: Notifier) -> None:
    with Hosted("worker", server.url) as worker:
        worker.wait_for(CONNECTED)
        notifier.notify("elsewhere")
        notifier.notify("default")
        worker.wait_for("WAKE")
        assert worker.end()[0] == 0
        assert sum("WAKE" in line for line in worker.rest()) == 1


def test_the_engine_is_drained_on_sigterm_and_on_sigint(server: Valkey) -> None:
    for how in (signal.SIGTERM, signal.SIGINT):
        with Hosted("worker", server.url) as worker:
            worker.wait_for(CONNECTED)
            code, seconds = worker.end(how)
            assert (code, seconds < STOP_SECONDS) == (0, True), seconds
            assert worker.rest()[-1] == "STOPPED"


def test_a_worker_starts_and_stops_without_redis(server: Valkey) -> None:
    server.stop()
    with Hosted("worker", server.url) as worker:
        worker.wait_for("STARTED")
        worker.wait_for("Cannot connect")
        assert worker.lines_within("Cannot connect", 2.0) == []
        code, seconds = worker.end()
        assert (code, seconds < STOP_SECONDS) == (0, True), seconds
        assert "STOPPED" in worker.rest()


def test_a_worker_runs_where_no_redis_is_configured() -> None:
    with Hosted("worker", "none") as worker:
        worker.wait_for("STARTED")
        code, seconds = worker.end()
        assert (code, seconds < STOP_SECONDS) == (0, True), seconds
        assert "STOPPED" in worker.rest()


def test_a_frozen_redis_holds_neither_the_start_nor_the_stop(server: Valkey) -> None:
    freeze(server)
    with Hosted("worker", server.url) as worker:
        worker.wait_for("STARTED")
        code, seconds = worker.end()
        assert (code, seconds < STOP_SECONDS) == (0, True), seconds
        assert "STOPPED" in worker.rest()


def test_a_redis_frozen_later_does_not_hold_the_stop(server: Valkey) -> None:
    with Hosted("worker", server.url) as worker:
        worker.wait_for(CONNECTED)
        freeze(server)
        code, seconds = worker.end()
        assert (code, seconds < STOP_SECONDS) == (0, True), seconds
        assert "STOPPED" in worker.rest()


def test_bells_come_back_when_redis_does(
    server: Valkey, notifier: Notifier, metrics: Metrics
) -> None:
    with Hosted("worker", server.url) as worker:
        worker.wait_for(CONNECTED)
        server.stop()
        notifier.notify("default")
        until(lambda: wakeup_count(metrics, "dropped") >= 1)
        server.start()
        worker.wait_for(CONNECTED)
        until(lambda: _rings(notifier, metrics))
        worker.wait_for("WAKE")
        assert worker.end()[0] == 0


def _rings(notifier: Notifier, metrics: Metrics) -> bool:
    notifier.notify("default")
    return wakeup_count(metrics, "sent") >= 1


def test_bells_come_back_when_a_frozen_redis_goes_on(
    server: Valkey, notifier: Notifier, metrics: Metrics
) -> None:
    with Hosted("worker", server.url) as worker:
        worker.wait_for(CONNECTED)
        freeze(server)
        notifier.notify("default")
        until(lambda: wakeup_count(metrics, "dropped") >= 1)
        thaw(server)
        until(lambda: _rings(notifier, metrics))
        worker.wait_for("WAKE")
        assert worker.end()[0] == 0


def test_a_flushed_redis_loses_no_later_bell(server: Valkey, notifier: Notifier) -> None:
    with Hosted("worker", server.url) as worker, redis.Redis.from_url(server.url) as client:
        worker.wait_for(CONNECTED)
        notifier.notify("default")
        worker.wait_for("WAKE")
        client.flushall()
        notifier.notify("default")
        worker.wait_for("WAKE")
        assert worker.end()[0] == 0


def test_bells_that_nobody_hears_do_not_pile_up(
    server: Valkey, notifier: Notifier, metrics: Metrics
) -> None:
    with redis.Redis.from_url(server.url) as client:
        for count in range(1, 21):
            notifier.notify("default")
            until(
                lambda count=count: (
                    wakeup_count(metrics, "sent") + wakeup_count(metrics, "merged") == count
                )
            )
        assert client.llen("opsjobs.wakeup.default") == 1
        assert 0 < client.ttl("opsjobs.wakeup.default") <= 60
    with Hosted("worker", server.url) as worker:
        worker.wait_for("WAKE")
        assert worker.lines_within("WAKE", 0.5) == []


def test_an_engine_that_cannot_start_ends_the_process_with_1(server: Valkey) -> None:
    for url in (server.url, "none"):
        with Hosted("worker", url, "broken") as worker:
            assert worker.process.wait(60) == 1
            assert any("no database" in line for line in worker.rest())


def test_a_start_that_hangs_is_cut_by_sigterm(server: Valkey) -> None:
    for url in (server.url, "none"):
        with Hosted("worker", url, "hung-start") as worker:
            worker.wait_for("STARTING")
            code, seconds = worker.end()
            assert (code, seconds < STOP_SECONDS) == (0, True), seconds


def test_a_second_ctrl_c_ends_at_once(server: Valkey) -> None:
    with Hosted("worker", server.url, "slow-stop") as worker:
        worker.wait_for(CONNECTED)
        worker.process.send_signal(signal.SIGINT)
        worker.wait_for("STOPPING")
        code, seconds = worker.end(signal.SIGINT)
        assert (code, seconds < STOP_SECONDS) == (130, True), seconds


def test_celery_writes_nothing_but_our_log_lines(server: Valkey) -> None:
    with Hosted("worker", server.url) as worker:
        worker.wait_for(CONNECTED)
        worker.end()
        spoken = {"STARTING", "STARTED", "STOPPING", "STOPPED"}
        for line in worker.rest():
            assert line in spoken or {"timestamp", "level", "event"} <= json.loads(line).keys()
