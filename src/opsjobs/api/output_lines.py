"""/executions/{id}/lines: the output by line number."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field, field_validator
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within
from opsjobs.api.dependencies import ExecutionDep, load_execution, requires
from opsjobs.api.output_query import OutputQuery
from opsjobs.api.schemas.executions import LineWindowOut
from opsjobs.api.services import ServicesDep
from opsjobs.model.execution import moment
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
