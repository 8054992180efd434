"""/users: local users, with a password and grants."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import requires
from opsjobs.api.authorization import ReuseName, check_grantable, check_holds, check_reuse_name
from opsjobs.api.dependencies import ServicesDep, services_of
from opsjobs.api.listing import page_of, render_created, render_page
from opsjobs.api.login import Password
from opsjobs.api.preconditions import Idempotent
from opsjobs.api.schemas.access import UserOut, UserPageOut
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.api.updates import Edit, edit, put_and_patch
from opsjobs.identity.passwords import check_new
from opsjobs.model.api_model import ApiModel
from opsjobs.model.errors import Conflict, FieldError
from opsjobs.model.grants import GrantDraft, Grants
from opsjobs.model.target import Name
from opsjobs.store.idempotency import Answer
from opsjobs.store.identities.users import USERS, User
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["access"])


class UserDraft(ApiModel):
    """Body of POST /users."""

    name: Name
    password: Password
    grants: Grants = Field(description="Roles or permissions, each within a scope of labels.")
    disabled: bool = False
    reuse_name: ReuseName = False


class ChangedUser(ApiModel):
    """Body of PUT /users/{id}.

    `password` None: it stays. `name` cannot change: it identifies the user in records.
    """

    name: Name
    password: Password | None = None
    grants: Grants
    disabled: bool = False


async def load_user(id: str, request: Request) -> User:
    """The user; raises NotFound before the body is judged."""
    user: User = await services_of(request).people.users.get(id)
    return user


@router.post(
    "/users",
    status_code=201,
    dependencies=[requires("system:admin")],
    summary="Create a user",
    response_model=UserOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, draft: UserDraft, idem: Idempotent
) -> Response:
    """Create a user who can log in. Callers grant only what they hold themselves."""
    check_grantable(request, draft.grants)
    check_reuse_name(request, reuse_name=draft.reuse_name)
    password = draft.password.get_secret_value()
    check_new(password, draft.name)
    user = await services.people.users.create(
        draft.name,
        await services.access.passwords.hashed(password),
        _to_stored(draft.grants),
        disabled=draft.disabled,
        reuse_name=draft.reuse_name,
        idem=idem,
    )
    return render_created(request, "" if isinstance(user, Answer) else f"/users/{user.id}", user)


@router.get(
    "/users",
    dependencies=[requires("system:admin")],
    summary="List users",
    response_model=UserPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(USERS)]
) -> Response:
    """List users, by name unless `sort` says otherwise."""
    return render_page(request, await services.people.users.list(page))


@router.get(
    "/users/{id}",
    dependencies=[requires("system:admin")],
    summary="Get a user",
    response_model=UserOut,
)
async def show(id: str, services: ServicesDep) -> Response:
    """Return the user, without the password or its hash."""
    return JSONResponse((await services.people.users.get(id)).data())


@put_and_patch(
    router,
    "/users/{id}",
    dependencies=[requires("system:admin"), Depends(load_user)],
    thing="a user",
    response_model=UserOut,
)
async def replace(
    id: str,
    request: Request,
    services: ServicesDep,
    change: Annotated[Edit[ChangedUser], edit(ChangedUser, load_user, volatile=["last_login_at"])],
) -> Response:
    """Replace the user's grants, effective at once for issued tokens, too.

    A new password, or `disabled`, ends all logins.
    """
    draft = change.draft
    before = await _weaker(request, id)
    if draft.name != before.name:
        detail = (
            f"A user's name cannot change: it is {before.name}. "
            f"Create another user named {draft.name}."
        )
        raise Conflict("name_stays", detail, errors=[FieldError("/name", detail, "name_stays")])
    check_grantable(request, draft.grants)
    password_hash = None
    if draft.password is not None:
        check_new(draft.password.get_secret_value(), draft.name)
        password_hash = await services.access.passwords.hashed(draft.password.get_secret_value())
    user = await services.people.users.change(
        id,
        "user.updated",
        grants=_to_stored(draft.grants),
        disabled=draft.disabled,
        password_hash=password_hash,
        basis=change.basis,
    )
    return JSONResponse(user.data())


@router.post(
    "/users/{id}/disable",
    dependencies=[requires("system:admin")],
    summary="Disable a user",
    response_model=UserOut,
)
async def disable(id: str, request: Request, services: ServicesDep) -> Response:
    """Disable the user: logins end at once, and API keys are refused until it is enabled."""
    await _weaker(request, id)
    return JSONResponse(
        (await services.people.users.change(id, "user.disabled", disabled=True)).data()
    )


@router.post(
    "/users/{id}/enable",
    dependencies=[requires("system:admin")],
    summary="Enable a user",
    response_model=UserOut,
)
async def enable(id: str, request: Request, services: ServicesDep) -> Response:
    """Allow the user to log in again, and accept the API keys again."""
    await _weaker(request, id)
    return JSONResponse(
        (await services.people.users.change(id, "user.enabled", disabled=False)).data()
    )


@router.delete(
    "/users/{id}", status_code=204, dependencies=[requires("system:admin")], summary="Delete a user"
)
async def delete(id: str, request: Request, services: ServicesDep) -> Response:
    """Delete the user with all logins and API keys. 409 for the last administrator."""
    await _weaker(request, id)
    await services.people.users.delete(id)
    return Response(status_code=204)


async def _weaker(request: Request, id: str) -> User:
    """Return a user who holds no more than the caller. Raises Forbidden, NotFound.

    Otherwise the caller could take over a stronger user by setting a new password.
    """
    user: User = await services_of(request).people.users.get(id)
    check_holds(request, f"The user {user.name}", user.grants)
    return user


def _to_stored(grants: list[GrantDraft]) -> list[dict[str, object]]:
    return [grant.kept() for grant in grants]
