"""/users, /auth and /external-people: people and their grants; logins by tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field, SecretStr
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import ReuseName, check_grantable, check_holds, check_reuse_name
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires, requires_a_token
from opsjobs.api.http import page_of, render_created, render_page
from opsjobs.api.request import principal_of, proof_of
from opsjobs.api.resource import Edit, Resource, edit, put_and_patch
from opsjobs.api.schemas.access import PersonPageOut, TokensOut, UserOut, UserPageOut
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.identity.passwords import CHARACTERS_MAX, check_new
from opsjobs.model.api_model import ApiModel
from opsjobs.model.errors import Conflict, FieldError, Forbidden
from opsjobs.model.grants import GrantDraft, Grants
from opsjobs.model.naming import Composed, Name
from opsjobs.store.identities.provider import PEOPLE
from opsjobs.store.identities.sessions import REFRESH_CHARACTERS_MAX
from opsjobs.store.identities.users import USERS, User
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["access"])


def _check_holds(request: Request, user: User) -> None:
    """Raise Forbidden if the user holds more than the caller.

    Otherwise the caller could take over a more privileged user by setting a new password.
    """
    check_holds(request, f"The user {user.name}", user.grants)


resource = Resource[User](
    router=router,
    path="/users",
    one="a user",
    many="users",
    store=lambda services: services.identities.users,
    listing=USERS,
    reads=requires("system:admin"),
    manages=requires("system:admin"),
    item_model=UserOut,
    page_model=UserPageOut,
)
resource.add_list("List users. The default order is by name.")
resource.add_show("Return the user, without the password or its hash.")
resource.add_delete(
    "Delete the user with all logins and API keys. 409 for the last administrator.",
    check=_check_holds,
)

Password = Annotated[SecretStr, Field(min_length=1, max_length=CHARACTERS_MAX)]


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
    user = await services.identities.users.create(
        draft.name,
        await services.authentication.passwords.hashed(password),
        _to_stored(draft.grants),
        disabled=draft.disabled,
        reuse_name=draft.reuse_name,
        idem=idem,
    )
    return render_created(request, "/users", user)


@put_and_patch(
    router,
    "/users/{id}",
    dependencies=[requires("system:admin"), Depends(resource.load)],
    thing="a user",
    response_model=UserOut,
)
async def replace(
    id: str,
    request: Request,
    services: ServicesDep,
    change: Annotated[
        Edit[ChangedUser], edit(ChangedUser, resource.load, volatile=["last_login_at"])
    ],
) -> Response:
    """Replace the user's grants, effective at once for issued tokens, too.

    A new password, or `disabled`, ends all logins.
    """
    draft = change.draft
    before = await _load_weaker(request, id)
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
        password_hash = await services.authentication.passwords.hashed(
            draft.password.get_secret_value()
        )
    user = await services.identities.users.change(
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
    await _load_weaker(request, id)
    return JSONResponse(
        (await services.identities.users.change(id, "user.disabled", disabled=True)).data()
    )


@router.post(
    "/users/{id}/enable",
    dependencies=[requires("system:admin")],
    summary="Enable a user",
    response_model=UserOut,
)
async def enable(id: str, request: Request, services: ServicesDep) -> Response:
    """Allow the user to log in again, and accept the API keys again."""
    await _load_weaker(request, id)
    return JSONResponse(
        (await services.identities.users.change(id, "user.enabled", disabled=False)).data()
    )


async def _load_weaker(request: Request, id: str) -> User:
    user = await resource.load(id, request)
    _check_holds(request, user)
    return user


def _to_stored(grants: list[GrantDraft]) -> list[dict[str, object]]:
    return [grant.dump() for grant in grants]


class LoginDraft(ApiModel):
    """Body of POST /auth/login."""

    username: Composed = Field(min_length=1, max_length=200)
    password: Password


class RefreshDraft(ApiModel):
    """Body of POST /auth/refresh."""

    refresh_token: SecretStr = Field(min_length=1, max_length=REFRESH_CHARACTERS_MAX)


class OwnPasswordDraft(ApiModel):
    """Body of POST /auth/password: the current password and the new one."""

    current_password: Password
    password: Password


@router.post("/auth/login", summary="Log in", response_model=TokensOut)
async def log_in(request: Request, services: ServicesDep, draft: LoginDraft) -> Response:
    """Return an access token for some minutes, and a refresh token that can be used once."""
    logins = services.authentication.logins
    given = await logins.log_in(
        draft.username, draft.password.get_secret_value(), request.state.address
    )
    return JSONResponse(given.data())


@router.post("/auth/refresh", summary="Refresh a login", response_model=TokensOut)
async def refresh(services: ServicesDep, draft: RefreshDraft) -> Response:
    """Return the next two tokens. A refresh token that is used twice ends the login."""
    given = await services.authentication.logins.refresh(draft.refresh_token.get_secret_value())
    return JSONResponse(given.data())


@router.post("/auth/logout", status_code=204, dependencies=[requires_a_token()], summary="Log out")
async def log_out(request: Request, services: ServicesDep) -> Response:
    """End this login: its tokens, or its cookie, are refused. An API key is deleted instead."""
    proof = proof_of(request)
    if proof.is_cookie:
        await services.identities.cookies.end(proof.token)
    else:
        await services.authentication.logins.log_out(proof.token)
    return Response(status_code=204)


@router.post(
    "/auth/password",
    status_code=204,
    dependencies=[requires_a_token()],
    summary="Change the own password",
)
async def change_password(
    request: Request, services: ServicesDep, draft: OwnPasswordDraft
) -> Response:
    """Change the password and end all logins of the user, this one too.

    Only for users that are stored here.
    """
    principal = principal_of(request)
    if principal.kind != "user":
        raise Forbidden(
            "no_password", f"{principal.name} has no password here: only local users have one."
        )
    new = draft.password.get_secret_value()
    check_new(new, principal.name)
    user = await services.identities.users.find_for_login(principal.name)
    current = draft.current_password.get_secret_value()
    await services.authentication.logins.prove(principal.name, user, current, request.state.address)
    assert user is not None, "prove refuses a user that is not there"
    await services.identities.attempts.succeeded(principal.name, request.state.address)
    password_hash = await services.authentication.passwords.hashed(new)
    await services.identities.users.change(
        str(user.id), "user.password_changed", password_hash=password_hash
    )
    return Response(status_code=204)


# --- people who log in at the OpenID Connect provider


external_router = APIRouter(tags=["access"])


@external_router.get(
    "/external-people",
    dependencies=[requires("system:admin")],
    summary="List people of the OpenID Connect provider",
    response_model=PersonPageOut,
    responses=PAGED,
)
async def list_external_people(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(PEOPLE)]
) -> Response:
    """List those who have logged in there, with the rights of their latest login.

    The default order is by name. A person is listed until a day after the last session. Their
    logins are those of `GET /auth/sessions?kind=external&user=NAME`.
    """
    return render_page(request, await services.identities.people.list(page))
