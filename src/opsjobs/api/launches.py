"""Requests that launch executions, and their responses, for all routes that launch."""

from __future__ import annotations

import re
from dataclasses import replace as but
from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.execution_answers import add_links, render_execution
from opsjobs.api.http import render_replayed
from opsjobs.api.paths import build_location
from opsjobs.api.quotas import check_open
from opsjobs.api.request import principal_of, triggered_by
from opsjobs.composition.services import services_of
from opsjobs.engine.launching.launch import Launched
from opsjobs.engine.launching.preview import preview
from opsjobs.model.access import SEE_EXECUTIONS, Principal
from opsjobs.model.api_model import Overriding
from opsjobs.model.identity import Identity
from opsjobs.model.job import LaunchOrder
from opsjobs.model.parameter import PARAMETERS_MAX
from opsjobs.model.run_views import Execution
from opsjobs.model.selection import SelectionDraft
from opsjobs.store.idempotency import IdempotentRequest
from opsjobs.store.jobs import StoredJob

WAIT_SECONDS_MAX = 60
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)

Prefer = Annotated[
    str | None,
    Header(
        description=f"`wait=N`: wait up to N seconds (≤ {WAIT_SECONDS_MAX}) until it has ended."
    ),
]


class ExecuteDraft(Overriding):
    """Body of POST /jobs/{id}/execute.

    `targets`: only these of the job's targets. `parameters`: values of the parameters that the job
    declares. `dry_run`: launch nothing; the answer is 200 with a preview.
    """

    parameters: dict[str, Any] = Field(default_factory=dict, max_length=PARAMETERS_MAX)
    dry_run: bool = False
    targets: SelectionDraft | None = None


def order_of(stored: StoredJob, draft: ExecuteDraft) -> LaunchOrder:
    """Return the launch order of this job."""
    job = stored.job
    return LaunchOrder(
        job.definition.actions,
        job.definition.targets,
        job.definition.policy,
        job.definition.name,
        job.id,
        job.version,
        narrowed_to=draft.targets,
        reason=draft.reason,
        parameters=draft.parameters,
        declared=job.definition.parameters,
        tags=job.definition.tags,
        override=draft.override,
    )


async def owner(request: Request) -> Principal:
    """Return the caller as the owner of later launches in its name.

    The grants of an external identity are stored, because no other table has them.
    """
    principal = principal_of(request)
    await services_of(request).identities.remember(None, principal)
    return principal


async def requester(request: Request) -> Identity:
    """Return the caller as the requester of a launch.

    A workflow later launches further jobs in its name.
    """
    return (await owner(request)).identity


async def launch(
    request: Request, order: LaunchOrder, idem: IdempotentRequest | None, prefer: str | None
) -> Response:
    """Launch the order, and return the response to the launch."""
    await check_open(request)
    launched = await services_of(request).launcher.launch(
        order, triggered_by=triggered_by(request), idem=idem, requested_by=await requester(request)
    )
    return await render_launch(request, launched, prefer)


async def render_preview(request: Request, order: LaunchOrder) -> Response:
    """Return the preview of a launch."""
    services = services_of(request)
    seen = principal_of(request).reach(SEE_EXECUTIONS)
    return JSONResponse(await preview(services.launcher, services.database, order, seen))


async def render_launch(request: Request, launched: Launched, prefer: str | None) -> Response:
    """Return the response to a launch: 202 with the execution.

    If the caller prefers to wait: 200 once the execution has ended.
    """
    if launched.replayed is not None:
        first = launched.replayed
        return render_replayed(request, but(first, body=add_links(first.body)))
    assert launched.execution is not None
    return await _answer(request, launched.execution, _seconds_to_wait(prefer))


async def _answer(request: Request, execution: Execution, wait_seconds: int) -> Response:
    headers = {"Location": build_location(request, f"/executions/{execution.id}")}
    if wait_seconds:
        headers["Preference-Applied"] = f"wait={wait_seconds}"
        await request.app.state.followers.await_end(execution, wait_seconds)
        seen = principal_of(request).reach(SEE_EXECUTIONS)
        execution = await services_of(request).executions.get(execution.id, seen)
    return JSONResponse(
        render_execution(execution), 200 if execution.status.final else 202, headers
    )


def _seconds_to_wait(prefer: str | None) -> int:
    """Return the seconds of `Prefer: wait=N` (RFC 7240); an invalid preference is ignored."""
    asked = _WAIT.search(prefer or "")
    return min(int(asked[1]), WAIT_SECONDS_MAX) if asked else 0
