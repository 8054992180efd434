"""The notifier returns at once, whatever Redis does."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from opsjobs.standalone.valkey import Valkey
from opsjobs.telemetry.metrics import Metrics
from opsjobs.wakeup import Notifier
from opsjobs.wakeup.celery_app import WakeupApp, broker_url
from wakeup.server_processes import freeze, own_redis, until


@pytest.fixture
def server() -> Iterator[Valkey]:
    """A Redis that the test may break."""
    with own_redis() as made:
        yield made


def wakeup_count(metrics: Metrics, result: str) -> float:
    """Return the number of wake-ups with this result."""
    return metrics.registry.get_sample_value("opsjobs_wakeups_total", {"result": result}) or 0.0


def seconds_of(action: object) -> float:
    """Return how long it took."""
    assert callable(action)
    began = time.monotonic()
    action()
    return time.monotonic() - began


def notify_many_zones(notifier: Notifier) -> None:
    """Many zones, so that no wake-up is merged."""
    for number in range(900):
        notifier.notify(f"zone-{number}")


def test_doubled_bells_are_merged_into_one(redis_url: str) -> None:
    metrics = Metrics()
    notifier = Notifier(redis_url, metrics)
    for _ in range(100):
        notifier.notify("default")
    notifier.notify("dmz")
    notifier.start()
    notifier.stop()
    with redis.Redis.from_url(redis_url) as client:
        assert (client.llen("opsjobs.wakeup.default"), client.llen("opsjobs.wakeup.dmz")) == (1, 1)
    assert (wakeup_count(metrics, "sent"), wakeup_count(metrics, "merged")) == (2, 99)


def test_a_zone_that_was_just_notified_waits_a_moment_and_no_other_one_does(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.wakeup.notifier.SPACING_SECONDS", 3_600)
    metrics = Metrics()
    notifier = Notifier(redis_url, metrics)
    notifier.start()
    with redis.Redis.from_url(redis_url) as client:
        notifier.notify("default")
        until(lambda: wakeup_count(metrics, "sent") == 1)
        assert client.delete("opsjobs.wakeup.default") == 1  # as a worker receives it
        notifier.notify("default")
        notifier.notify("default")
        notifier.notify("dmz")
        until(lambda: wakeup_count(metrics, "sent") == 2)
        assert (client.llen("opsjobs.wakeup.default"), client.llen("opsjobs.wakeup.dmz")) == (0, 1)
        notifier.stop()
        assert client.llen("opsjobs.wakeup.default") == 1
    assert (wakeup_count(metrics, "sent"), wakeup_count(metrics, "merged")) == (3, 1)


def test_a_bell_that_waited_its_moment_goes_out_by_itself(redis_url: str) -> None:
    metrics = Metrics()
    notifier = Notifier(redis_url, metrics)
    notifier.start()
    with redis.Redis.from_url(redis_url) as client:
        for number in range(1, 4):
            notifier.notify("default")
            until(lambda number=number: wakeup_count(metrics, "sent") == number)  # type: ignore[misc]
            client.delete("opsjobs.wakeup.default")
    notifier.stop()


def test_pending_zones_are_notified_before_the_stop(redis_url: str) -> None:
    notifier = Notifier(redis_url)
    notifier.start()
    notifier.notify("default")
    assert seconds_of(notifier.stop) < 30
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("opsjobs.wakeup.default") == 1


def test_ringing_is_instant_and_the_stop_in_time_while_redis_is_frozen(server: Valkey) -> None:
    metrics = Metrics()
    notifier = Notifier(server.url, metrics)
    notifier.start()
    notifier.notify("default")
    until(lambda: wakeup_count(metrics, "sent") == 1)
    freeze(server)
    assert seconds_of(lambda: notify_many_zones(notifier)) < 30
    assert seconds_of(notifier.stop) < 30


def test_ringing_is_instant_and_the_stop_in_time_while_redis_is_down(server: Valkey) -> None:
    server.stop()
    metrics = Metrics()
    notifier = Notifier(server.url, metrics)
    notifier.start()
    notifier.notify("default")
    until(lambda: wakeup_count(metrics, "dropped") >= 1)
    assert seconds_of(lambda: notify_many_zones(notifier)) < 30
    assert seconds_of(notifier.stop) < 30


def test_a_flood_of_made_up_zones_is_bounded(server: Valkey) -> None:
    freeze(server)
    metrics = Metrics()
    notifier = Notifier(server.url, metrics)
    notifier.start()
    for number in range(5_000):
        notifier.notify(f"zone-{number}")
    assert wakeup_count(metrics, "dropped") >= 3_990
    notifier.stop()


def test_without_a_redis_bells_are_dropped() -> None:
    metrics = Metrics()
    notifier = Notifier(None, metrics)
    notifier.start()
    notifier.notify("default")
    notifier.stop()
    assert wakeup_count(metrics, "dropped") == 1


def test_many_threads_may_ring(redis_url: str) -> None:
    metrics = Metrics()
    notifier = Notifier(redis_url, metrics)
    notifier.start()

    def ring_same() -> None:
        for _ in range(200):
            notifier.notify("default")

    threads = [threading.Thread(target=ring_same) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notifier.stop()
    assert wakeup_count(metrics, "sent") == 1
    assert wakeup_count(metrics, "sent") + wakeup_count(metrics, "merged") == 1_600


@pytest.mark.parametrize(
    ("ours", "celerys"),
    [
        ("redis://cache:6379/2", "redis://cache:6379/2"),
        ("rediss://ada:word@cache:6380/0", "rediss://ada:word@cache:6380/0?ssl_cert_reqs=required"),
        (
            "rediss://cache:6380/0?ssl_ca_certs=/ca.pem",
            "rediss://cache:6380/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required",
        ),
        ("rediss://cache/0?ssl_cert_reqs=none", "rediss://cache/0?ssl_cert_reqs=none"),
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
        ("unix:///run/valkey.sock?db=3", "redis+socket:///run/valkey.sock?virtual_host=3"),
        (
            "unix://ada:word@/run/valkey.sock",
            "redis+socket://ada:word@/run/valkey.sock?virtual_host=0",
        ),
    ],
)
def test_a_redis_url_is_put_in_celerys_words(ours: str, celerys: str) -> None:
    assert broker_url(ours) == celerys


def test_tls_verifies_the_server_and_a_password_is_not_shown() -> None:
    connection = WakeupApp("rediss://ada:hunter2@cache:6380/0").connection_for_read()
    assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    for url in (
        "rediss://ada:hunter2@cache/0",
        "unix://ada:hunter2@/run/valkey.sock",
        "redis://:hunter2@cache",
    ):
        assert "hunter2" not in WakeupApp(url).connection_for_read().as_uri()


def test_a_url_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown scheme amqp://"):
        broker_url("amqp://cache")


def test_a_password_and_a_database_number_work_over_a_unix_socket(server: Valkey) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "pass word")
    url = server.url.replace("unix://", "unix://:pass%20word@") + "?db=3"
    notifier = Notifier(url)
    notifier.start()
    notifier.notify("default")
    notifier.stop()
    with redis.Redis.from_url(url) as client:
        assert client.llen("opsjobs.wakeup.default") == 1


def test_the_environment_cannot_send_bells_elsewhere(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "CELERY_BROKER_URL",
        "CELERY_BROKER_READ_URL",
        "CELERY_BROKER_WRITE_URL",
        "CELERY_RESULT_BACKEND",
    ):
        monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
    notifier = Notifier(redis_url)
    notifier.start()
    notifier.notify("default")
    notifier.stop()
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("opsjobs.wakeup.default") == 1
