"""/triggers and /hooks: URLs that launch a job, and their calls.

A call needs no token; it proves the trigger's secret instead.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import FIELDS, Actions, Within, admit, check_permission, reach
from opsjobs.api.body import parse_json
from opsjobs.api.dependencies import (
    Idempotent,
    JobDep,
    ServicesDep,
    TriggerDep,
    load_job,
    load_trigger,
    requires,
)
from opsjobs.api.http import page_of, render_page, render_replayed
from opsjobs.api.launches import owner
from opsjobs.api.paths import HOOK, build_location
from opsjobs.api.resource import Edit, edit, put_and_patch
from opsjobs.api.schemas.responses import CREATED, HOOKED, PAGED
from opsjobs.api.schemas.schedules import (
    HookResultOut,
    NewTriggerOut,
    TriggerCallListOut,
    TriggerDetailOut,
    TriggerOut,
    TriggerPageOut,
)
from opsjobs.composition.services import services_of
from opsjobs.engine.launching.trigger_calls import HookRequest, HookResult
from opsjobs.model import text_patterns
from opsjobs.model.access import Principal
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.secret import Secret
from opsjobs.model.trigger import CallOutcome, JobTriggerDraft, check_sources
from opsjobs.store.idempotency import Answer
from opsjobs.store.paging import PageRequest
from opsjobs.store.triggers import TRIGGERS, StoredTrigger

router = APIRouter(tags=["triggers"])
_MANAGES = [requires("triggers:manage", Within.OBJECT), Depends(load_trigger)]


@router.post(
    "/jobs/{id}/triggers",
    status_code=201,
    dependencies=[requires("triggers:manage", Within.OBJECT), Depends(load_job)],
    summary="Create a trigger",
    response_model=NewTriggerOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, job: JobDep, draft: JobTriggerDraft, idem: Idempotent
) -> Response:
    """Create a URL that launches the job, and return its secret, this once.

    It launches the job in the name of the caller, whose rights are checked at each call. Needs
    `jobs:execute`, too.
    """
    by = await _launching(request, job.labels, "job", job.job.id)
    check_sources(job.job.definition.parameters, draft)
    _check_expiry(services.clock.now(), draft)
    made = await services.job_triggers.create(str(job.job.id), draft, by.identity, idem)
    if isinstance(made, Answer):
        return render_replayed(request, made)
    trigger, secret = made
    location = build_location(request, f"/triggers/{trigger.id}")
    return JSONResponse(_with_secret(trigger, secret), 201, {"Location": location})


@router.get(
    "/jobs/{id}/triggers",
    dependencies=[requires("triggers:read", Within.OBJECT)],
    summary="List a job's triggers",
    response_model=TriggerPageOut,
    responses=PAGED,
)
async def of_job(
    request: Request,
    services: ServicesDep,
    stored: JobDep,
    page: Annotated[PageRequest, page_of(TRIGGERS)],
) -> Response:
    """List the triggers of a job without their secrets, each with its last call.

    The default order is newest first.
    """
    mine = {**page.filters, "job_id": [str(stored.job.id)]}
    wanted = PageRequest(page.limit, page.cursor, page.sort, page.page, mine)
    return render_page(request, await services.job_triggers.list(wanted, reach(request)))


@router.get(
    "/triggers",
    dependencies=[requires("triggers:read", Within.LIST)],
    summary="List triggers",
    response_model=TriggerPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(TRIGGERS)]
) -> Response:
    """List triggers without their secrets, each with its last call.

    The default order is newest first.
    """
    return render_page(request, await services.job_triggers.list(page, reach(request)))


@router.get(
    "/triggers/{id}",
    dependencies=[requires("triggers:read", Within.OBJECT)],
    summary="Get a trigger",
    response_model=TriggerDetailOut,
)
async def show(request: Request, services: ServicesDep, trigger: TriggerDep) -> Response:
    """Return the trigger without its secret, with its last call.

    `can` and `cannot` are what the caller may do: update, enable, disable, rotate, delete.
    """
    labels = await services.job_triggers.labels(trigger)
    actions = Actions(request, "trigger", trigger.id, labels, sees="triggers:read")
    for name in ("update", "enable", "rotate"):
        actions.allow(name, "triggers:manage", "jobs:execute")
    for name in ("disable", "delete"):
        actions.allow(name, "triggers:manage")
    return JSONResponse({**trigger.data(), **actions.data()})


@router.get(
    "/triggers/{id}/calls",
    dependencies=[requires("triggers:read", Within.OBJECT)],
    summary="List a trigger's calls",
    response_model=TriggerCallListOut,
)
async def calls(services: ServicesDep, trigger: TriggerDep) -> Response:
    """List the last 100 calls, the newest first: their outcomes, and the reasons.

    An entry of a refused call can represent several calls (`times`) of the same kind.
    """
    found = await services.job_triggers.calls(trigger)
    return JSONResponse({"items": [call.data() for call in found], "next": None})


Changed = Annotated[
    Edit[JobTriggerDraft],
    edit(JobTriggerDraft, load_trigger, volatile=["calls", "last_call", *FIELDS]),
]


@put_and_patch(
    router,
    "/triggers/{id}",
    dependencies=_MANAGES,
    thing="a trigger",
    response_model=TriggerOut,
)
async def replace(
    request: Request, services: ServicesDep, trigger: TriggerDep, change: Changed
) -> Response:
    """Replace the trigger, owned by the caller from now on; its URL and its secret stay.

    Needs `jobs:execute`, too.
    """
    by = await _launching_of(request, trigger)
    job = await services.jobs.get(str(trigger.job_id))
    check_sources(job.job.definition.parameters, change.draft)
    if change.draft.expires_at != trigger.draft.expires_at:
        _check_expiry(services.clock.now(), change.draft)
    changed = await services.job_triggers.replace(
        trigger.id, change.draft, by.identity, basis=change.basis
    )
    return JSONResponse(changed.data())


@router.post(
    "/triggers/{id}/enable",
    dependencies=_MANAGES,
    summary="Enable a trigger",
    response_model=TriggerOut,
)
async def enable(request: Request, services: ServicesDep, trigger: TriggerDep) -> Response:
    """Accept calls of the trigger again. Idempotent. Needs `jobs:execute`, too.

    If its owner is deleted, disabled or expired, the caller becomes the owner.
    """
    by = await _launching_of(request, trigger)
    ended = await services.platform_users.has_ended(trigger.owner)
    new_owner = by.identity if ended else None
    changed = await services.job_triggers.switch(trigger.id, enabled=True, owner=new_owner)
    return JSONResponse(changed.data())


@router.post(
    "/triggers/{id}/disable",
    dependencies=_MANAGES,
    summary="Disable a trigger",
    response_model=TriggerOut,
)
async def disable(services: ServicesDep, trigger: TriggerDep) -> Response:
    """Refuse calls with 404 until the trigger is enabled. Idempotent."""
    changed = await services.job_triggers.switch(trigger.id, enabled=False)
    return JSONResponse(changed.data())


@router.post(
    "/triggers/{id}/rotate",
    dependencies=_MANAGES,
    summary="Rotate a trigger's secret",
    response_model=NewTriggerOut,
)
async def rotate(request: Request, services: ServicesDep, trigger: TriggerDep) -> Response:
    """Replace the secret, and return the new one, this once. The old one is refused at once.

    The caller becomes the owner. Needs `jobs:execute`, too.
    """
    by = await _launching_of(request, trigger)
    changed, secret = await services.job_triggers.rotate(trigger.id, by.identity)
    return JSONResponse(_with_secret(changed, secret))


@router.delete("/triggers/{id}", status_code=204, dependencies=_MANAGES, summary="Delete a trigger")
async def delete(services: ServicesDep, trigger: TriggerDep) -> Response:
    """Delete the trigger and its calls. Executions that it has launched stay and continue."""
    await services.job_triggers.delete(trigger.id)
    return Response(status_code=204)


async def _launching_of(request: Request, trigger: StoredTrigger) -> Principal:
    labels = await services_of(request).job_triggers.labels(trigger)
    return await _launching(request, labels, "trigger", trigger.id)


async def _launching(request: Request, labels: Any, noun: str, ref: int) -> Principal:
    """Return the caller as the owner of later launches of the job with these labels.

    Raises Forbidden if the caller may not execute the job.
    """
    check_permission(request, "jobs:execute", within=Within.OBJECT)
    sees = "jobs:read" if noun == "job" else "triggers:read"
    admit(request, noun, ref, labels, sees=sees, permission="jobs:execute")
    return await owner(request)


def _with_secret(trigger: StoredTrigger, secret: Secret) -> dict[str, Any]:
    return {**trigger.data(), "secret": secret.reveal()}


def _check_expiry(now: Any, draft: JobTriggerDraft) -> None:
    if draft.expires_at is not None and draft.expires_at <= now:
        detail = "expires_at is in the past. Send a later time, or leave it out."
        raise Invalid(
            "already_expired", detail, errors=[FieldError("/expires_at", detail, "already_expired")]
        )


# --- calls, which need no token and prove the trigger's secret instead


# The uuid that is looked up for a path that has none: no trigger has it.
_NO_TRIGGER = UUID(int=0)
_EMPTY = hashlib.sha256(b"").digest()


@router.post(
    HOOK,
    status_code=202,
    summary="Call a trigger",
    response_model=HookResultOut,
    responses=HOOKED,
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": {}}}}},
)
async def call(id: str, request: Request, services: ServicesDep) -> Response:
    """Launch the job of the trigger with this uuid, in the name of its owner.

    The request proves the trigger's secret in the form that `verify` of the trigger sets. 202: the
    execution is stored; a repeated delivery gets the same response. 200: nothing is launched,
    because of a condition of the trigger, or it is GitHub's `ping`. 404: there is no such trigger,
    it is disabled or expired, or the secret is not proven.
    """
    result = await services.trigger_calls.call(
        HookRequest(
            uuid=UUID(id) if text_patterns.UUID.fullmatch(id) else _NO_TRIGGER,
            headers=dict(request.headers),
            body=getattr(request.state, "body", b""),
            parse=parse_json,
            address=request.state.address,
            request_id=request.state.request_id,
        ),
        body_sha256=getattr(request.state, "body_sha256", _EMPTY),
        check_open=request.app.state.open_executions.check,
    )
    return _render_result(result)


def _render_result(result: HookResult) -> Response:
    repeated = result.outcome is CallOutcome.REPEATED
    launched = result.execution
    body: dict[str, Any] = {
        "outcome": (CallOutcome.LAUNCHED if repeated else result.outcome).value,
        "reason": result.reason,
        "execution": launched
        and {name: launched[name] for name in ("id", "uuid", "number", "status")},
    }
    headers = {"Idempotency-Replayed": "true"} if repeated else None
    return JSONResponse(body, 200 if launched is None else 202, headers)
