"""The log of an execution: in pages, as ndjson, as text or raw bytes, and live.

Raw bytes are those of one stream of one target. The live log is sent as Server-Sent Events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from opsjobs.api import log_formats
from opsjobs.api.authorization import Within, admit_execution
from opsjobs.api.dependencies import (
    ExecutionDep,
    OutputQuery,
    ServicesDep,
    load_execution,
    requires,
)
from opsjobs.api.log_formats import LineAssembler
from opsjobs.api.long_lived import Download, ServerSentEvents, StreamReauth, check_room, reauth_of
from opsjobs.api.schemas.executions import LogPageOut
from opsjobs.api.schemas.responses import EVENTS, LOG
from opsjobs.composition.services import Services, services_of
from opsjobs.model import text_patterns
from opsjobs.model.errors import Refusal
from opsjobs.model.run_views import Execution
from opsjobs.store.execution_log import EVERY_ENTRY, LogEntry, LogFilter
from opsjobs.store.paging import LIMIT_DEFAULT, LIMIT_MAX
from opsjobs.store.reference import BIGINT_MAX

PAGE_ENTRIES = 1_000
PAGE_BYTES = 1 << 20
KINDS = frozenset({"output", "status", "result", "end"})

router = APIRouter(tags=["executions"])
_TEXT = text_patterns.LINE_OR_NOTHING


class LogQuery(OutputQuery):
    """Query of a log: its form and its part.

    `target`, `stream`, `action` and `attempt` select entries of `format=text` only.
    """

    format: Literal["json", "text", "ndjson"] = "json"
    after: int = Field(0, ge=0, le=BIGINT_MAX, description="Start after this position of the log.")
    cursor: int = Field(0, ge=0, le=BIGINT_MAX, description="`next` of the previous page.")
    limit: int = Field(LIMIT_DEFAULT, ge=1, le=LIMIT_MAX, description="Items per page of JSON.")
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
        still = partial(admit_execution, request, execution.id, execution)
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


class EventsQuery(BaseModel):
    """Query of the live log: its start, and the entries that are sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: int = Field(0, ge=0, le=BIGINT_MAX, description="Start after this position of the log.")
    kinds: str | None = Field(
        None,
        max_length=100,
        description="Some of `output,status,result,end`, separated by commas. Default: all.",
    )
    target: str | None = Field(
        None, max_length=200, pattern=_TEXT, description="Id or name: only entries of its run."
    )

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, kinds: str | None) -> str | None:
        for wrong in sorted(set(kinds.split(",") if kinds is not None else ()) - KINDS):
            raise ValueError(
                f"{wrong!r} is not a kind of entry. Give some of output, status, result, end, "
                "separated by commas"
            )
        return kinds

    @property
    def events(self) -> frozenset[str] | None:
        """The kinds that are sent; None: all."""
        return None if self.kinds is None else frozenset(self.kinds.split(","))


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
    query: Annotated[EventsQuery, Query()],
    last_event_id: Annotated[int | None, Header(ge=0, le=BIGINT_MAX)] = None,
) -> Response:
    """Stream the log from its beginning, or after `Last-Event-ID` or `?after=`, until `end`.

    `id:` is the position in the log: a client that resumes misses and repeats nothing, with
    `kinds` and `target`, too. `end` is always sent, and again after the end of the execution. If
    the caller loses the permission, the last event is `refused`.
    """
    followers = request.app.state.followers
    await services.execution_log.check_available(execution)
    wanted = EVERY_ENTRY
    if query.kinds is not None or query.target is not None:
        run = (
            (await services.executions.run_of(execution.id, query.target)).id
            if query.target is not None
            else None
        )
        wanted = LogFilter(query.events, run)
    check_room(followers)
    reauth = reauth_of(request, partial(admit_execution, request, execution.id, execution))
    return EventStream(
        request, execution, query.after if last_event_id is None else last_event_id, reauth, wanted
    )


class EventStream(ServerSentEvents):
    """The log as Server-Sent Events, until its end."""

    def __init__(
        self,
        request: Request,
        execution: Execution,
        after: int,
        reauth: StreamReauth,
        log_filter: LogFilter,
    ) -> None:
        super().__init__(request, f"execution {execution.id}")
        self._execution = execution
        self._position = after
        self._reauth = reauth
        self._log_filter = log_filter

    async def send_frames(self, send: Send) -> None:
        """Send the log after the viewer's position, as it grows."""
        batches = self._followers.batches(
            self._execution, self._position, lambda: self._reauth.seconds_left, self._log_filter
        )
        async with aclosing(batches):
            async for batch in batches:
                await self._reauth.check()
                if batch.data:
                    await self.send(send, batch.data)
                self._position = batch.position

    def encode_refused(self, refusal: Refusal) -> bytes:
        """Return the frame with the refusal, at the viewer's position."""
        return log_formats.encode_refusal(self._position, refusal)
