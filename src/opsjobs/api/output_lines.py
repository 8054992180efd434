"""/executions/{id}/lines and /search: the output by line number, and lines that match."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, field_validator, model_validator
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from opsjobs.api.authorization import Within, admit_execution
from opsjobs.api.dependencies import (
    ExecutionDep,
    OutputQuery,
    ServicesDep,
    load_execution,
    requires,
)
from opsjobs.api.log_formats import encode_json
from opsjobs.api.long_lived import Download
from opsjobs.api.schemas.executions import LineWindowOut
from opsjobs.api.schemas.responses import SEARCHED
from opsjobs.model.errors import Invalid, TooMany
from opsjobs.model.execution import moment
from opsjobs.model.line_search import (
    CONTEXT_LINES_MAX,
    QUERY_CHARACTERS_MAX,
    LineMatch,
    LineQuery,
    LineSearch,
    StreamOrigin,
)
from opsjobs.model.pattern import TooMuchWork
from opsjobs.store.execution_log import LogEntry
from opsjobs.store.output_lines import OutputLine, OutputPart
from opsjobs.store.reference import BIGINT_MAX

LINES_MAX = 2_000

router = APIRouter(tags=["executions"])


class LinesQuery(OutputQuery):
    """Query of a window of lines."""

    first: int = Field(
        1,
        alias="from",
        ge=-BIGINT_MAX,
        le=BIGINT_MAX,
        description="The number of the first line, from 1; -100: the 100th from the end.",
    )
    count: int = Field(200, ge=1, le=LINES_MAX, description="Maximum number of lines.")

    @field_validator("first")
    @classmethod
    def _check_first(cls, first: int) -> int:
        if first == 0:
            raise ValueError("lines are numbered from 1, and from -1 at the end")
        return first


@router.get(
    "/executions/{id}/lines",
    dependencies=[requires("executions:read", Within.OBJECT), Depends(load_execution)],
    summary="Get lines of output by number",
    response_model=LineWindowOut,
)
async def lines(
    services: ServicesDep, execution: ExecutionDep, query: Annotated[LinesQuery, Query()]
) -> Response:
    """Return a window of the output of all targets, or of one target, stream or action.

    Lines are numbered by the order in which they begin, so a number never changes. Fewer than
    `count` lines are returned if they would be larger than 2 MiB, or if the log has no more yet:
    `next` is the `from` of the next window.
    """
    await services.execution_log.check_available(execution)
    run = (
        (await services.executions.run_of(execution.id, query.target)).id
        if query.target is not None
        else None
    )
    window = await services.output_lines.window(
        execution,
        OutputPart(run, query.stream, query.action),
        first=query.first,
        count=query.count,
    )
    after = window.lines[-1].number + 1 if window.lines else window.first
    return JSONResponse(
        {
            "from": window.first,
            "lines": [_render(line) for line in window.lines],
            "next": after if after <= window.total else None,
            "total": window.total,
            "seq": window.seq,
        }
    )


def _render(line: OutputLine) -> dict[str, Any]:
    return {
        "line": line.number,
        "seq": line.seq,
        "at": moment(line.at),
        "target_run": line.target_run,
        "target": line.target,
        "action": line.action,
        "attempt": line.attempt,
        "stream": line.stream,
        "text": line.text,
        "complete": line.complete,
        "cut": line.cut,
        "dropped": line.dropped,
    }


# --- search in the output of all targets


SEARCH_SECONDS = 20.0
"""A search ends after this time, and returns the place at which to continue."""
PIECE_SECONDS = 10.0
"""The least time for the first piece of output, and for incomplete lines at the end."""
THREADS_MAX = 2
"""Threads of a process that search."""
WAIT_SECONDS = 5.0
"""A search that gets no thread in this time is refused."""
MATCHES_MAX = 10_000
PAGE_ENTRIES = 1_000
PAGE_BYTES = 4 << 20


class SearchQuery(OutputQuery):
    """Query of a search: a text or a pattern, and the part of the output."""

    q: str | None = Field(
        None,
        min_length=1,
        max_length=QUERY_CHARACTERS_MAX,
        description="Find lines that contain this text.",
    )
    pattern: str | None = Field(
        None,
        min_length=1,
        max_length=QUERY_CHARACTERS_MAX,
        description="Find lines that match this pattern (RE2).",
    )
    ignore_case: bool = False
    context: int = Field(0, ge=0, le=CONTEXT_LINES_MAX, description="Lines before and after.")
    limit: int = Field(
        1_000, ge=1, le=MATCHES_MAX, description="Matches after which the search ends."
    )
    after: int = Field(0, ge=0, le=BIGINT_MAX, description="Start after this position of the log.")

    @model_validator(mode="after")
    def _one_of_both(self) -> SearchQuery:
        if (self.q is None) == (self.pattern is None):
            raise ValueError("give either q (a text) or pattern")
        if self.q is not None and "\n" in self.q:
            raise ValueError("q is searched for in single lines: leave line feeds out")
        return self


@router.get(
    "/executions/{id}/search",
    dependencies=[requires("executions:read", Within.OBJECT), Depends(load_execution)],
    summary="Search an execution's output",
    response_class=Response,
    responses=SEARCHED,
)
async def search(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    query: Annotated[SearchQuery, Query()],
) -> Response:
    """Return the lines of all targets that contain a text or match a pattern.

    One JSON object per line. The last one is the summary: the number of lines and targets, and
    whether the search is `complete`. If not, because of `limit` (the piece of output that reaches
    it is searched to its end) or after 20 s, `next` is the `after` of the request that continues;
    it sees only the rest of a line that spans that position.
    """
    await services.execution_log.check_available(execution)
    try:
        found = _OutputSearch(query, request.app.state.search_threads)
    except ValueError as wrong:
        raise Invalid("invalid_pattern", f"pattern: {wrong}.") from None
    run = (
        (await services.executions.run_of(execution.id, query.target)).id
        if query.target is not None
        else None
    )
    still = partial(admit_execution, request, execution.id, execution)
    part = OutputPart(run, query.stream, query.action)
    found.start_at(await services.output_lines.lines_before(execution, part, query.after))
    found.names = await services.executions.names(execution.id)
    pages = services.execution_log.output(
        execution.id,
        target_run=run,
        stream=query.stream,
        action=query.action,
        after=query.after,
        limit=PAGE_ENTRIES,
        max_bytes=PAGE_BYTES,
    )
    return _SearchDownload(request, found, pages, still)


class SearchThreads:
    """The threads in which this process searches, so that searches leave it time for others."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(THREADS_MAX)
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="search")

    async def reserve(self, seconds: float) -> None:
        """Wait until a thread is free, and reserve it. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self._free.acquire()

    def release(self) -> None:
        """Free a reserved thread for others."""
        self._free.release()

    async def run(self, work: Callable[[], bytes]) -> bytes:
        """Run this in a reserved thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Stopped(Exception):
    """The time of a search is over, or its reader has left."""


class _OutputSearch:
    """One search: the pages of output through a LineSearch, until the limit or the deadline."""

    def __init__(self, query: SearchQuery, threads: SearchThreads) -> None:
        """Prepare the search. Raises ValueError if the pattern is not supported."""
        wanted = LineQuery(query.q, query.pattern, query.ignore_case, query.context)
        self._lines = LineSearch(wanted, self._check)
        self._threads = threads
        self._reserved = False
        self._left = threading.Event()
        self._deadline = self._piece_deadline = 0.0
        self._reason: str | None = None
        self._limit = query.limit
        self._start = self._position = query.after
        self._found = 0
        self._runs = set[int]()
        self.names: Mapping[int, str] = {}

    def start_at(self, lines: int) -> None:
        """Number lines from here on: so many begin before the output that is searched."""
        self._lines.lines = lines

    async def begin(self) -> None:
        """Wait for a thread. Raises TooMany. Afterwards call `end`."""
        try:
            await self._threads.reserve(WAIT_SECONDS)
        except TimeoutError:
            detail = (
                f"This process runs {THREADS_MAX} searches already, which is its limit. "
                "Search again in some seconds."
            )
            seconds = int(WAIT_SECONDS)
            raise TooMany("too_many_searches", detail, retry_after_seconds=seconds) from None
        self._reserved = True

    def end(self) -> None:
        """End the search, also in its thread."""
        self._left.set()
        if self._reserved:
            self._reserved = False
            self._threads.release()

    async def pieces(self, pages: AsyncIterator[Sequence[LogEntry]]) -> AsyncIterator[bytes]:
        """Yield lines of JSON: the matches, then the summary."""
        self._deadline = time.monotonic() + SEARCH_SECONDS
        async for entries in pages:
            yield await self._in_thread(partial(self._take, entries))
            if self._reason is None and time.monotonic() > self._deadline:
                self._reason = "time"
            if self._reason is not None:
                break
        else:
            yield await self._in_thread(self._take_rest)
            if self._reason == "time":  # a request that goes on would not see these lines
                self._reason = "there was no time for the incomplete lines at the end"
        if self._reason in ("limit", "time"):
            # Only matches that wait for their context: no line is examined.
            yield self._render(self._lines.rest(self._position, ended=False))
        summary = {
            "complete": self._reason is None,
            "reason": self._reason,
            "next": self._position if self._reason in ("limit", "time") else None,
            "lines": self._found,
            "targets": len(self._runs),
            "bytes": self._lines.bytes,
        }
        yield encode_json(summary) + b"\n"

    async def _in_thread(self, work: Callable[[], bytes]) -> bytes:
        """Run this in a thread, and free the thread; if there is none, the time is over."""
        if not self._reserved:
            try:
                await self._threads.reserve(max(self._deadline - time.monotonic(), WAIT_SECONDS))
            except TimeoutError:
                self._reason = "time"
                return b""
            self._reserved = True
        self._piece_deadline = time.monotonic() + PIECE_SECONDS
        try:
            return await self._threads.run(work)
        finally:
            self._reserved = False
            self._threads.release()

    def _take(self, entries: Sequence[LogEntry]) -> bytes:
        written = bytearray()
        for entry in entries:
            assert entry.target_run is not None
            assert entry.stream is not None
            origin = StreamOrigin(entry.target_run, entry.action, entry.attempt, entry.stream)
            matches = list(
                self._until_stopped(self._lines.feed(origin, entry.seq, entry.data, entry.lines))
            )
            if self._reason is None:
                self._position = entry.seq
                if self._found + len(matches) >= self._limit:
                    self._reason = "limit"
            written += self._render(matches)
            if self._reason is not None:
                break
        return bytes(written)

    def _take_rest(self) -> bytes:
        self._deadline = self._piece_deadline
        return self._render(self._until_stopped(self._lines.rest(self._position)))

    def _until_stopped(self, matches: Iterator[LineMatch]) -> Iterator[LineMatch]:
        try:
            yield from matches
        except TooMuchWork as much:
            self._reason = str(much)
        except _Stopped:
            # A request that goes on would be no further, if this one did not even get here.
            self._reason = "time" if self._position > self._start else str(TooMuchWork())

    def _check(self) -> None:
        deadline = self._deadline
        if self._position == self._start:
            deadline = max(deadline, self._piece_deadline)
        if self._left.is_set() or time.monotonic() > deadline:
            raise _Stopped

    def _render(self, matches: Iterable[LineMatch]) -> bytes:
        """Return the matches as JSON, without those that the next request finds again."""
        may_go_on = self._reason == "time"
        return b"".join(
            self._encode(match) for match in matches if not may_go_on or match.seq <= self._position
        )

    def _encode(self, match: LineMatch) -> bytes:
        self._found += 1
        self._runs.add(match.origin.target_run)
        item: dict[str, Any] = {
            "target": self.names.get(match.origin.target_run, ""),
            **match.origin._asdict(),
            "seq": match.seq,
            "line": match.number,
            "text": match.text,
        }
        if match.before or match.after:
            item |= {"before": list(match.before), "after": list(match.after)}
        return encode_json(item) + b"\n"


class _SearchDownload(Download):
    """The result of a search, which is refused if no thread is free, and ends with its reader."""

    def __init__(
        self,
        request: Request,
        found: _OutputSearch,
        pages: AsyncIterator[Sequence[LogEntry]],
        still: Callable[[], object],
    ) -> None:
        super().__init__(request, found.pieces(pages), still, media_type="application/x-ndjson")
        self._found = found

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._found.begin()
        try:
            await super()._send_all(scope, receive, send)
        finally:
            self._found.end()
