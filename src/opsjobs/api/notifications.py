"""/notifications: the default rules, and trials of channels; /deliveries: what was sent."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within
from opsjobs.api.dependencies import ServicesDep, requires
from opsjobs.api.http import page_of, render_page
from opsjobs.api.job_checks import check_notify, check_rules
from opsjobs.api.resource import Edit, edit, put_and_patch
from opsjobs.api.schemas.deliveries import (
    NotificationDefaultOut,
    NotificationTestOut,
    OutgoingDeliveryOut,
    OutgoingDeliveryPageOut,
)
from opsjobs.api.schemas.responses import PAGED
from opsjobs.composition.services import services_of
from opsjobs.model.notification import NotificationDefaultDraft, NotificationRule
from opsjobs.store import audit
from opsjobs.store.delivery_log import OUTGOING
from opsjobs.store.notifications import StoredDefault
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["notifications"])


async def load_default(request: Request) -> StoredDefault:
    """Return the default rules."""
    return await services_of(request).notifications.default()


@router.get(
    "/notifications/default",
    dependencies=[requires("system:read")],
    summary="Get the default notifications",
    response_model=NotificationDefaultOut,
)
async def show(default: Annotated[StoredDefault, Depends(load_default)]) -> Response:
    """Return the rules of all jobs and schedules that have no `notify` of their own."""
    return JSONResponse(default.data())


@put_and_patch(
    router,
    "/notifications/default",
    dependencies=[requires("system:admin"), Depends(load_default)],
    thing="the default notifications",
    response_model=NotificationDefaultOut,
)
async def replace(
    request: Request,
    services: ServicesDep,
    change: Annotated[Edit[NotificationDefaultDraft], edit(NotificationDefaultDraft, load_default)],
) -> Response:
    """Replace the default rules, for what happens from now on.

    A name that a rule uses must exist (422). Naming a credential needs `credentials:use`, too.
    """
    await check_notify(request, change.draft.notify, "/notify")
    stored = await services.notifications.set_default(change.draft, basis=change.basis)
    return JSONResponse(stored.data())


@router.post(
    "/notifications/test",
    dependencies=[requires("jobs:update", Within.ANYWHERE)],
    summary="Try a channel",
    response_model=NotificationTestOut,
)
async def try_channel(
    request: Request,
    services: ServicesDep,
    rule: NotificationRule,
    dry_run: Annotated[bool, Query(description="Check the rule, and send nothing.")] = False,
) -> Response:
    """Send a test message to each recipient of a rule now, once, and return the outcomes.

    Quiet rules do not apply, and nothing is retried. The rule is checked as in a job;
    `dry_run`: it is only checked.
    """
    await check_rules(request, {"": rule})
    if dry_run:
        return JSONResponse({"items": []})
    after = {"channel": rule.channel.value, "to": list(rule.to)}
    await audit.note(services.database, "notification.tested", "notification", None, after=after)
    trials = await services.notification_channels.try_out(
        rule, webhooks=services.webhook_destination
    )
    return JSONResponse({"items": [trial.data() for trial in trials]})


@router.get(
    "/deliveries",
    dependencies=[requires("system:read")],
    summary="List outgoing deliveries",
    response_model=OutgoingDeliveryPageOut,
    responses=PAGED,
)
async def deliveries(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(OUTGOING)]
) -> Response:
    """List the messages to channels of notifications and to the Audit Service.

    The newest come first. `status=failed` are those that were given up. Those to webhooks are in
    the log of each webhook.
    """
    return render_page(request, await services.outgoing_deliveries.list(page))


@router.get(
    "/deliveries/{id}",
    dependencies=[requires("system:read")],
    summary="Get an outgoing delivery",
    response_model=OutgoingDeliveryOut,
)
async def delivery(id: str, services: ServicesDep) -> Response:
    """Return the delivery with its last attempt."""
    return JSONResponse((await services.outgoing_deliveries.get(id)).data())


@router.post(
    "/deliveries/{id}/redeliver",
    status_code=202,
    dependencies=[requires("system:admin")],
    summary="Send an outgoing message again",
    response_model=OutgoingDeliveryOut,
)
async def redeliver(id: str, services: ServicesDep) -> Response:
    """Queue the message of a delivery that has ended again, with the same id.

    Returns the new delivery. 409 while the delivery is pending.
    """
    return JSONResponse((await services.outgoing_deliveries.redeliver(id)).data(), 202)
