"""/services: services that sign their own tokens and may act for users."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import requires
from opsjobs.api.authorization import ReuseName, check_grantable, check_holds, check_reuse_name
from opsjobs.api.http import Idempotent, page_of, render_created, render_page
from opsjobs.api.request import ServicesDep, principal_of, services_of
from opsjobs.api.schemas.access import ServiceOut, ServicePageOut
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.api.updates import Edit, edit, put_and_patch
from opsjobs.identity.service_tokens import load_public_key
from opsjobs.model.api_model import ApiModel
from opsjobs.model.errors import Conflict, FieldError
from opsjobs.model.grants import Grants
from opsjobs.model.target import Name
from opsjobs.store.idempotency import Answer
from opsjobs.store.identities.services import SERVICES, Service
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["access"])


class ServiceDraft(ApiModel):
    """Body of PUT /services/{id}. `name` is its client id; `public_key` a PEM."""

    name: Name
    public_key: str = Field(min_length=1, max_length=16_384)
    grants: Grants
    disabled: bool = False


class NewServiceDraft(ServiceDraft):
    """Body of POST /services."""

    reuse_name: ReuseName = False


async def load_service(id: str, request: Request) -> Service:
    """The service; raises NotFound before the body is judged."""
    service: Service = await services_of(request).identities.services.get(id)
    return service


@router.post(
    "/services",
    status_code=201,
    dependencies=[requires("system:admin")],
    summary="Register a service",
    response_model=ServiceOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, draft: NewServiceDraft, idem: Idempotent
) -> Response:
    """Accept tokens that the service signs. Callers grant only what they hold themselves."""
    load_public_key(draft.public_key)
    check_grantable(request, draft.grants)
    check_reuse_name(request, reuse_name=draft.reuse_name)
    kept = [grant.dump() for grant in draft.grants]
    service = await services.identities.services.create(
        draft.name,
        draft.public_key,
        kept,
        disabled=draft.disabled,
        reuse_name=draft.reuse_name,
        idem=idem,
        by=principal_of(request),
    )
    return render_created(
        request, "" if isinstance(service, Answer) else f"/services/{service.id}", service
    )


@router.get(
    "/services",
    dependencies=[requires("system:admin")],
    summary="List services",
    response_model=ServicePageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(SERVICES)]
) -> Response:
    """List services, by name unless `sort` says otherwise."""
    return render_page(request, await services.identities.services.list(page))


@router.get(
    "/services/{id}",
    dependencies=[requires("system:admin")],
    summary="Get a service",
    response_model=ServiceOut,
)
async def show(id: str, services: ServicesDep) -> Response:
    """Return the service with its public key."""
    return JSONResponse((await services.identities.services.get(id)).data())


@put_and_patch(
    router,
    "/services/{id}",
    dependencies=[requires("system:admin"), Depends(load_service)],
    thing="a service",
    response_model=ServiceOut,
)
async def replace(
    id: str,
    request: Request,
    services: ServicesDep,
    change: Annotated[Edit[ServiceDraft], edit(ServiceDraft, load_service)],
) -> Response:
    """Replace the key and the grants, effective at once. `name` cannot change.

    The caller becomes the one who is responsible for the service.
    """
    draft = change.draft
    before = await services.identities.services.get(id)
    check_holds(request, f"The service {before.name}", before.grants)
    if draft.name != before.name:
        detail = (
            f"A service's name cannot change: it is {before.name}. "
            f"Register another service named {draft.name}."
        )
        raise Conflict("name_stays", detail, errors=[FieldError("/name", detail, "name_stays")])
    load_public_key(draft.public_key)
    check_grantable(request, draft.grants)
    kept = [grant.dump() for grant in draft.grants]
    by = principal_of(request)
    changed = await services.identities.services.replace(
        id, draft.public_key, kept, disabled=draft.disabled, basis=change.basis, by=by
    )
    return JSONResponse(changed.data())


@router.delete(
    "/services/{id}",
    status_code=204,
    dependencies=[requires("system:admin")],
    summary="Delete a service",
)
async def delete(id: str, request: Request, services: ServicesDep) -> Response:
    """Delete the service. Its tokens are refused from now on."""
    gone = await services.identities.services.get(id)
    check_holds(request, f"The service {gone.name}", gone.grants)
    await services.identities.services.delete(id)
    return Response(status_code=204)
