"""Answers that last: so many of each caller at a time, and downloads that end where their time or the caller's right does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from opsjobs.api.auth import principal_of
from opsjobs.api.dependencies import services_of
from opsjobs.api.http_connection import DROP
from opsjobs.api.problems import Problem
from opsjobs.api.stream_reauth import StreamReauth, standing
from opsjobs.model.access import Principal
from opsjobs.model.errors import Refusal, TooMany, Unavailable
from opsjobs.telemetry import log

RETRY_AFTER_SECONDS = 5


class Streams:
    """The streams and downloads of this process by caller: `most` of one at a time; 0 = no limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one_of(self, caller: Principal) -> Iterator[None]:
        """Around one of them. Raises TooMany."""
        who = (caller.kind, caller.name)
        if self._most and self._open[who] >= self._most:
            detail = f"{caller.name} has {self._most} streams and downloads open here (OPSJOBS_STREAMS_PER_CALLER): end one of them first."
            raise TooMany("too_many_streams", detail, retry_after_seconds=RETRY_AFTER_SECONDS)
        self._open[who] += 1
        try:
            yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]


class Download(StreamingResponse):
    """Bytes in pieces. Where the caller may have it no more (`still` as in `standing`), or it lasts too long, the connection is
    dropped, so that nobody takes a part for the whole.
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
        super().__init__(_judged(pieces, standing(request, still)), media_type=media_type, headers=headers)
        self._streams: Streams = request.app.state.streams
        self._caller = principal_of(request)
        self._limit_seconds: float = services_of(request).limits.download_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or refuse it where the caller has too many."""
        try:
            with self._streams.one_of(self._caller):
                await self._send_all(scope, receive, send)
        except TooMany as refused:
            await Problem.of(scope, refused)(scope, receive, send)

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._limit_seconds):
                await super().__call__(scope, receive, send)
        except (Refusal, Unavailable, TimeoutError) as over:
            reason = str(over) or f"it lasted longer than {self._limit_seconds:g} s (OPSJOBS_DOWNLOAD_TIME)"
            log.warning("a download was ended", path=scope["path"][:200], principal=self._caller.name, reason=reason)
            drop: Callable[[], None] | None = scope.get("extensions", {}).get(DROP)
            if drop is None:
                raise
            drop()
            await asyncio.sleep(0)  # until the server has noticed


async def _judged(pieces: AsyncIterator[bytes], whose: StreamReauth) -> AsyncIterator[bytes]:
    async for piece in pieces:
        await whose.check()
        yield piece
