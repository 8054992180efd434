"""/api-keys: the tokens of programs and people; /auth/keys: those of the caller."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import (
    ReuseName,
    check_confirmed,
    check_grantable,
    check_holds,
    check_reuse_name,
)
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires, requires_a_token
from opsjobs.api.http import page_of, render_page, render_replayed
from opsjobs.api.paths import build_location
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.access import ApiKeyListOut, ApiKeyOut, ApiKeyPageOut, NewApiKeyOut
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.model.access import Principal, Role
from opsjobs.model.api_model import ApiModel, Moment
from opsjobs.model.errors import FieldError, Forbidden, Invalid
from opsjobs.model.grants import (
    GRANTS_MAX,
    PERMISSIONS_MAX,
    SCOPE_CHARACTERS_MAX,
    GrantDraft,
    kept_of,
)
from opsjobs.model.identity import Identity
from opsjobs.model.naming import Name
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


class OwnKeyDraft(ApiModel):
    """Body of POST /auth/keys. Without `grants` the key has those of the caller."""

    name: Name
    grants: list[GrantDraft] = Field(default_factory=list, max_length=GRANTS_MAX)
    expires_at: Moment | None = None


@router.post(
    "/auth/keys",
    status_code=201,
    dependencies=[requires_a_token()],
    summary="Create an own API key",
    response_model=NewApiKeyOut,
    responses=CREATED,
)
async def create_own(request: Request, services: ServicesDep, draft: OwnKeyDraft) -> Response:
    """Create an API key of the caller, who is a user, and return its token, this once.

    The key never has more rights than the user has at that time. A user has at most 50 keys of its
    own.
    """
    caller = _check_user(request)
    check_confirmed(request)
    _check_expiry(draft.expires_at, services.clock.now())
    check_grantable(request, draft.grants)
    grants = [grant.dump() for grant in draft.grants] or kept_of(caller.grants)
    new = NewKey(draft.name, grants, draft.expires_at)
    key, token = await services.identities.issue_own_key(new, caller)
    location = build_location(request, f"/auth/keys/{key.id}")
    return JSONResponse({**key.data(), "token": token}, 201, {"Location": location})


@router.get(
    "/auth/keys",
    dependencies=[requires_a_token()],
    summary="List own API keys",
    response_model=ApiKeyListOut,
)
async def list_own(request: Request, services: ServicesDep) -> Response:
    """List the API keys that the caller made, directly or with another key, without tokens."""
    caller = _check_user(request)
    keys = await services.identities.list_own_keys(caller.name)
    return JSONResponse({"items": [key.data() for key in keys]})


@router.delete(
    "/auth/keys/{id}",
    status_code=204,
    dependencies=[requires_a_token()],
    summary="Delete an own API key",
)
async def delete_own(id: str, request: Request, services: ServicesDep) -> Response:
    """Delete an API key of the caller: its token is refused from now on."""
    caller = _check_user(request)
    await services.identities.delete_key(id, owner=caller.name)
    return Response(status_code=204)


def _check_user(request: Request) -> Principal:
    """Return the caller, who must be a user. Raises Forbidden."""
    caller = principal_of(request)
    if caller.kind != "user":
        detail = (
            f"{caller.name} is of the kind {caller.kind}: only users have API keys of their own. "
            "Log in as a user, or ask an administrator for a key."
        )
        raise Forbidden("no_own_keys", detail)
    return caller


async def _check_person(people: IdentityStore, person: str | None) -> None:
    if (
        person is None
        or await people.current_principal(Identity("user", person))
        or await people.current_principal(Identity("external", person))
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
