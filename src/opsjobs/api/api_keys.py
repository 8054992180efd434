"""/api-keys: the tokens of programs and people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import (
    ReuseName,
    check_grantable,
    check_holds,
    check_reuse_name,
    requires,
)
from opsjobs.api.http import Idempotent, page_of, render_page, render_replayed
from opsjobs.api.request import ServicesDep, build_location, principal_of
from opsjobs.api.schemas.access import ApiKeyOut, ApiKeyPageOut, NewApiKeyOut
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.model.access import Role
from opsjobs.model.api_model import ApiModel, Moment
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.grants import GRANTS_MAX, PERMISSIONS_MAX, SCOPE_CHARACTERS_MAX, GrantDraft
from opsjobs.model.target import Name
from opsjobs.model.token_claims import NAME_CHARACTERS_MAX
from opsjobs.store.idempotency import Answer
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.api_keys import API_KEYS, NewKey
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["access"])


class ApiKeyDraft(ApiModel):
    """Body of POST /api-keys: a role or permissions within a scope, or else `grants`.

    `expires_at` None: the key is valid until it is deleted. `person`: the user who will hold the
    key; None: the caller.
    """

    name: Name
    role: Role | None = None
    permissions: list[str] = Field(default_factory=list, max_length=PERMISSIONS_MAX)
    scope: str = Field(default="", max_length=SCOPE_CHARACTERS_MAX)
    grants: list[GrantDraft] = Field(default_factory=list, max_length=GRANTS_MAX)
    expires_at: Moment | None = None
    person: str | None = Field(default=None, min_length=1, max_length=NAME_CHARACTERS_MAX)
    reuse_name: ReuseName = False

    @model_validator(mode="after")
    def _something(self) -> ApiKeyDraft:
        if self.grants and (self.role or self.permissions or self.scope):
            raise ValueError("give grants, or a role or permissions with a scope, not both")
        self.to_grants()
        return self

    def to_grants(self) -> list[GrantDraft]:
        """Return the grants of the key."""
        return list(self.grants) or [
            GrantDraft(role=self.role, permissions=self.permissions, scope=self.scope)
        ]


@router.post(
    "/api-keys",
    status_code=201,
    dependencies=[requires("system:admin")],
    summary="Create an API key",
    response_model=NewApiKeyOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, draft: ApiKeyDraft, idem: Idempotent
) -> Response:
    """Create an API key and return its token, this once: only its hash is stored.

    Callers grant only what they hold themselves.
    """
    grants = draft.to_grants()
    _check_expiry(draft.expires_at, services.clock.now())
    check_grantable(request, grants)
    check_reuse_name(request, reuse_name=draft.reuse_name)
    await _check_person(services.identities, draft.person)
    new = NewKey(
        draft.name,
        [grant.dump() for grant in grants],
        draft.expires_at,
        draft.person,
        draft.reuse_name,
    )
    issued = await services.identities.issue_key(new, idem, principal_of(request))
    if isinstance(issued, Answer):
        return render_replayed(request, issued)
    key, token = issued
    return JSONResponse(
        {**key.data(), "token": token},
        201,
        {"Location": build_location(request, f"/api-keys/{key.id}")},
    )


@router.get(
    "/api-keys",
    dependencies=[requires("system:admin")],
    summary="List API keys",
    response_model=ApiKeyPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(API_KEYS)]
) -> Response:
    """List API keys without their tokens."""
    return render_page(request, await services.identities.list_keys(page))


@router.get(
    "/api-keys/{id}",
    dependencies=[requires("system:admin")],
    summary="Get an API key",
    response_model=ApiKeyOut,
)
async def show(id: str, services: ServicesDep) -> Response:
    """Return the API key without its token."""
    return JSONResponse((await services.identities.get_key(id)).data())


@router.delete(
    "/api-keys/{id}",
    status_code=204,
    dependencies=[requires("system:admin")],
    summary="Delete an API key",
)
async def delete(id: str, request: Request, services: ServicesDep) -> Response:
    """Delete the API key: its token is refused from now on.

    Callers delete only keys that hold no more than they do.
    """
    people = services.identities
    gone = await people.get_key(id)
    check_holds(request, f"The API key {gone.name}", gone.grants)
    await people.delete_key(id)
    return Response(status_code=204)


async def _check_person(people: IdentityStore, person: str | None) -> None:
    if (
        person is None
        or await people.standing(person, "user")
        or await people.standing(person, "external")
    ):
        return
    detail = f"There is no user {person}. Create the user first, or leave out `person`."
    raise Invalid(
        "unknown_person", detail, errors=[FieldError("/person", detail, "unknown_person")]
    )


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at.astimezone(UTC) <= now:
        detail = "expires_at is in the past. Send a later time, or leave it out."
        raise Invalid(
            "already_expired", detail, errors=[FieldError("/expires_at", detail, "already_expired")]
        )
