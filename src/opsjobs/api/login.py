"""/auth: login and logout of local users; every caller can read its own identity."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field, SecretStr
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import principal_of, requires_a_token, token_of
from opsjobs.api.dependencies import ServicesDep
from opsjobs.api.schemas.access import MeOut, TokensOut
from opsjobs.identity.passwords import CHARACTERS_MAX, check_new
from opsjobs.model.api_model import ApiModel
from opsjobs.model.errors import Forbidden
from opsjobs.model.grants import kept_of
from opsjobs.model.naming import Composed
from opsjobs.store.identities.sessions import REFRESH_CHARACTERS_MAX

router = APIRouter(tags=["access"])

Password = Annotated[SecretStr, Field(min_length=1, max_length=CHARACTERS_MAX)]


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
    logins = services.access.logins
    given = await logins.log_in(
        draft.username, draft.password.get_secret_value(), request.state.address
    )
    return JSONResponse(given.data())


@router.post("/auth/refresh", summary="Refresh a login", response_model=TokensOut)
async def refresh(services: ServicesDep, draft: RefreshDraft) -> Response:
    """Return the next two tokens. A refresh token that is used twice ends the login."""
    given = await services.access.logins.refresh(draft.refresh_token.get_secret_value())
    return JSONResponse(given.data())


@router.post("/auth/logout", status_code=204, dependencies=[requires_a_token()], summary="Log out")
async def log_out(request: Request, services: ServicesDep) -> Response:
    """End this login: all of its tokens are refused. An API key is deleted instead."""
    await services.access.logins.log_out(token_of(request.headers))
    return Response(status_code=204)


@router.get(
    "/auth/me", dependencies=[requires_a_token()], summary="Get the caller", response_model=MeOut
)
async def me(request: Request) -> Response:
    """Return the identity and grants of the token; `person`: the human behind it, if known."""
    principal = principal_of(request)
    return JSONResponse(
        {
            "name": principal.name,
            "kind": principal.kind,
            "person": principal.person,
            "roles": list(principal.roles),
            "grants": kept_of(principal.grants),
        }
    )


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
    user = await services.people.users.find_for_login(principal.name)
    current = draft.current_password.get_secret_value()
    await services.access.logins.prove(principal.name, user, current, request.state.address)
    assert user is not None, "prove refuses a user that is not there"
    await services.people.attempts.succeeded(principal.name, request.state.address)
    password_hash = await services.access.passwords.hashed(new)
    await services.people.users.change(
        str(user.id), "user.password_changed", password_hash=password_hash
    )
    return Response(status_code=204)
