"""Redis pub/sub: messages are only hints, so sending and receiving never block the caller."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from opsjobs.backoff import Backoff
from opsjobs.task_cancellation import ended
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

# The queue of outgoing messages; beyond it the newest is dropped. Receivers also poll, so this only
# costs time.
QUEUED_MESSAGES_MAX = 10_000
QUEUED_BYTES_MAX = 4 << 20
# Unread messages of one listener; beyond it the oldest is dropped.
UNREAD_MESSAGES_MAX = 1_000
# Messages in one round trip to Redis.
BATCH_MESSAGES_MAX = 256
ANSWER_SECONDS_MAX = 1.0
# A silent subscription is pinged this often. An unanswered ping closes it, to detect a hung Redis.
SILENCE_SECONDS_MAX = 5.0
# How long `listen` waits for Redis to confirm the subscription; after that it continues without.
SUBSCRIBE_SECONDS_MAX = 0.25
CLOSE_SECONDS_MAX = 0.5
CANCELS = 4
BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_LAST = 2.0

_AWAY = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError)


class Bus:
    """Publish and listen. Messages are dropped without a `url` and while Redis is unavailable.

    `url` is redis://, rediss:// or unix://. Call all methods on the event loop that called `open`.
    """

    def __init__(self, url: str | None, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._redis = Redis.from_pool(_pool(url)) if url else None
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queued_bytes = 0
        self._to_send = asyncio.Event()
        self._sent = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._away = False
        self._subscriber = _Subscriber(url, self._metrics) if url else None

    async def open(self) -> None:
        """Start the sender. Redis being down is not an error."""
        if self._redis and not self._sender:
            self._sender = asyncio.create_task(self._send_forever(), name="bus-sender")

    async def close(self) -> None:
        """Send queued messages if Redis responds; returns within about a second in any case."""
        sender, self._sender = self._sender, None
        if sender:
            await self._drain()
            await _cancel(sender)
        if self._subscriber:
            await self._subscriber.close()
        if self._redis:
            with contextlib.suppress(*_AWAY):
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    await self._redis.aclose()

    @property
    def is_away(self) -> bool:
        """True if the last attempt to send failed, or if there is no Redis."""
        return self._redis is None or self._away

    @property
    def is_configured(self) -> bool:
        """True if the settings name a Redis."""
        return self._redis is not None

    async def ping(self) -> bool:
        """Return True if Redis responds within ANSWER_SECONDS_MAX."""
        return await self._execute([("PING",)])

    async def server_version(self) -> str | None:
        """Return the version of the server, such as 7.2.4; None if it does not answer."""
        answers: list[Any] = []
        if not await self._execute([("INFO", "server")], answers):
            return None
        info = answers[0]
        # The client parses INFO unless the command is sent as it is.
        text = info.decode() if isinstance(info, bytes) else str(info)
        found = re.search(r"(?:redis|valkey)_version['\": ]+([0-9.]+)", text)
        return found[1] if found is not None else None

    def publish(self, channel: str, message: bytes) -> None:
        """Queue the message or drop it; never waits, never raises."""
        full = (
            len(self._queue) >= QUEUED_MESSAGES_MAX
            or self._queued_bytes + len(message) > QUEUED_BYTES_MAX
        )
        if full or self._away or self._sender is None:
            self._metrics.pubsub_dropped.inc()
            return
        self._queue.append((channel, message))
        self._queued_bytes += len(message)
        self._sent.clear()
        self._to_send.set()

    async def publish_confirmed(self, *messages: tuple[str, bytes]) -> bool:
        """Send these (channel, message) pairs now, within ANSWER_SECONDS_MAX.

        Return False if Redis did not confirm all of them; they may have been sent nevertheless.
        """
        return await self._execute(("PUBLISH", *message) for message in messages)

    async def has_listeners(self, channels: str) -> bool | None:
        """Return True if a channel of this pattern, or any pattern, has a listener.

        None if Redis does not respond.
        """
        answers: list[Any] = []
        if not await self._execute(
            [("PUBSUB", "CHANNELS", channels), ("PUBSUB", "NUMPAT")], answers
        ):
            return None
        return bool(answers[0] or answers[1])

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncIterator[Messages]:
        """Subscribe to channels and patterns; the result iterates over (channel, message).

        Reading may be cancelled, for example by a timeout, and resumed. Messages sent while Redis
        was unavailable are lost.
        """
        messages = Messages(channels, self._metrics)
        if self._subscriber is None:
            yield messages
            return
        await self._subscriber.add(messages)
        try:
            yield messages
        finally:
            self._subscriber.remove(messages)

    async def _send_forever(self) -> None:
        while True:
            await self._to_send.wait()
            if await self._execute(("PUBLISH", *message) for message in self._batch()):
                self._settle_queue()
            else:
                await self._wait_for_redis()

    def _batch(self) -> list[tuple[str, bytes]]:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MESSAGES_MAX))]
        self._queued_bytes -= sum(len(message) for _, message in batch)
        return batch

    def _settle_queue(self) -> None:
        if not self._queue:
            self._to_send.clear()
            self._sent.set()

    async def _wait_for_redis(self) -> None:
        self._away = True
        log.warning(
            "bus_unavailable",
            hint="messages are dropped until Redis answers",
            queued=len(self._queue),
        )
        self._metrics.pubsub_dropped.inc(1 + len(self._queue))
        self._queue.clear()
        self._queued_bytes = 0
        self._settle_queue()
        backoff = Backoff(BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_LAST)
        while not await self.ping():  # noqa: ASYNC110  Redis sends no event when it is back
            await asyncio.sleep(backoff.next())
        self._away = False
        log.info("bus_recovered")

    async def _execute(
        self, commands: Iterable[tuple[str | bytes, ...]], answers: list[Any] | None = None
    ) -> bool:
        if self._redis is None:
            return False
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                pipeline = self._redis.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                received = await pipeline.execute()
        except _AWAY:
            return False
        if answers is not None:
            answers.extend(received)
        return True

    async def _drain(self) -> None:
        if self._queue and not self._away:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    await self._sent.wait()


class Messages:
    """The unread messages of one listener."""

    def __init__(self, channels: Iterable[str], metrics: Metrics) -> None:
        self.channels = frozenset(channels)
        self.confirmed = asyncio.Event()
        self._metrics = metrics
        self._unread: deque[tuple[str, bytes]] = deque()
        self._arrived = asyncio.Event()

    def put(self, channel: str, message: bytes) -> None:
        """Add a message; drop the oldest if the listener does not keep up."""
        if len(self._unread) >= UNREAD_MESSAGES_MAX:
            self._unread.popleft()
            self._metrics.pubsub_dropped.inc()
        self._unread.append((channel, message))
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        while not self._unread:
            self._arrived.clear()
            await self._arrived.wait()
        return self._unread.popleft()


class _Subscriber:
    """The one connection that subscribes for all listeners; it reconnects by itself."""

    def __init__(self, url: str, metrics: Metrics) -> None:
        self._pool = _pool(url)
        self._metrics = metrics
        self._listeners: set[Messages] = set()
        self._changed = asyncio.Event()
        self._pings = 0
        self._to_confirm: dict[bytes, tuple[Messages, ...]] = {}
        self._task: asyncio.Task[None] | None = None

    async def add(self, messages: Messages) -> None:
        self._listeners.add(messages)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._receive_forever(), name="bus-subscriber")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SUBSCRIBE_SECONDS_MAX):
                await messages.confirmed.wait()

    def remove(self, messages: Messages) -> None:
        self._listeners.discard(messages)
        self._changed.set()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task:
            await _cancel(task)

    async def _receive_forever(self) -> None:
        backoff = Backoff(BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_LAST)
        while True:
            made = self._pool.make_connection()  # type: ignore[no-untyped-call]  # half typed
            connection: AbstractConnection = made
            try:
                await connection.connect()  # type: ignore[no-untyped-call]  # half typed
                backoff.reset()
                await self._receive(connection)
            except _AWAY as away:
                log.info("bus_subscription_lost", error=repr(away))
            except Exception:  # noqa: BLE001  the subscriber recovers from any error
                self._metrics.bugs.labels(where="bus").inc()
                log.exception("bus_subscription_failed")
            finally:
                with contextlib.suppress(*_AWAY):
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(backoff.next())

    async def _receive(self, connection: AbstractConnection) -> None:
        subscribed: set[str] = set()
        self._to_confirm.clear()
        reader = asyncio.create_task(self._read(connection), name="bus-reader")
        try:
            while not reader.done():
                self._changed.clear()
                subscribed = await self._subscribe(connection, subscribed)
                change = asyncio.create_task(self._changed.wait())
                await asyncio.wait((reader, change), return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
            reader.result()
        finally:
            await _cancel(reader)

    async def _subscribe(self, connection: AbstractConnection, subscribed: set[str]) -> set[str]:
        wanted = {name for listener in self._listeners for name in listener.channels}
        for verb, names in (
            ("SUBSCRIBE", wanted - subscribed),
            ("UNSUBSCRIBE", subscribed - wanted),
        ):
            plain = [name for name in names if not name.endswith("*")]
            patterns = [name for name in names if name.endswith("*")]
            for command, arguments in ((verb, plain), (f"P{verb}", patterns)):
                if arguments:
                    await connection.send_command(command, *arguments, check_health=False)
        # Redis responds in order: the response to this ping confirms everything sent before it.
        self._pings += 1
        self._to_confirm[b"%d" % self._pings] = tuple(self._listeners)
        await connection.send_command("PING", b"%d" % self._pings, check_health=False)
        return wanted

    async def _read(self, connection: AbstractConnection) -> None:
        pinged = False
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS_MAX):
                    answer = await connection.read_response(
                        timeout=math.inf, disconnect_on_error=False
                    )
            except TimeoutError:
                if pinged:
                    raise
                pinged = True
                await connection.send_command("PING", check_health=False)
                continue
            pinged = False
            self._deliver(answer)

    def _deliver(self, answer: Any) -> None:
        match answer:
            case [b"message", channel, message] | [b"pmessage", _, channel, message]:
                name = channel.decode()
                pattern = answer[1].decode()
                for listener in self._listeners:
                    if pattern in listener.channels:
                        listener.put(name, message)
            case [b"pong", mark]:
                for listener in self._to_confirm.pop(mark, ()):
                    listener.confirmed.set()
            case _:
                return


def _pool(url: str) -> ConnectionPool:
    return ConnectionPool.from_url(
        url,
        max_connections=16,
        socket_timeout=ANSWER_SECONDS_MAX,
        socket_connect_timeout=ANSWER_SECONDS_MAX,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        client_name="opsjobs-bus",
        driver_info=None,
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end, for CLOSE_SECONDS_MAX at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await ended(task, again_seconds=CLOSE_SECONDS_MAX / CANCELS)
