"""/hooks: calls of triggers, which need no token and prove the trigger's secret instead."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.body import parse_json
from opsjobs.api.paths import HOOK
from opsjobs.api.schemas.responses import HOOKED
from opsjobs.api.schemas.triggers import HookResultOut
from opsjobs.api.services import ServicesDep
from opsjobs.engine.launching.trigger_calls import HookRequest, HookResult
from opsjobs.model import text_patterns
from opsjobs.model.trigger import CallOutcome

router = APIRouter(tags=["triggers"])
# The uuid that is looked up for a path that has none: no trigger has it.
_NONE = UUID(int=0)
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
            uuid=UUID(id) if text_patterns.UUID.fullmatch(id) else _NONE,
            headers=dict(request.headers),
            body=getattr(request.state, "body", b""),
            parse=parse_json,
            address=request.state.address,
            request_id=request.state.request_id,
        ),
        body_sha256=getattr(request.state, "body_sha256", _EMPTY),
        check_open=request.app.state.open_executions.check,
    )
    return _render(result)


def _render(result: HookResult) -> Response:
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
