"""Server-Sent Events: a response that lasts until its viewer leaves or is refused."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from opsjobs.api.connections import DROP
from opsjobs.api.follower import Followers
from opsjobs.api.problems import Problem
from opsjobs.api.rate_limits import Streams
from opsjobs.api.request import principal_of
from opsjobs.api.services import services_of
from opsjobs.model.errors import Refusal, TooMany, Unavailable
from opsjobs.task_cancellation import ended
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

STALL_SECONDS = 15.0
"""Time after which a viewer that reads nothing while its buffer is full is dropped."""


class ViewerStalledError(Exception):
    """The viewer does not read; it is dropped to bound the number of its unsent bytes."""


def check_room(followers: Followers) -> None:
    """Raise TooMany if this process has too many viewers."""
    if followers.streams >= followers.pace.viewers:
        raise TooMany(
            "too_many_viewers",
            "This process has too many event streams open. Try again later.",
            retry_after_seconds=5,
        )


class ServerSentEvents(Response):
    """Long-lived response with frames.

    It ends when the frames, the viewer's connection, the viewer's permission, or the process ends.
    """

    media_type = "text/event-stream"

    def __init__(self, request: Request, about: str) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self._followers: Followers = request.app.state.followers
        self._streams: Streams = request.app.state.streams
        self._metrics: Metrics = services_of(request).metrics
        self._caller = principal_of(request)
        self._about = about
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    @abstractmethod
    async def send_frames(self, send: Send) -> None:
        """Send the frames, with `self.send`. Raises a Refusal if the permission is lost."""

    @abstractmethod
    def encode_refused(self, refusal: Refusal) -> bytes:
        """Return the last frame of a viewer who has lost the permission."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send frames until one of these ends; refuse if the caller has too many open streams."""
        try:
            with self._streams.one_of(self._caller):
                await self._stream(scope, receive, send)
        except TooMany as refused:
            await Problem.from_refusal(scope, refused)(scope, receive, send)

    async def send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        """Send bytes. Raises ViewerStalledError if the viewer does not read them."""
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise ViewerStalledError from None

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._followers.streams += 1
        self._metrics.stream_clients.inc()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _first(self._send_all(send), _wait_for_disconnect(receive))
        except ViewerStalledError:
            self._drop(scope.get("extensions", {}).get(DROP))
            await asyncio.sleep(0)  # until the server has noticed
        finally:
            self._followers.streams -= 1
            self._metrics.stream_clients.dec()

    async def _send_all(self, send: Send) -> None:
        try:
            await self.send_frames(send)
        except Refusal as refusal:
            await self.send(send, self.encode_refused(refusal))
        except Unavailable as away:
            log.warning("stream_ended", about=self._about, reason=str(away))
        await self.send(send, b"", more=False)

    def _drop(self, drop: Callable[[], None] | None) -> None:
        self._followers.dropped += 1
        log.warning("viewer_dropped", about=self._about, seconds=STALL_SECONDS)
        if drop is None:
            raise ViewerStalledError(
                "the viewer does not read, and this server cannot drop it at once"
            )
        drop()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _first(*works: Coroutine[Any, Any, None]) -> None:
    """Wait for the first of these to end and raise its error; cancel and await the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await ended(*tasks)
