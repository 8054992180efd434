"""The log of an execution: in pages, as ndjson, as text or raw bytes, and live.

Raw bytes are those of one stream of one target. The live log is sent as Server-Sent Events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from opsjobs.api import log_formats
from opsjobs.api.authorization import ExecutionDep, Within, admitted, load_execution, requires
from opsjobs.api.connections import DROP
from opsjobs.api.follower import Followers
from opsjobs.api.log_formats import LineAssembler
from opsjobs.api.long_lived import Download, StreamReauth, Streams, reauth_of
from opsjobs.api.problems import Problem
from opsjobs.api.request import ServicesDep, principal_of, services_of
from opsjobs.api.schemas.executions import LogPageOut
from opsjobs.api.schemas.responses import EVENTS, LOG
from opsjobs.composition import Services
from opsjobs.model import text_patterns
from opsjobs.model.errors import Refusal, TooMany, Unavailable
from opsjobs.model.execution import Execution
from opsjobs.store.execution_log import LogEntry
from opsjobs.store.paging import LIMIT_DEFAULT, LIMIT_MAX
from opsjobs.store.reference import BIGINT_MAX
from opsjobs.task_cancellation import ended
from opsjobs.telemetry import Metrics, log

PAGE_ENTRIES = 1_000
PAGE_BYTES = 1 << 20

router = APIRouter(tags=["executions"])
_TEXT = text_patterns.LINE_OR_NOTHING


class LogQuery(BaseModel):
    """Query of a log: its form and its part.

    `target`, `stream`, `action` and `attempt` select entries of `format=text` only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["json", "text", "ndjson"] = "json"
    after: int = Field(0, ge=0, le=BIGINT_MAX, description="Start after this position of the log.")
    cursor: int = Field(0, ge=0, le=BIGINT_MAX, description="`next` of the previous page.")
    limit: int = Field(LIMIT_DEFAULT, ge=1, le=LIMIT_MAX, description="Items per page of JSON.")
    target: str | None = Field(None, max_length=200, pattern=_TEXT, description="Id or name.")
    stream: Literal["stdout", "stderr"] | None = None
    action: str | None = Field(None, max_length=64, pattern=_TEXT, description="An action's key.")
    attempt: int | None = Field(None, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _only_text_is_narrowed(self) -> LogQuery:
        if self.format != "text" and any(
            p is not None for p in (self.target, self.stream, self.action, self.attempt)
        ):
            raise ValueError("target, stream, action and attempt are only for format=text")
        return self

    @property
    def position(self) -> int:
        """The position after which entries are returned."""
        return max(self.after, self.cursor)


@router.get(
    "/executions/{id}/log",
    dependencies=[requires("executions:read", Within.OBJECT), Depends(load_execution)],
    summary="Read an execution's log",
    response_model=LogPageOut,
    responses=LOG,
)
async def read_log(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    query: Annotated[LogQuery, Query()],
) -> Response:
    """Return the log as far as it is written, in order; `/events` follows it as it grows.

    `format=text` with `target` and `stream` is exactly the bytes of that stream; otherwise lines
    that begin with `NAME | `.
    """

    def sent(pieces: AsyncIterator[bytes], media_type: str) -> Response:
        still = partial(
            admitted, request, "execution", execution.id, execution, sees="executions:read"
        )
        return Download(request, pieces, still, media_type=media_type)

    await services.execution_log.check_available(execution)
    if query.format == "json":
        return await _page(request, execution, query.position, query.limit)
    if query.format == "ndjson":
        return sent(_items(services, execution, query.position), "application/x-ndjson")
    run = (
        (await services.executions.run_of(execution.id, query.target)).id
        if query.target is not None
        else None
    )
    if run is not None and query.stream is not None:
        return sent(_bytes(services, execution, run, query), "application/octet-stream")
    return sent(_lines(services, execution, run, query), "text/plain")


async def _page(request: Request, execution: Execution, position: int, limit: int) -> Response:
    entries = await services_of(request).execution_log.read(
        execution.id, after=position, limit=limit, max_bytes=PAGE_BYTES
    )
    last = entries[-1].seq if entries else position
    more = last < execution.last_seq
    kept = [
        (name, value)
        for name, value in request.query_params.multi_items()
        if name not in ("cursor", "after")
    ]
    link = f'<{request.url.path}?{urlencode([*kept, ("cursor", last)])}>; rel="next"'
    body = {
        "items": [log_formats.render_item(entry) for entry in entries],
        "next": str(last) if more else None,
    }
    return JSONResponse(body, headers={"Link": link} if more else None)


async def _items(services: Services, execution: Execution, position: int) -> AsyncIterator[bytes]:
    while position < execution.last_seq:
        entries = await services.execution_log.read(
            execution.id, after=position, limit=PAGE_ENTRIES, max_bytes=PAGE_BYTES
        )
        if not entries:
            return
        position = entries[-1].seq
        yield b"".join(map(log_formats.encode_line, entries))


async def _bytes(
    services: Services, execution: Execution, run: int, query: LogQuery
) -> AsyncIterator[bytes]:
    async for entries in _output(services, execution, run, query):
        yield b"".join(entry.data or b"" for entry in entries)


async def _lines(
    services: Services, execution: Execution, run: int | None, query: LogQuery
) -> AsyncIterator[bytes]:
    lines = LineAssembler(await services.executions.names(execution.id))
    async for entries in _output(services, execution, run, query):
        yield b"".join(map(lines.feed, entries))
    yield lines.rest()


async def _output(
    services: Services, execution: Execution, run: int | None, query: LogQuery
) -> AsyncIterator[list[LogEntry]]:
    pages = services.execution_log.output(
        execution.id,
        target_run=run,
        stream=query.stream,
        action=query.action,
        after=query.position,
        limit=PAGE_ENTRIES,
        max_bytes=PAGE_BYTES,
    )
    async for entries in pages:
        yield [entry for entry in entries if query.attempt in (None, entry.attempt)]


STALL_SECONDS = 15.0
"""Time after which a viewer that reads nothing while its buffer is full is dropped."""

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
    """The viewer does not read; it is dropped to bound the number of its unsent bytes."""


class EventStream(Response):
    """Long-lived response with the log as Server-Sent Events.

    It ends when the log, the viewer's connection, the viewer's permission, or the process ends.
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
        """Send frames until one of these ends; refuse if the caller has too many open streams."""
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
            await self._send(send, log_formats.encode_refusal(self._position, refusal))
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
