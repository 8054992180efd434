"""/services: services that sign their own tokens and may act for users."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import ReuseName, check_grantable, check_holds, check_reuse_name
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires
from opsjobs.api.http import render_created
from opsjobs.api.request import principal_of
from opsjobs.api.resource import Edit, Resource, edit, put_and_patch
from opsjobs.api.schemas.access import ServiceOut, ServicePageOut
from opsjobs.api.schemas.responses import CREATED
from opsjobs.identity.tokens import load_public_key
from opsjobs.model.api_model import ApiModel
from opsjobs.model.errors import Conflict, FieldError
from opsjobs.model.grants import Grants
from opsjobs.model.naming import Name
from opsjobs.store.identities.services import SERVICES, Service

router = APIRouter(tags=["access"])


def _check_holds(request: Request, service: Service) -> None:
    check_holds(request, f"The service {service.name}", service.grants)


resource = Resource[Service](
    router=router,
    path="/services",
    one="a service",
    many="services",
    store=lambda services: services.identities.services,
    listing=SERVICES,
    reads=requires("system:admin"),
    manages=requires("system:admin"),
    item_model=ServiceOut,
    page_model=ServicePageOut,
)
resource.add_list("List services. The default order is by name.")
resource.add_show("Return the service with its public key.")
resource.add_delete("Delete the service. Its tokens are refused from now on.", check=_check_holds)


class ServiceDraft(ApiModel):
    """Body of PUT /services/{id}. `name` is its client id; `public_key` a PEM."""

    name: Name
    public_key: str = Field(min_length=1, max_length=16_384)
    grants: Grants
    disabled: bool = False


class NewServiceDraft(ServiceDraft):
    """Body of POST /services."""

    reuse_name: ReuseName = False


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
    return render_created(request, "/services", service)


@put_and_patch(
    router,
    "/services/{id}",
    dependencies=[requires("system:admin"), Depends(resource.load)],
    thing="a service",
    response_model=ServiceOut,
)
async def replace(
    id: str,
    request: Request,
    services: ServicesDep,
    change: Annotated[Edit[ServiceDraft], edit(ServiceDraft, resource.load)],
) -> Response:
    """Replace the key and the grants, effective at once. `name` cannot change.

    The caller becomes responsible for the service.
    """
    draft = change.draft
    before = await services.identities.services.get(id)
    _check_holds(request, before)
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
