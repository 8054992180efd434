"""The live log of an execution as Server-Sent Events: GET /executions/{id}/events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from opsjobs.api import log_encoding
from opsjobs.api.auth import Within, principal_of, requires
from opsjobs.api.authorization import admitted
from opsjobs.api.dependencies import ServicesDep, services_of
from opsjobs.api.executions import ExecutionDep
from opsjobs.api.follower import Followers
from opsjobs.api.http_connection import DROP
from opsjobs.api.long_lived import StreamReauth, Streams, reauth_of
from opsjobs.api.problems import Problem
from opsjobs.api.schemas.responses import EVENTS
from opsjobs.model.errors import Refusal, TooMany, Unavailable
from opsjobs.model.execution import Execution
from opsjobs.store.reference import BIGINT_MAX
from opsjobs.task_cancellation import ended
from opsjobs.telemetry import Metrics, log

STALL_SECONDS = 15.0
"""A viewer that reads nothing for this long while its buffer is full is dropped."""

router = APIRouter(tags=["executions"])
Position = Annotated[
    int, Query(ge=0, le=BIGINT_MAX, description="Start after this position of the log.")
]


@router.get(
    "/executions/{id}/events",
    dependencies=[requires("executions:read", Within.OBJECT)],
    response_class=Response,
    responses=EVENTS,
    summary="Follow an execution live",
)
async def events(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    after: Position = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=BIGINT_MAX)] = None,
) -> Response:
    """Stream the log from its beginning, or after `Last-Event-ID` or `?after=`, until `end`.

    `id:` is the position in the log: a client that resumes misses and repeats nothing. After the
    end of the execution, the `end` event is sent again. If the caller loses the permission, the
    last event is `refused`.
    """
    followers = request.app.state.followers
    await services.execution_log.check_available(execution)
    if followers.streams >= followers.pace.viewers:
        raise TooMany(
            "too_many_viewers",
            "This process has too many event streams open. Try again later.",
            retry_after_seconds=5,
        )
    reauth = reauth_of(
        request,
        lambda: admitted(request, "execution", execution.id, execution, sees="executions:read"),
    )
    return EventStream(
        request, execution, after if last_event_id is None else last_event_id, reauth
    )


class ViewerStalledError(Exception):
    """The viewer does not read. It is dropped to bound the number of its unsent bytes."""


class EventStream(Response):
    """Long-lived response with the log as Server-Sent Events.

    It ends with the log, the viewer's connection, the viewer's permission, or the process.
    """

    media_type = "text/event-stream"

    def __init__(
        self, request: Request, execution: Execution, after: int, reauth: StreamReauth
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self._followers: Followers = request.app.state.followers
        self._streams: Streams = request.app.state.streams
        self._metrics: Metrics = services_of(request).metrics
        self._caller = principal_of(request)
        self._execution = execution
        self._position = after
        self._reauth = reauth
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send frames until one of these ends; refuse if the caller has too many streams."""
        try:
            with self._streams.one_of(self._caller):
                await self._stream(scope, receive, send)
        except TooMany as refused:
            await Problem.from_refusal(scope, refused)(scope, receive, send)

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
            await self._send_log(send)
        except Refusal as refusal:
            await self._send(send, log_encoding.encode_refusal(self._position, refusal))
        except Unavailable as away:
            log.warning("stream_ended", execution=self._execution.id, reason=str(away))
        await self._send(send, b"", more=False)

    async def _send_log(self, send: Send) -> None:
        batches = self._followers.batches(
            self._execution, self._position, lambda: self._reauth.seconds_left
        )
        async with aclosing(batches):
            async for batch in batches:
                await self._reauth.check()
                if batch.data:
                    await self._send(send, batch.data)
                self._position = batch.position

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise ViewerStalledError from None

    def _drop(self, drop: Callable[[], None] | None) -> None:
        self._followers.dropped += 1
        log.warning(
            "viewer_dropped",
            execution=self._execution.id,
            seconds=STALL_SECONDS,
        )
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
