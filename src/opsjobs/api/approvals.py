"""/approvals and /safety: executions that wait for a decision, and the reasons for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, StringConstraints
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Actions, Within, check_confirmed, reach
from opsjobs.api.dependencies import ServicesDep, admit_part, requires
from opsjobs.api.http import page_of, render_page
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.approvals import (
    ApprovalDetailOut,
    ApprovalOut,
    ApprovalPageOut,
    SafetyCheckOut,
    SafetyRulesOut,
)
from opsjobs.api.schemas.responses import PAGED
from opsjobs.composition.services import services_of
from opsjobs.model import text_patterns
from opsjobs.model.access import SEE_EXECUTIONS
from opsjobs.model.api_model import ApiModel, Overriding
from opsjobs.model.approval import Approval
from opsjobs.model.errors import Conflict
from opsjobs.model.program import SCRIPT_BYTES_MAX
from opsjobs.model.safety_verdict import SafetyJudgement
from opsjobs.safety import Context, SafetyQuestion
from opsjobs.safety.rulebook import rulebook
from opsjobs.store.approvals import APPROVALS
from opsjobs.store.ledger.approvals import Ruling
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["approvals"])

ANY_REASON = "-"
"""The reason of an override that is only judged: one is required, and none is recorded."""

Hash = Annotated[str, Field(pattern=text_patterns.SHA256)]


class RejectDraft(ApiModel):
    """Body of POST /approvals/{id}/reject.

    `hash`: of the plan that was reviewed, from GET /approvals/{id}; 409 if it has changed since.
    """

    reason: str | None = Field(default=None, max_length=2_000)
    hash: Hash | None = None


class ApproveDraft(Overriding):
    """Body of POST /approvals/{id}/approve.

    `hash`: as for a rejection. `override_safety`: approve alone, even one's own request.
    """

    hash: Hash | None = None


async def load_approval(id: str, request: Request) -> Approval:
    """Return the approval. Raises NotFound or Forbidden, by the labels of its execution.

    This precedes the check of the body.
    """
    services = services_of(request)
    approval: Approval = await services.approvals.get(id)
    seen = principal_of(request).reach(SEE_EXECUTIONS)
    if reach(request) is not None or seen.only_own:
        await admit_part(request, "approval", id, approval.execution_id)
    return approval


ApprovalDep = Annotated[Approval, Depends(load_approval)]


@router.get(
    "/approvals",
    dependencies=[requires("executions:read", Within.LIST)],
    summary="List approvals",
    response_model=ApprovalPageOut,
    responses=PAGED,
)
async def list_(
    request: Request,
    services: ServicesDep,
    page: Annotated[PageRequest, page_of(APPROVALS, also=["can"])],
    can: Annotated[
        Literal["approve"] | None,
        Query(
            description="Only pending ones that the caller may approve: of the newest 200 within "
            "its scopes."
        ),
    ] = None,
) -> Response:
    """List approvals; `status=pending` are those that are open.

    The default order is newest first.
    """
    if can is not None:
        found = await services.approval_service.find_approvable(principal_of(request))
        page = replace(page, among=found)
    return render_page(request, await services.approvals.list(page, reach(request)))


@router.get(
    "/approvals/{id}",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Get an approval",
    response_model=ApprovalDetailOut,
)
async def show(request: Request, services: ServicesDep, approval: ApprovalDep) -> Response:
    """Return the approval, what would run where (`would_run`), its hash, and the decisions.

    `can` and `cannot` are what the caller may do: approve, reject, or override the others.
    """
    owned = await services.executions.ownership(approval.execution_id)
    actions = Actions(
        request, "approval", approval.id, owned.labels, sees=SEE_EXECUTIONS, launcher=owned.launcher
    )
    principal = principal_of(request)
    rulings = {
        name: ruling
        for name, ruling in (
            ("approve", Ruling(principal, approve=True)),
            ("reject", Ruling(principal, approve=False)),
            ("override", Ruling(principal, approve=True, override=True, reason=ANY_REASON)),
        )
        if actions.holds(
            name, "approvals:decide", *(["safety:override"] if ruling.override else [])
        )
    }
    refusals = await services.approval_service.find_refusals(approval, *rulings.values())
    for name, refusal in zip(rulings, refusals, strict=True):
        actions.add(name, refusal)
    return JSONResponse({**await services.approval_service.show(approval), **actions.data()})


_DECIDES = requires("approvals:decide", Within.OBJECT)


@router.post(
    "/approvals/{id}/approve",
    dependencies=[_DECIDES, Depends(load_approval)],
    summary="Approve",
    response_model=ApprovalOut,
)
async def approve(
    request: Request,
    services: ServicesDep,
    approval: ApprovalDep,
    draft: ApproveDraft | None = None,
) -> Response:
    """Approve. With the last of the required `approvers` the execution continues.

    403 `self_approval` for the caller who requested it, 403 `author_approval` for the author of
    what will run.
    """
    decision = draft or ApproveDraft()
    if decision.override_safety:
        check_confirmed(request)
    ruling = Ruling(
        principal_of(request), True, decision.reason, decision.hash, decision.override_safety
    )
    return await _answer(request, await services.approval_service.decide(approval, ruling))


@router.post(
    "/approvals/{id}/reject",
    dependencies=[_DECIDES, Depends(load_approval)],
    summary="Reject",
    response_model=ApprovalOut,
)
async def reject(
    request: Request, services: ServicesDep, approval: ApprovalDep, draft: RejectDraft | None = None
) -> Response:
    """Reject, which is final: waiting runs are cancelled.

    An execution that has not begun ends as rejected.
    """
    decision = draft or RejectDraft()
    ruling = Ruling(principal_of(request), False, decision.reason, decision.hash)
    return await _answer(request, await services.approval_service.decide(approval, ruling))


async def _answer(request: Request, decided: Approval) -> Response:
    services = services_of(request)
    for zone in await services.executions.list_waiting_zones(decided.execution_id):
        services.notifier.notify(zone)
    return JSONResponse(decided.data())


# --- the safety check: of a text, and its rules


LABELS_MAX = 100
TARGETS_MAX = 1_000_000

safety_router = APIRouter(tags=["safety"])

Label = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class SafetyDraft(ApiModel):
    """Body of POST /safety/check: a text, its interpreter, and its targets.

    `labels`: of the targets, such as `env=prod`; `targets`: their number; `share_of_targets`: their
    share of all targets, 0 to 1.
    """

    interpreter: str = Field(default="bash", min_length=1, max_length=200)
    text: str = Field(max_length=SCRIPT_BYTES_MAX)
    labels: list[Label] = Field(default=[], max_length=LABELS_MAX)
    become: bool = False
    share_of_targets: float = Field(default=0, ge=0, le=1)
    targets: int = Field(default=0, ge=0, le=TARGETS_MAX)


@safety_router.post(
    "/safety/check",
    dependencies=[requires("jobs:read", Within.ANYWHERE)],
    summary="Check a text",
    response_model=SafetyCheckOut,
)
async def check(services: ServicesDep, draft: SafetyDraft) -> Response:
    """Return the findings of the safety check for a command line or a script, and the verdict.

    Nothing is stored or run.
    """
    pool = services.safety_pool
    if pool is None:
        raise Conflict(
            "safety_off",
            "The safety check is off. Set ENABLE_SAFETY_CHECKS=on for the API.",
        )
    context = Context(frozenset(draft.labels), draft.share_of_targets, draft.targets, draft.become)
    return JSONResponse(
        SafetyJudgement(
            await pool.check_for_user(SafetyQuestion(draft.interpreter, draft.text, context))
        ).data()
    )


@safety_router.get(
    "/safety/rules",
    dependencies=[requires("jobs:read", Within.ANYWHERE)],
    summary="List safety rules",
    response_model=SafetyRulesOut,
)
async def rules() -> Response:
    """Return all rules: severity, when it is stricter, reason, and an example that it finds."""
    return JSONResponse({"items": [rule.data() for rule in rulebook().rules]})
