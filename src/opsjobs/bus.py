"""Redis, all of it but Celery's queue: messages that are only hints, sent and heard without ever making anybody wait."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from opsjobs.telemetry import Metrics, log

# What waits to be sent; beyond it the newest is dropped. The receivers poll, so nothing is lost but time.
QUEUED_MESSAGES_AT_MOST = 10_000
QUEUED_BYTES_AT_MOST = 4 << 20
# What one listener has not read yet; beyond it the oldest is dropped.
UNREAD_MESSAGES_AT_MOST = 1_000
# One round trip to Redis carries at most so many messages.
BATCH_MESSAGES_AT_MOST = 256
ANSWER_SECONDS_AT_MOST = 1.0
# A quiet subscription is asked for a sign of life this often; an unanswered question ends it: a hung Redis is noticed.
SILENCE_SECONDS_AT_MOST = 5.0
# How long `listen` waits for Redis to confirm before it goes on without: bells come once Redis is there.
SUBSCRIBE_SECONDS_AT_MOST = 0.25
CLOSE_SECONDS_AT_MOST = 0.5
CANCELS = 4
BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_LAST = 2.0

_AWAY = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError)


class Bus:
    """Publish and listen. With `url` None, or while Redis is away, everything is dropped and nobody is told anything.

    `url` is redis://, rediss:// or unix://. All methods belong to the event loop that called `open`.
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
        self._hearing = _Hearing(url, self._metrics) if url else None

    async def open(self) -> None:
        """Begin to send. A Redis that is down is no error."""
        if self._redis and not self._sender:
            self._sender = asyncio.create_task(self._send_for_ever(), name="bus-sender")

    async def close(self) -> None:
        """Send what waits if Redis answers; done within about a second whatever Redis does."""
        sender, self._sender = self._sender, None
        if sender:
            await self._let_out()
            await _ended(sender)
        if self._hearing:
            await self._hearing.close()
        if self._redis:
            with contextlib.suppress(*_AWAY):
                async with asyncio.timeout(CLOSE_SECONDS_AT_MOST):
                    await self._redis.aclose()

    @property
    def away(self) -> bool:
        """Whether the last attempt to send failed; True without a Redis."""
        return self._redis is None or self._away

    @property
    def configured(self) -> bool:
        """Whether there is a Redis by the settings."""
        return self._redis is not None

    async def ping(self) -> bool:
        """Whether Redis answers now; at most ANSWER_SECONDS_AT_MOST."""
        return await self._answered([("PING",)])

    def publish(self, channel: str, message: bytes) -> None:
        """Send soon, or drop: never waits, never raises."""
        full = len(self._queue) >= QUEUED_MESSAGES_AT_MOST or self._queued_bytes + len(message) > QUEUED_BYTES_AT_MOST
        if full or self._away or self._sender is None:
            self._metrics.bus_dropped.inc()
            return
        self._queue.append((channel, message))
        self._queued_bytes += len(message)
        self._sent.clear()
        self._to_send.set()

    async def publish_sure(self, *messages: tuple[str, bytes]) -> bool:
        """Send these (channel, message) now, in at most ANSWER_SECONDS_AT_MOST; False when Redis did not confirm all of them.

        They may have gone out all the same.
        """
        return await self._answered(("PUBLISH", *message) for message in messages)

    async def audience(self, channels: str) -> bool | None:
        """Whether anybody listens to a channel of this pattern, or to any pattern at all; None when Redis does not say."""
        answers: list[Any] = []
        if not await self._answered([("PUBSUB", "CHANNELS", channels), ("PUBSUB", "NUMPAT")], answers):
            return None
        return bool(answers[0] or answers[1])

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncIterator[Messages]:
        """`async with bus.listen("a", "b.*") as messages: async for channel, message in messages: …`, for ever.

        Reading may be cancelled (a timeout around it) and taken up again. What was sent while Redis was away is not made up for.
        """
        messages = Messages(channels, self._metrics)
        if self._hearing is None:
            yield messages
            return
        await self._hearing.add(messages)
        try:
            yield messages
        finally:
            self._hearing.remove(messages)

    async def _send_for_ever(self) -> None:
        while True:
            await self._to_send.wait()
            if await self._answered(("PUBLISH", *message) for message in self._batch()):
                self._settle_queue()
            else:
                await self._wait_for_redis()

    def _batch(self) -> list[tuple[str, bytes]]:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MESSAGES_AT_MOST))]
        self._queued_bytes -= sum(len(message) for _, message in batch)
        return batch

    def _settle_queue(self) -> None:
        if not self._queue:
            self._to_send.clear()
            self._sent.set()

    async def _wait_for_redis(self) -> None:
        self._away = True
        log.warning("the bus is away: messages are dropped until Redis answers", waiting=len(self._queue))
        self._metrics.bus_dropped.inc(1 + len(self._queue))
        self._queue.clear()
        self._queued_bytes = 0
        self._settle_queue()
        pauses = _pauses()
        while not await self.ping():  # noqa: ASYNC110  Redis sends no event when it is back
            await asyncio.sleep(next(pauses))
        self._away = False
        log.info("the bus is back")

    async def _answered(self, commands: Iterable[tuple[str | bytes, ...]], answers: list[Any] | None = None) -> bool:
        if self._redis is None:
            return False
        try:
            async with asyncio.timeout(ANSWER_SECONDS_AT_MOST):
                pipeline = self._redis.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                received = await pipeline.execute()
        except _AWAY:
            return False
        if answers is not None:
            answers.extend(received)
        return True

    async def _let_out(self) -> None:
        if self._queue and not self._away:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS_AT_MOST):
                    await self._sent.wait()


class Messages:
    """What a listener has not read yet."""

    def __init__(self, channels: Iterable[str], metrics: Metrics) -> None:
        self.channels = frozenset(channels)
        self.confirmed = asyncio.Event()
        self._metrics = metrics
        self._unread: deque[tuple[str, bytes]] = deque()
        self._arrived = asyncio.Event()

    def put(self, channel: str, message: bytes) -> None:
        """Add one, dropping the oldest where the listener does not keep up."""
        if len(self._unread) >= UNREAD_MESSAGES_AT_MOST:
            self._unread.popleft()
            self._metrics.bus_dropped.inc()
        self._unread.append((channel, message))
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        while not self._unread:
            self._arrived.clear()
            await self._arrived.wait()
        return self._unread.popleft()


class _Hearing:
    """One connection that subscribes for all listeners of the process, and comes back by itself."""

    def __init__(self, url: str, metrics: Metrics) -> None:
        self._pool = _pool(url)
        self._metrics = metrics
        self._listeners: set[Messages] = set()
        self._changed = asyncio.Event()
        self._asked = 0
        self._to_confirm: dict[bytes, tuple[Messages, ...]] = {}
        self._task: asyncio.Task[None] | None = None

    async def add(self, messages: Messages) -> None:
        self._listeners.add(messages)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._hear_for_ever(), name="bus-hearing")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SUBSCRIBE_SECONDS_AT_MOST):
                await messages.confirmed.wait()

    def remove(self, messages: Messages) -> None:
        self._listeners.discard(messages)
        self._changed.set()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task:
            await _ended(task)

    async def _hear_for_ever(self) -> None:
        pauses = _pauses()
        while True:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # the library types most of itself
            try:
                await connection.connect()  # type: ignore[no-untyped-call]  # the library types most of itself
                pauses = _pauses()
                await self._hear(connection)
            except _AWAY as away:
                log.info("the bus does not hear: trying again", error=repr(away))
            except Exception:  # noqa: BLE001  the hearing comes back from anything
                self._metrics.bugs.labels(where="bus").inc()
                log.exception("the bus stumbled while listening")
            finally:
                with contextlib.suppress(*_AWAY):
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(next(pauses))

    async def _hear(self, connection: AbstractConnection) -> None:
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
            await _ended(reader)

    async def _subscribe(self, connection: AbstractConnection, subscribed: set[str]) -> set[str]:
        wanted = {name for listener in self._listeners for name in listener.channels}
        for verb, names in (("SUBSCRIBE", wanted - subscribed), ("UNSUBSCRIBE", subscribed - wanted)):
            plain = [name for name in names if not name.endswith("*")]
            patterns = [name for name in names if name.endswith("*")]
            for command, arguments in ((verb, plain), (f"P{verb}", patterns)):
                if arguments:
                    await connection.send_command(command, *arguments, check_health=False)
        # Redis answers in order: the answer to this says that everything before it is in force.
        self._asked += 1
        self._to_confirm[b"%d" % self._asked] = tuple(self._listeners)
        await connection.send_command("PING", b"%d" % self._asked, check_health=False)
        return wanted

    async def _read(self, connection: AbstractConnection) -> None:
        asked = False
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS_AT_MOST):
                    answer = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except TimeoutError:
                if asked:
                    raise
                asked = True
                await connection.send_command("PING", check_health=False)
                continue
            asked = False
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
        socket_timeout=ANSWER_SECONDS_AT_MOST,
        socket_connect_timeout=ANSWER_SECONDS_AT_MOST,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        client_name="opsjobs-bus",
        driver_info=None,
    )


def _pauses() -> Iterator[float]:
    """Seconds to wait before the next try: twice as long each time, with jitter so that a fleet does not come back in step."""
    pause = BACKOFF_SECONDS_FIRST
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311  jitter, not a secret
        pause = min(pause * 2, BACKOFF_SECONDS_LAST)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end. The client library loses a cancel that comes with an answer, so it is repeated."""
    for _ in range(CANCELS):
        task.cancel()
        await asyncio.wait((task,), timeout=CLOSE_SECONDS_AT_MOST / CANCELS)
        if task.done():
            return
