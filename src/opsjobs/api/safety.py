"""/safety: check a text, and list the rules of the safety check."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, StringConstraints
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within
from opsjobs.api.dependencies import requires
from opsjobs.api.schemas.safety import SafetyCheckOut, SafetyRulesOut
from opsjobs.api.services import ServicesDep
from opsjobs.model.api_model import ApiModel
from opsjobs.model.errors import Conflict
from opsjobs.model.program import SCRIPT_BYTES_MAX
from opsjobs.model.safety_verdict import SafetyJudgement
from opsjobs.safety import Context, SafetyQuestion
from opsjobs.safety.rulebook import rulebook

LABELS_MAX = 100
TARGETS_MAX = 1_000_000

router = APIRouter(tags=["safety"])

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


@router.post(
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


@router.get(
    "/safety/rules",
    dependencies=[requires("jobs:read", Within.ANYWHERE)],
    summary="List safety rules",
    response_model=SafetyRulesOut,
)
async def rules() -> Response:
    """Return all rules: severity, when it is stricter, reason, and an example that it finds."""
    return JSONResponse({"items": [rule.data() for rule in rulebook().rules]})
