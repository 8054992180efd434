"""Streams and downloads: periodic re-authorization, maximum duration."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from opsjobs.api.authorization import Within, check_permission, permission_of
from opsjobs.api.connections import DROP
from opsjobs.api.problems import Problem
from opsjobs.api.rate_limits import Streams
from opsjobs.api.request import principal_of, proof_of
from opsjobs.api.services import services_of
from opsjobs.clock import Clock
from opsjobs.model.errors import Refusal, TooMany, Unavailable
from opsjobs.telemetry.logs import log

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
                or f"it lasted longer than {self._limit_seconds:g} s (OPSJOBS_DOWNLOAD_TIME)"
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
