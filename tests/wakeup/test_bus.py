"""The bus: publishing never waits, and listening recovers by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from opsjobs import bus as bus_module
from opsjobs.bus import Bus, Messages
from opsjobs.standalone.valkey import Valkey
from opsjobs.telemetry.metrics import Metrics
from wakeup.server_processes import freeze, give_redis_time, own_redis, thaw


@pytest.fixture
def server() -> Iterator[Valkey]:
    """A Redis that the test may break."""
    with own_redis() as made:
        yield made


@pytest.fixture
def redis_url(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Redis that is well, and gets time to answer."""
    give_redis_time(monkeypatch)
    return redis_url


@asynccontextmanager
async def opened(url: str | None, metrics: Metrics | None = None) -> AsyncIterator[Bus]:
    """Yield an open bus; close it in time."""
    bus = Bus(url, metrics)
    await bus.open()
    try:
        yield bus
    finally:
        began = time.monotonic()
        await bus.close()
        assert time.monotonic() - began < 30


async def heard(messages: Messages, seconds: float = 60.0) -> tuple[str, bytes]:
    """Return the next message."""
    return await asyncio.wait_for(anext(messages), seconds)


async def first_message_after_outage(
    bus: Bus, messages: Messages, channel: str
) -> tuple[str, bytes]:
    """Return the first message that arrives once Redis is back."""
    async with asyncio.timeout(60):
        while True:
            bus.publish(channel, b"again")
            try:
                return await heard(messages, 0.05)
            except TimeoutError:
                continue


async def test_what_is_published_is_heard_in_order(redis_url: str) -> None:
    async with opened(redis_url) as bus, bus.listen("opsjobs.log.7") as messages:
        for number in range(1_000):
            bus.publish("opsjobs.log.7", b"%d" % number)
        assert [await heard(messages) for _ in range(1_000)] == [
            ("opsjobs.log.7", b"%d" % n) for n in range(1_000)
        ]


async def test_a_pattern_hears_all_channels_that_fit(redis_url: str) -> None:
    async with opened(redis_url) as bus, bus.listen("opsjobs.log.*", "opsjobs.control") as messages:
        bus.publish("elsewhere", b"0")
        bus.publish("opsjobs.log.8", b"1")
        bus.publish("opsjobs.control", b"2")
        assert await heard(messages) == ("opsjobs.log.8", b"1")
        assert await heard(messages) == ("opsjobs.control", b"2")


async def test_listeners_share_one_connection_and_hear_only_theirs(redis_url: str) -> None:
    async with opened(redis_url) as bus, bus.listen("a") as first, bus.listen("b", "a") as second:
        async with bus.listen("b"):
            pass
        bus.publish("b", b"1")
        bus.publish("a", b"2")
        assert await heard(first) == ("a", b"2")
        assert [await heard(second), await heard(second)] == [("b", b"1"), ("a", b"2")]


async def test_reading_may_be_cancelled_and_taken_up_again(redis_url: str) -> None:
    async with opened(redis_url) as bus, bus.listen("a") as messages:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await heard(messages, 0.02)
        bus.publish("a", b"1")
        assert await heard(messages) == ("a", b"1")


async def test_a_message_is_heard_within_milliseconds(redis_url: str) -> None:
    async with opened(redis_url) as bus, bus.listen("a") as messages:
        began = time.monotonic()
        for _ in range(100):
            bus.publish("a", b"1")
            await heard(messages)
        assert (time.monotonic() - began) / 100 < 0.5


async def test_publish_confirmed_says_whether_redis_took_it(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_redis_time(monkeypatch)
    async with opened(server.url) as bus, bus.listen("a") as messages:
        assert await bus.publish_confirmed(("a", b"1"))
        assert await heard(messages) == ("a", b"1")
        assert await bus.ping()
        monkeypatch.undo()
        freeze(server)
        began = time.monotonic()
        assert not await bus.publish_confirmed(("a", b"2"))
        assert not await bus.ping()
        assert time.monotonic() - began < 30


async def test_without_a_redis_everything_is_dropped() -> None:
    metrics = Metrics()
    async with opened(None, metrics) as bus, bus.listen("a") as messages:
        bus.publish("a", b"1")
        assert not await bus.publish_confirmed(("a", b"1"))
        assert not await bus.ping()
        with pytest.raises(TimeoutError):
            await heard(messages, 0.05)
        assert bus.is_away
    assert metrics.registry.get_sample_value("opsjobs_pubsub_dropped_total") == 1


async def test_a_frozen_redis_makes_no_publisher_wait_and_no_memory_grow(server: Valkey) -> None:
    metrics = Metrics()
    async with opened(server.url, metrics) as bus:
        assert await bus.ping()
        freeze(server)
        began = time.monotonic()
        for number in range(20_000):
            bus.publish("a", b"x" * 1_000)
            if number % 1_000 == 0:
                await asyncio.sleep(0)
        assert time.monotonic() - began < 30
        assert (metrics.registry.get_sample_value("opsjobs_pubsub_dropped_total") or 0) > 10_000
        assert bus._queued_bytes <= bus_module.QUEUED_BYTES_MAX


async def test_the_bus_comes_back_when_a_frozen_redis_goes_on(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_redis_time(monkeypatch)
    async with opened(server.url) as bus, bus.listen("a") as messages:
        bus.publish("a", b"1")
        assert await heard(messages) == ("a", b"1")
        monkeypatch.undo()
        monkeypatch.setattr(bus_module, "SILENCE_SECONDS_MAX", 0.5)
        bus.publish("a", b"1")  # what is read next is read with this limit
        assert await heard(messages) == ("a", b"1")
        freeze(server)
        async with asyncio.timeout(60):
            while not bus.is_away:
                bus.publish("a", b"2")
                await asyncio.sleep(0.01)
        thaw(server)
        assert (await first_message_after_outage(bus, messages, "a"))[0] == "a"
        async with asyncio.timeout(
            60
        ):  # a received message may have been sent before, with its response still on its way
            while bus.is_away:
                bus.publish("a", b"3")
                await asyncio.sleep(0.01)


async def test_the_bus_comes_back_when_redis_is_restarted(server: Valkey) -> None:
    async with opened(server.url) as bus, bus.listen("a", "b*") as messages:
        server.stop()
        bus.publish("a", b"lost")
        await asyncio.to_thread(server.start)
        await first_message_after_outage(bus, messages, "a")
        assert (await first_message_after_outage(bus, messages, "bc"))[0] in ("a", "bc")


async def test_a_bus_opened_before_its_redis_finds_it_later(server: Valkey) -> None:
    server.stop()
    async with opened(server.url) as bus:
        began = time.monotonic()
        async with bus.listen("a") as messages:
            assert time.monotonic() - began < 15
            await asyncio.to_thread(server.start)
            assert await first_message_after_outage(bus, messages, "a") == ("a", b"again")


async def test_a_listener_that_does_not_read_loses_the_oldest_only(redis_url: str) -> None:
    metrics = Metrics()
    async with opened(redis_url, metrics) as bus, bus.listen("a") as lazy, bus.listen("a") as keen:
        for number in range(bus_module.UNREAD_MESSAGES_MAX + 10):
            bus.publish("a", b"%d" % number)
            await heard(keen)
        assert await heard(lazy) == ("a", b"10")
    assert metrics.registry.get_sample_value("opsjobs_pubsub_dropped_total") == 10


async def test_what_waits_is_sent_before_the_close(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "CLOSE_SECONDS_MAX", 30.0)
    async with opened(redis_url) as listening, listening.listen("a") as messages:
        async with opened(redis_url) as bus:
            for number in range(300):
                bus.publish("a", b"%d" % number)
        assert [await heard(messages) for _ in range(300)] == [
            ("a", b"%d" % number) for number in range(300)
        ]


async def test_a_task_whose_first_cancel_was_lost_is_cancelled_again() -> None:
    heard = 0

    async def deaf() -> None:
        nonlocal heard
        while heard < 2:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                heard += 1

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await bus_module._cancel(task)
    assert task.done()
