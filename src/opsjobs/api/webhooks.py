"""/webhooks: URLs that get events, what was delivered to them, and their secrets.

A caller who holds the permission within a scope has webhooks of its own, and sees no others.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import FIELDS, Actions, Within, permission_of
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires
from opsjobs.api.http import page_of, render_page, render_replayed
from opsjobs.api.launches import owner
from opsjobs.api.paths import build_location
from opsjobs.api.request import principal_of
from opsjobs.api.resource import Edit, edit, put_and_patch
from opsjobs.api.schemas.deliveries import (
    DeliveryOut,
    DeliveryPageOut,
    NewWebhookOut,
    WebhookDetailOut,
    WebhookOut,
    WebhookPageOut,
)
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.composition.services import services_of
from opsjobs.model.access import Principal
from opsjobs.model.errors import Conflict
from opsjobs.model.webhook import SecretRotation, WebhookDraft
from opsjobs.store.delivery_log import DELIVERIES
from opsjobs.store.idempotency import Answer
from opsjobs.store.paging import PageRequest
from opsjobs.store.webhooks import WEBHOOKS, StoredWebhook

router = APIRouter(tags=["webhooks"])
_MANAGES = requires("webhooks:manage", Within.ANYWHERE)


def _only_own(request: Request) -> Principal | None:
    """Return the caller if it may see its own webhooks only, else None."""
    caller = principal_of(request)
    return None if caller.reach(permission_of(request)).everywhere else caller


async def load_webhook(id: str, request: Request) -> StoredWebhook:
    """Return the webhook in the path. Raises NotFound before the body is validated."""
    found: StoredWebhook = await services_of(request).webhooks.get(id, _only_own(request))
    return found


WebhookDep = Annotated[StoredWebhook, Depends(load_webhook)]


@router.post(
    "/webhooks",
    status_code=201,
    dependencies=[_MANAGES],
    summary="Create a webhook",
    response_model=NewWebhookOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, draft: WebhookDraft, idem: Idempotent
) -> Response:
    """Create a webhook and return its secret, this once. It belongs to the caller.

    It receives matching events from now on that the caller may see; the rights are checked
    again at each delivery.
    """
    services.webhook_client.check_url(draft.url)
    made = await services.webhooks.create(draft, await owner(request), idem)
    if isinstance(made, Answer):
        return render_replayed(request, made)
    webhook, secret = made
    return JSONResponse(
        {**webhook.data(), "secret": secret.reveal()},
        201,
        {"Location": build_location(request, f"/webhooks/{webhook.id}")},
    )


@router.get(
    "/webhooks",
    dependencies=[_MANAGES],
    summary="List webhooks",
    response_model=WebhookPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(WEBHOOKS)]
) -> Response:
    """List webhooks without their secrets. The default order is by name."""
    return render_page(request, await services.webhooks.list(page, _only_own(request)))


@router.get(
    "/webhooks/{id}",
    dependencies=[_MANAGES],
    summary="Get a webhook",
    response_model=WebhookDetailOut,
)
async def show(request: Request, webhook: WebhookDep) -> Response:
    """Return the webhook without its secret.

    `can` and `cannot` are what the caller may do: update, rotate, test, redeliver, delete.
    """
    actions = Actions(request, "webhook", webhook.id, None, sees="webhooks:manage")
    for name in ("update", "rotate", "delete"):
        actions.add(name, None)
    for name in ("test", "redeliver"):
        with actions.checking(name):
            _check_enabled(webhook)
    return JSONResponse({**webhook.data(), **actions.data()})


@put_and_patch(
    router,
    "/webhooks/{id}",
    dependencies=[_MANAGES, Depends(load_webhook)],
    thing="a webhook",
    response_model=WebhookOut,
)
async def replace(
    request: Request,
    services: ServicesDep,
    webhook: WebhookDep,
    change: Annotated[
        Edit[WebhookDraft],
        edit(
            WebhookDraft,
            load_webhook,
            volatile=["failures", "failing_since", "disabled_reason", *FIELDS],
        ),
    ],
) -> Response:
    """Replace the webhook, except its secret. Its owner stays, and so do its rights.

    Disabling it cancels what is pending; enabling it again begins with the next event.
    """
    services.webhook_client.check_url(change.draft.url)
    stored = await services.webhooks.replace(
        str(webhook.id), change.draft, principal_of(request), basis=change.basis
    )
    return JSONResponse(stored.data())


@router.delete(
    "/webhooks/{id}",
    status_code=204,
    dependencies=[_MANAGES],
    summary="Delete a webhook",
)
async def delete(services: ServicesDep, webhook: WebhookDep) -> Response:
    """Delete the webhook with the log of its deliveries."""
    await services.webhooks.delete(str(webhook.id))
    return Response(status_code=204)


@router.post(
    "/webhooks/{id}/rotate",
    dependencies=[_MANAGES, Depends(load_webhook)],
    summary="Rotate a webhook's secret",
    response_model=NewWebhookOut,
)
async def rotate(services: ServicesDep, webhook: WebhookDep, rotation: SecretRotation) -> Response:
    """Make a new secret and return it, this once.

    For `overlap` (default a day), messages are also signed with the old one.
    """
    stored, secret = await services.webhooks.rotate(str(webhook.id), rotation.overlap)
    return JSONResponse({**stored.data(), "secret": secret.reveal()})


@router.post(
    "/webhooks/{id}/test",
    status_code=202,
    dependencies=[_MANAGES],
    summary="Send a test message",
    response_model=DeliveryOut,
)
async def test(request: Request, services: ServicesDep, webhook: WebhookDep) -> Response:
    """Queue a message of type `webhook.test`, and return its delivery.

    It is delivered like any other message; GET of the delivery shows its outcome.
    """
    _check_enabled(webhook)
    delivery = await services.webhooks.send_test(webhook)
    return await _accepted(request, webhook, delivery)


@router.get(
    "/webhooks/{id}/deliveries",
    dependencies=[_MANAGES],
    summary="List deliveries",
    response_model=DeliveryPageOut,
    responses=PAGED,
)
async def list_deliveries(
    request: Request,
    services: ServicesDep,
    webhook: WebhookDep,
    page: Annotated[PageRequest, page_of(DELIVERIES)],
) -> Response:
    """List the deliveries to the webhook with their last attempts, newest first."""
    return render_page(request, await services.delivery_log.list(webhook.receiver, page))


@router.get(
    "/webhooks/{id}/deliveries/{delivery}",
    dependencies=[_MANAGES],
    summary="Get a delivery",
    response_model=DeliveryOut,
)
async def show_delivery(services: ServicesDep, webhook: WebhookDep, delivery: str) -> Response:
    """Return one delivery with its last attempt."""
    return JSONResponse((await services.delivery_log.get(webhook.receiver, delivery)).data())


@router.post(
    "/webhooks/{id}/deliveries/{delivery}/redeliver",
    status_code=202,
    dependencies=[_MANAGES],
    summary="Deliver again",
    response_model=DeliveryOut,
)
async def redeliver(
    request: Request, services: ServicesDep, webhook: WebhookDep, delivery: str
) -> Response:
    """Queue the message of a delivery that has ended again, with the same `webhook-id`."""
    _check_enabled(webhook)
    made = await services.webhooks.redeliver(webhook, delivery)
    return await _accepted(request, webhook, made)


async def _accepted(request: Request, webhook: StoredWebhook, delivery: int) -> Response:
    shown = await services_of(request).delivery_log.get(webhook.receiver, delivery)
    location = build_location(request, f"/webhooks/{webhook.id}/deliveries/{delivery}")
    body: dict[str, Any] = shown.data()
    return JSONResponse(body, 202, {"Location": location})


def _check_enabled(webhook: StoredWebhook) -> None:
    if not webhook.enabled:
        raise Conflict(
            "webhook_disabled", f"The webhook {webhook.name!r} is disabled: enable it first."
        )
