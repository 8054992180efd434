"""/executions/{id}/search: find lines in the output of all targets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from opsjobs.api.authorization import ExecutionDep, Within, admitted, load_execution, requires
from opsjobs.api.log_formats import encode_json
from opsjobs.api.long_lived import Download
from opsjobs.api.request import ServicesDep
from opsjobs.api.schemas.responses import SEARCHED
from opsjobs.model import text_patterns
from opsjobs.model.errors import Invalid
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
from opsjobs.store.reference import BIGINT_MAX

SEARCH_SECONDS = 20.0
"""After this time a search ends, and says from where to go on."""
LINES_MAX = 10_000
PAGE_ENTRIES = 1_000
PAGE_BYTES = 4 << 20

router = APIRouter(tags=["executions"])
_TEXT = text_patterns.LINE_OR_NOTHING


class SearchQuery(BaseModel):
    """Query of a search: a text or a pattern, and the part of the output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: str | None = Field(
        None, min_length=1, max_length=QUERY_CHARACTERS_MAX, description="A text in a line."
    )
    pattern: str | None = Field(
        None, min_length=1, max_length=QUERY_CHARACTERS_MAX, description="A pattern in a line."
    )
    ignore_case: bool = False
    context: int = Field(0, ge=0, le=CONTEXT_LINES_MAX, description="Lines before and after.")
    limit: int = Field(
        1_000, ge=1, le=LINES_MAX, description="Matches after which the search ends."
    )
    after: int = Field(0, ge=0, le=BIGINT_MAX, description="Start after this position of the log.")
    target: str | None = Field(None, max_length=200, pattern=_TEXT, description="Id or name.")
    stream: Literal["stdout", "stderr"] | None = None
    action: str | None = Field(None, max_length=64, pattern=_TEXT, description="An action's key.")

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
    it is searched to its end) or after 20 s, `next` is the `after` of a request that goes on; of a
    line that lies across that position it sees the rest.
    """
    await services.execution_log.check_available(execution)
    try:
        lines = LineSearch(LineQuery(query.q, query.pattern, query.ignore_case, query.context))
    except ValueError as wrong:
        raise Invalid("invalid_pattern", f"pattern: {wrong}.") from None
    run = (
        (await services.executions.run_of(execution.id, query.target)).id
        if query.target is not None
        else None
    )
    still = partial(admitted, request, "execution", execution.id, execution, sees="executions:read")
    names = await services.executions.names(execution.id)
    pages = services.execution_log.output(
        execution.id,
        target_run=run,
        stream=query.stream,
        action=query.action,
        after=query.after,
        limit=PAGE_ENTRIES,
        max_bytes=PAGE_BYTES,
    )
    pieces = _OutputSearch(lines, names, query).pieces(pages)
    return Download(request, pieces, still, media_type="application/x-ndjson")


class _OutputSearch:
    """One search: the pages of output through a LineSearch, until the limit or the deadline."""

    def __init__(self, lines: LineSearch, names: Mapping[int, str], query: SearchQuery) -> None:
        self._lines = lines
        self._names = names
        self._limit = query.limit
        self._position = query.after
        self._found = 0
        self._runs = set[int]()

    async def pieces(self, pages: AsyncIterator[Sequence[LogEntry]]) -> AsyncIterator[bytes]:
        """Yield lines of JSON: the matches, then the summary."""
        deadline = time.monotonic() + SEARCH_SECONDS
        reason = None
        try:
            async for entries in pages:
                # In a thread: a pattern takes far longer for a page than the loop may stand still.
                yield await asyncio.to_thread(self._take, entries)
                if self._found >= self._limit or time.monotonic() > deadline:
                    reason = "limit" if self._found >= self._limit else "time"
                    break
            rest = self._lines.rest(self._position, ended=reason is None)
            yield b"".join(map(self._encode, rest))
        except TooMuchWork as much:
            reason = str(much)
        summary = {
            "complete": reason is None,
            "reason": reason,
            "next": self._position if reason in ("limit", "time") else None,
            "lines": self._found,
            "targets": len(self._runs),
            "bytes": self._lines.bytes,
        }
        yield encode_json(summary) + b"\n"

    def _take(self, entries: Sequence[LogEntry]) -> bytes:
        written = bytearray()
        for entry in entries:
            assert entry.target_run is not None
            assert entry.stream is not None
            origin = StreamOrigin(entry.target_run, entry.action, entry.attempt, entry.stream)
            written += b"".join(map(self._encode, self._lines.feed(origin, entry.seq, entry.data)))
            self._position = entry.seq
            if self._found >= self._limit:
                break
        return bytes(written)

    def _encode(self, match: LineMatch) -> bytes:
        self._found += 1
        self._runs.add(match.origin.target_run)
        item: dict[str, Any] = {
            "target": self._names.get(match.origin.target_run, ""),
            **match.origin._asdict(),
            "seq": match.seq,
            "text": match.text,
        }
        if match.before or match.after:
            item |= {"before": list(match.before), "after": list(match.after)}
        return encode_json(item) + b"\n"
