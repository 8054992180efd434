"""Streams and downloads: periodic re-authorization, maximum duration, event streams.

An event stream lasts until its viewer leaves or is refused.
"""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from opsjobs.api.authorization import Within, check_permission, permission_of
from opsjobs.api.connections import DROP
from opsjobs.api.follower import Followers
from opsjobs.api.problems import Problem
from opsjobs.api.rate_limits import Streams
from opsjobs.api.request import principal_of, proof_of
from opsjobs.clock import Clock
from opsjobs.composition.services import services_of
from opsjobs.model.errors import Refusal, TooMany, Unavailable
from opsjobs.model.units import format_duration
from opsjobs.task_cancellation import ended
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

PATIENCE_SECONDS = 15.0
RETRY_SECONDS = 1.0
JITTER = 0.2
"""Each check is earlier by a random share up to this, so that checks of streams spread."""


class StreamReauth:
    """A permission that is valid for at most `every_seconds` after `ask` returned.

    `ask` raises a Refusal, or Unavailable if the permission cannot be checked.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[None]], clock: Clock, *, every_seconds: float
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._every_seconds = every_seconds
        self._schedule_next()

    @property
    def seconds_left(self) -> float:
        """The seconds until the next check is due."""
        return max(0.0, self._due - self._clock.monotonic())

    async def check(self) -> None:
        """Check the permission again if that is due. Call it before sending anything.

        While `ask` raises Unavailable, this waits and nothing is sent; after PATIENCE_SECONDS it
        raises Unavailable. Raises the refusals of `ask`.
        """
        if self.seconds_left:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._ask_until_decided()
        except TimeoutError:
            raise Unavailable("re-authorization of a stream was not possible for a while") from None
        self._schedule_next()

    async def _ask_until_decided(self) -> None:
        while True:
            try:
                await self._ask()
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _schedule_next(self) -> None:
        share = 1 - JITTER * random.random()  # noqa: S311  spreads load, keeps no secret
        self._due = self._clock.monotonic() + self._every_seconds * share


def reauth_of(request: Request, still: Callable[[], object]) -> StreamReauth:
    """Return the re-authorization of this request: token, route's permission, and object.

    `still`: checks the object in the path; it raises as at the start of the response.
    """
    services = services_of(request)
    proof, permission = proof_of(request), permission_of(request)

    async def ask() -> None:
        request.state.principal = await services.authentication.authenticator.reauthenticate(proof)
        check_permission(request, permission, within=Within.OBJECT)
        still()

    return StreamReauth(ask, services.clock, every_seconds=services.limits.stream_reauth_seconds)


class Download(StreamingResponse):
    """Bytes in pieces, within a time limit and only while the caller has the permission.

    If the caller loses the permission (`still` as in `reauth_of`), or the time is over, the
    connection is dropped, so that no client mistakes a part for the whole.
    """

    def __init__(
        self,
        request: Request,
        pieces: AsyncIterator[bytes],
        still: Callable[[], object],
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        authorized = _while_authorized(pieces, reauth_of(request, still))
        super().__init__(authorized, media_type=media_type, headers=headers)
        self._streams: Streams = request.app.state.streams
        self._caller = principal_of(request)
        self._limit_seconds: float = services_of(request).limits.download_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes, or refuse if the caller has too many downloads open."""
        try:
            with self._streams.one_of(self._caller):
                await self._send_all(scope, receive, send)
        except TooMany as refused:
            await Problem.from_refusal(scope, refused)(scope, receive, send)

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._limit_seconds):
                await super().__call__(scope, receive, send)
        except (Refusal, Unavailable, TimeoutError) as over:
            reason = (
                str(over)
                or f"it lasted longer than {format_duration(self._limit_seconds)} "
                "(OPSJOBS_DOWNLOAD_TIME)"
            )
            path = scope["path"][:200]
            log.warning("download_ended", path=path, principal=self._caller.name, reason=reason)
            drop: Callable[[], None] | None = scope.get("extensions", {}).get(DROP)
            if drop is None:
                raise
            drop()
            await asyncio.sleep(0)  # until the server has noticed


async def _while_authorized(
    pieces: AsyncIterator[bytes], reauth: StreamReauth
) -> AsyncIterator[bytes]:
    async for piece in pieces:
        await reauth.check()
        yield piece


# --- Server-Sent Events


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
