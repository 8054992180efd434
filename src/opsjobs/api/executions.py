"""/executions: launch, show, pause, resume, cancel and retry."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import (
    Actions,
    Within,
    bounds,
    check_override,
    check_permission,
    reach,
)
from opsjobs.api.dependencies import (
    ExecutionDep,
    Idempotent,
    JobDep,
    ServicesDep,
    confirm_caller,
    load_execution,
    load_job,
    read_execution,
    requires,
)
from opsjobs.api.execution_answers import (
    render_execution,
    render_phase,
    render_result,
)
from opsjobs.api.http import page_of, render_page
from opsjobs.api.job_checks import check_written
from opsjobs.api.launches import (
    ExecuteDraft,
    Prefer,
    launch,
    order_of,
    render_launch,
    render_preview,
    requester,
)
from opsjobs.api.quotas import check_open
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.executions import (
    CancelledOut,
    ExecutionDetailOut,
    ExecutionOut,
    ExecutionPageOut,
    ResultPageOut,
    ResumedOut,
    TargetRunPageOut,
    TimelineOut,
)
from opsjobs.api.schemas.responses import LAUNCHED_OR_PREVIEW, PAGED, RETRIED_OR_PREVIEW
from opsjobs.engine.launching.retries import refuse_unended
from opsjobs.model import text_patterns
from opsjobs.model.access import LAUNCH, RUN_COMMANDS, SEE_EXECUTIONS, launch_permission
from opsjobs.model.action import JobAction
from opsjobs.model.api_model import ApiModel
from opsjobs.model.job import LaunchOrder, RunDraft, summarize
from opsjobs.model.parameter import undeclared
from opsjobs.model.retry_request import CancelDraft, RetryDraft
from opsjobs.store.executions import EXECUTIONS, RESULTS, RUNS, ExecutionFind
from opsjobs.store.ledger.control import Resumed
from opsjobs.store.paging import PageRequest

CONTROL = "opsjobs.control"
ORDER_RUNS = 1_000
"""Runs that one order to the workers names."""
AD_HOC = "ad-hoc"

router = APIRouter(tags=["executions"])


LABELS_FIND_MAX = 8
"""Labels that one search may ask for: each looks through executions of its own."""
FilterText = Annotated[
    str, Field(min_length=1, max_length=200, pattern=text_patterns.LINE_OR_NOTHING)
]


class PauseDraft(ApiModel):
    """Body of POST /executions/{id}/pause."""

    reason: str | None = Field(default=None, max_length=2_000)


@router.post(
    "/jobs/{id}/execute",
    status_code=202,
    dependencies=[requires("jobs:execute", Within.OBJECT), Depends(load_job)],
    summary="Execute a job",
    response_model=ExecutionOut,
    responses=LAUNCHED_OR_PREVIEW,
)
async def execute(
    request: Request,
    stored: JobDep,
    idem: Idempotent,
    draft: ExecuteDraft | None = None,
    prefer: Prefer = None,
) -> Response:
    """Launch the job's current version.

    202: the execution is stored, whatever happens next. `dry_run`: 200 with a preview.
    """
    asked = draft or ExecuteDraft()
    check_override(request, asked)
    order = replace(order_of(stored, asked), bounds=bounds(request))
    if asked.dry_run:
        return await render_preview(request, order)
    return await launch(request, order, idem, prefer)


@router.post(
    "/run",
    status_code=202,
    dependencies=[requires(RUN_COMMANDS, Within.BODY)],
    summary="Run actions without a stored job",
    response_model=ExecutionOut,
    responses=LAUNCHED_OR_PREVIEW,
)
async def run(
    request: Request, draft: RunDraft, idem: Idempotent, prefer: Prefer = None
) -> Response:
    """Launch these actions on these targets.

    Naming a credential needs `credentials:use`, too, and an action that runs a job
    `jobs:execute`. `dry_run`: 200 with a preview.
    """
    if any(isinstance(action, JobAction) for action in draft.actions):
        check_permission(request, LAUNCH, within=Within.BODY)
    await check_written(request, draft, RUN_COMMANDS, job_permission=LAUNCH)
    check_override(request, draft)
    declared = undeclared(draft.parameters)
    order = LaunchOrder(
        draft.actions,
        draft.targets,
        draft.policy,
        AD_HOC,
        reason=draft.reason,
        parameters=draft.parameters,
        declared=declared,
        bounds=bounds(request),
        override=draft.override,
        summary=summarize(draft.actions),
    )
    if draft.dry_run:
        return await render_preview(request, order)
    return await launch(request, order, idem, prefer)


@router.get(
    "/executions",
    dependencies=[requires("executions:read", Within.LIST)],
    summary="List executions",
    response_model=ExecutionPageOut,
    responses=PAGED,
)
async def list_(
    *,
    request: Request,
    services: ServicesDep,
    page: Annotated[PageRequest, page_of(EXECUTIONS, also=["q", "target", "label"])],
    q: Annotated[
        FilterText | None,
        Query(description="A text in the name of the job or in the summary, in any case."),
    ] = None,
    target: Annotated[
        FilterText | None, Query(description="Id or name of a target that they run on.")
    ] = None,
    label: Annotated[
        list[FilterText] | None,
        Query(
            max_length=LABELS_FIND_MAX, description="A label that they have, such as `env=prod`."
        ),
    ] = None,
) -> Response:
    """List executions.

    The default order is newest first. `target` and `label` look through the last 10,000
    executions on that target or with that label; for who does not see all executions, `label`
    also looks through the last 10,000 that they see. `q` looks through the summaries of the last
    10,000 executions without a job, or, for who does not see all executions, through the last
    10,000 that they see; if more than 100 jobs have the text in their names, through the last
    10,000 executions instead.
    """
    find = ExecutionFind(q, target, list(dict.fromkeys(label or ())))
    return render_page(
        request, await services.executions.list(page, reach(request), find), render_execution
    )


@router.get(
    "/jobs/{id}/executions",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="List a job's executions",
    response_model=ExecutionPageOut,
    responses=PAGED,
)
async def of_job(
    request: Request,
    services: ServicesDep,
    stored: JobDep,
    page: Annotated[PageRequest, page_of(EXECUTIONS)],
) -> Response:
    """List the executions of a job.

    The default order is newest first.
    """
    only = replace(page, filters={**page.filters, "job_id": [str(stored.job.id)]})
    return render_page(
        request, await services.executions.list(only, reach(request)), render_execution
    )


@router.get(
    "/executions/{id}",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Get an execution",
    response_model=ExecutionDetailOut,
)
async def show(request: Request, services: ServicesDep, execution: ExecutionDep) -> Response:
    """Return the execution.

    `status` is `cancelling` or `paused` while such a request is pending; `waiting_on` says what
    blocks it. `can` and `cannot` are what the caller may do: cancel, pause, resume, retry.
    """
    found = await services.executions.with_waiting_reason(execution)
    actions = Actions(
        request,
        "execution",
        execution.id,
        execution.labels,
        sees=SEE_EXECUTIONS,
        launcher=execution.requested_by,
    )
    refused = await services.ledger.find_control_refusals(execution.id)
    for name, refusal in refused.items():
        if actions.holds(name, "executions:cancel"):
            actions.add(name, refusal)
    if actions.holds("retry", "executions:retry", launch_permission(execution.job_id)):
        actions.add("retry", refuse_unended(execution.id, ended=execution.finished_at is not None))
    return JSONResponse({**render_execution(found), **actions.data()})


@router.get(
    "/executions/{id}/targets",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="List target runs",
    response_model=TargetRunPageOut,
    responses=PAGED,
)
async def targets(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    page: Annotated[PageRequest, page_of(RUNS)],
) -> Response:
    """List the runs of an execution, in the order of launch.

    A waiting run shows what it waits for.
    """
    return render_page(request, await services.executions.runs(execution.id, page))


@router.get(
    "/executions/{id}/results",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="List results",
    response_model=ResultPageOut,
    responses=PAGED,
)
async def results(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    page: Annotated[PageRequest, page_of(RESULTS)],
) -> Response:
    """List the result of each attempt of each action.

    Each has the first 64 KiB of stdout and stderr; the log has every byte. A page ends early if
    its output would exceed 8 MiB.
    """
    return render_page(request, await services.executions.results(execution, page), render_result)


@router.get(
    "/executions/{id}/timeline",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Get the timeline",
    response_model=TimelineOut,
    responses=PAGED,
)
async def timeline(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    page: Annotated[PageRequest, page_of(RUNS)],
) -> Response:
    """List the phases of each target in order, a page of targets at a time."""
    return render_page(
        request, await services.executions.timeline(execution, page), render_phase, name="phases"
    )


@router.post(
    "/executions/{id}/cancel",
    status_code=202,
    dependencies=[requires("executions:cancel", Within.OBJECT), Depends(load_execution)],
    summary="Cancel an execution",
    response_model=CancelledOut,
)
async def cancel(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    draft: CancelDraft | None = None,
) -> Response:
    """Cancel the execution: waiting runs are never started, running ones are stopped.

    `targets` (ids or names): only these; the others continue, and `targets` of the response counts
    their outcomes. `cancel_proof` of each target shows how its run ended. 409 if the execution has
    ended.
    """
    asked = draft or CancelDraft()
    by, reason = principal_of(request).name, asked.reason
    # Orders to workers are only to be quick: with their next renewal they read the ledger, too.
    runs = None
    if asked.targets is None:
        await services.ledger.cancel(execution.id, by=by, reason=reason)
        services.bus.publish(CONTROL, json.dumps({"cancel": execution.id}).encode())
    else:
        runs = await services.ledger.cancel_runs(execution.id, asked.targets, by=by, reason=reason)
        for part in range(0, len(runs.stopping), ORDER_RUNS):
            order = {"cancel_runs": runs.stopping[part : part + ORDER_RUNS]}
            services.bus.publish(CONTROL, json.dumps(order).encode())
    found = render_execution(await read_execution(request, execution.id))
    return JSONResponse({**found, "targets": None if runs is None else runs.data()}, 202)


@router.post(
    "/executions/{id}/pause",
    dependencies=[requires("executions:cancel", Within.OBJECT), Depends(load_execution)],
    summary="Pause an execution",
    response_model=ExecutionOut,
)
async def pause(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    draft: PauseDraft | None = None,
) -> Response:
    """Start no further run of the execution until it is resumed; running ones continue.

    409 if it has ended or is being cancelled.
    """
    await services.ledger.pause(
        execution.id, by=principal_of(request).name, reason=draft.reason if draft else None
    )
    return JSONResponse(render_execution(await read_execution(request, execution.id)))


@router.post(
    "/executions/{id}/resume",
    # Resuming starts work, so the caller is confirmed before the permission is checked.
    dependencies=[
        Depends(confirm_caller),
        requires("executions:cancel", Within.OBJECT),
        Depends(load_execution),
    ],
    summary="Resume an execution",
    response_model=ResumedOut,
)
async def resume(request: Request, services: ServicesDep, execution: ExecutionDep) -> Response:
    """Resume a paused execution; if paused by a gate, open the next wave. Idempotent.

    `accepted`: the failures over `max_fail` that this accepts. 409 under the same conditions as
    pause.
    """
    resumed: Resumed = await services.ledger.resume(execution.id, by=principal_of(request).name)
    for zone in resumed.ready:
        services.notifier.notify(zone)
    accepted = (
        {"failures": resumed.accepts, "max_fail": resumed.max_fail}
        if resumed.accepts is not None
        else None
    )
    return JSONResponse(
        {**render_execution(await read_execution(request, execution.id)), "accepted": accepted}
    )


@router.post(
    "/executions/{id}/retry",
    status_code=202,
    dependencies=[requires("executions:retry", Within.OBJECT), Depends(load_execution)],
    summary="Retry failed targets",
    response_model=ExecutionOut,
    responses=RETRIED_OR_PREVIEW,
)
async def retry(
    *,
    id: str,
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    draft: RetryDraft,
    idem: Idempotent,
    prefer: Prefer = None,
) -> Response:
    """Launch a new execution of the targets that failed, from the step that failed.

    409 before the execution has ended, and `already_retried` if one of the targets was retried
    before, unless `again` is true. `dry_run`: 200 with a preview. Needs `jobs:execute`, too, or
    `commands:run` if the execution has no job.
    """
    launches = launch_permission(execution.job_id)
    check_permission(request, launches, within=Within.OBJECT)
    check_override(request, draft)
    limits = bounds(request, launches)
    seen = principal_of(request).reach(SEE_EXECUTIONS)
    if draft.dry_run:
        return JSONResponse(
            await services.retries.preview(
                id, draft, bounds=limits, reach=seen, requested_by=await requester(request)
            )
        )
    await check_open(request)
    launched = await services.retries.retry(
        id, draft, bounds=limits, reach=seen, idem=idem, requested_by=await requester(request)
    )
    return await render_launch(request, launched, prefer)
