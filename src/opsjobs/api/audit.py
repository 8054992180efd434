"""/audit: the audit log, and the proof that it is complete."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import check_permission
from opsjobs.api.dependencies import ServicesDep, requires
from opsjobs.api.http import page_of, render_page
from opsjobs.api.schemas.responses import LINES, PAGED
from opsjobs.api.schemas.system import AnchorOut, AuditPageOut, VerificationOut
from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.store import audit
from opsjobs.store.audit_log import AUDIT
from opsjobs.store.paging import PageRequest
from opsjobs.store.reference import BIGINT_MAX

router = APIRouter(tags=["audit"])

After = Annotated[
    int | None, Query(ge=0, le=BIGINT_MAX, description="Start after the entry with this `seal`.")
]


class AnchorDraft(ApiModel):
    """Body of POST /audit/anchor."""

    reason: str = Field(min_length=1, max_length=2_000)


# Takes the permission without a scope: the log is about everything.
_READS = [requires("audit:read")]


@router.get(
    "/audit",
    dependencies=_READS,
    summary="List the audit log",
    response_model=AuditPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(AUDIT)]
) -> Response:
    """List entries; `before` and `after` show what changed.

    The default order is newest first. `seal` and `hash` are set within seconds,
    when an entry is sealed.
    """
    return render_page(request, await services.audit_log.list(page), dict)


@router.get(
    "/audit/verify",
    dependencies=_READS,
    summary="Verify the audit log",
    response_model=VerificationOut,
)
async def verify(
    services: ServicesDep,
    after: After = None,
    head: Annotated[
        str | None,
        Query(
            pattern=text_patterns.SHA256,
            description="A `head` recorded earlier, which the chain must contain.",
        ),
    ] = None,
) -> Response:
    """Verify 2,000 entries of the chain.

    `broken`: the first entry that does not match. `next`: the `after` of the next call, null at
    the end. `unsealed`: entries that were not sealed within 10 s. `head`: the end of the chain;
    store it elsewhere, and send it as `head` later.
    """
    return JSONResponse((await services.audit_log.verify(after=after, noted=head)).data())


@router.get(
    "/audit/export",
    dependencies=_READS,
    summary="Export the audit log",
    response_class=Response,
    responses=LINES,
)
async def export(services: ServicesDep, after: After = None) -> Response:
    """Return at most 2,000 sealed entries, one JSON object a line.

    `opsjobs audit verify --file` verifies them without the service.
    """
    rows = await services.audit_log.copy(after)
    if rows:
        span = {"from": rows[0]["seal"], "to": rows[-1]["seal"]}
        await audit.note(services.database, "audit.exported", "audit_log", None, after=span)
    lines = "".join(
        json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows
    )
    return Response(lines, media_type="application/x-ndjson")


@router.post(
    "/audit/anchor",
    dependencies=[requires("system:admin")],
    summary="Anchor the audit log",
    response_model=AnchorOut,
)
async def anchor(request: Request, services: ServicesDep, draft: AnchorDraft) -> Response:
    """Start a new chain after all entries, if it is permanently broken or a key is lost.

    Recorded in the log. The entries before cannot be verified from then on. Needs `audit:read`,
    too.
    """
    check_permission(request, "audit:read")
    base = await services.seals.anchor(draft.reason)
    return JSONResponse({"base": str(base)})
