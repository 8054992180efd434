"""/auth: the caller itself, and sessions of browsers."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, SecretStr, model_validator
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import check_confirmed, check_permission
from opsjobs.api.cookies import READING, CookiePolicy, check_same_origin
from opsjobs.api.dependencies import ServicesDep, requires_a_token
from opsjobs.api.request import browser_client, principal_of, session_of
from opsjobs.api.schemas.access import LoginCodeOut, LoginListOut, LoginMethodsOut, MeOut
from opsjobs.composition.services import services_of
from opsjobs.identity.passwords import CHARACTERS_MAX
from opsjobs.model import text_patterns
from opsjobs.model.access import PERMISSIONS, Principal
from opsjobs.model.api_model import ApiModel
from opsjobs.model.errors import Conflict
from opsjobs.model.execution import moment
from opsjobs.model.grants import kept_of, scope_text
from opsjobs.model.identity import Identity, PrincipalKind
from opsjobs.model.naming import Composed
from opsjobs.model.token_claims import NAME_CHARACTERS_MAX
from opsjobs.store.identities.cookie_sessions import (
    CODE_CHARACTERS_MAX,
    CODE_SECONDS,
    CookieSession,
)
from opsjobs.store.identities.session_owner import ExternalPerson

router = APIRouter(tags=["access"])

CONSOLE_LOGIN = "/console/#code="
"""The path of the console's login by a code, which follows it. Servers get no fragment."""


class ConfirmDraft(ApiModel):
    """Body of POST /auth/confirm: the caller's password, or a new code of its own."""

    password: SecretStr | None = Field(default=None, min_length=1, max_length=CHARACTERS_MAX)
    code: SecretStr | None = Field(default=None, min_length=1, max_length=CODE_CHARACTERS_MAX)

    @model_validator(mode="after")
    def _one_proof(self) -> ConfirmDraft:
        if (self.password is None) == (self.code is None):
            raise ValueError("give a password or a code, one of both")
        return self


class SessionDraft(ConfirmDraft):
    """Body of POST /auth/session: a name and its password, or a code alone."""

    username: Composed | None = Field(default=None, min_length=1, max_length=200)

    @model_validator(mode="after")
    def _name_with_a_password(self) -> SessionDraft:
        if (self.username is None) != (self.password is None):
            raise ValueError("a username comes with a password, and a code comes alone")
        return self


@router.get("/auth/methods", summary="List the ways to log in", response_model=LoginMethodsOut)
async def methods(services: ServicesDep) -> Response:
    """Return the available ways to log in. `password` is false if there is no user."""
    found = services.authentication.single_sign_on
    return JSONResponse(
        {
            "password": await services.identities.cookies.has_users(),
            "code": True,
            "oidc": found and {"label": found.label, "url": found.url},
        }
    )


@router.post("/auth/session", summary="Begin a session", response_model=MeOut)
async def begin(request: Request, services: ServicesDep, draft: SessionDraft) -> Response:
    """Log in a browser: the answer sets the session's cookie, which scripts cannot read.

    Always begins a new session, and ends the session of the request's cookie. 403
    `cross_site` for the page of another site, `https_required` over plain http in production.
    """
    cookies: CookiePolicy = request.app.state.cookies
    cookies.check(request.scope)
    previous = cookies.read(request.scope)
    check_same_origin(request.scope, has_cookie=previous is not None)
    logins, client = services.authentication.cookie_logins, browser_client(request)
    code, password = _reveal(draft.code), _reveal(draft.password)
    if code is not None:
        cookie = await logins.log_in_by_code(code, client)
    else:
        cookie = await logins.log_in(draft.username or "", password or "", client)
    if previous is not None:
        await services.identities.cookies.end(previous)
    session = await services.identities.cookies.find(cookie)
    answer = JSONResponse(_render_me(session.principal, session, services))
    cookies.set(
        answer, request.scope, cookie, max_age_seconds=services.identities.cookies.kept_seconds
    )
    return answer


@router.delete("/auth/session", status_code=204, summary="End the session")
async def end(request: Request, services: ServicesDep) -> Response:
    """End the session of the request's cookie, and delete the cookie. Also if it has ended."""
    cookies: CookiePolicy = request.app.state.cookies
    cookie = cookies.read(request.scope)
    answer = Response(status_code=204)
    if cookie is not None:
        check_same_origin(request.scope, has_cookie=True)
        await services.identities.cookies.end(cookie)
        cookies.clear(answer, request.scope)
    return answer


@router.post(
    "/auth/confirm",
    dependencies=[requires_a_token()],
    summary="Confirm the session",
    response_model=MeOut,
)
async def confirm(request: Request, services: ServicesDep, draft: ConfirmDraft) -> Response:
    """Confirm the session: sensitive changes need a confirmation within the last 10 minutes.

    A user gives its password; an API key or a user a new code. A person of the OpenID Connect
    provider uses GET /auth/oidc?confirm=true instead. 409 `no_session` for a token.
    """
    session = session_of(request)
    if session is None:
        raise Conflict("no_session", "The request has a token: only sessions are confirmed.")
    confirmed = await services.authentication.cookie_logins.confirm(
        session,
        request.state.address,
        password=_reveal(draft.password),
        code=_reveal(draft.code),
    )
    return JSONResponse(_render_me(confirmed.principal, confirmed, services))


@router.post(
    "/auth/codes",
    status_code=201,
    dependencies=[requires_a_token()],
    summary="Create a login code",
    response_model=LoginCodeOut,
)
async def create_code(request: Request, services: ServicesDep) -> Response:
    """Return a code that begins one session of the caller, within a minute.

    `path` opens the console with it. For users and API keys; a session cannot make one. The
    session always has the caller's current rights, and ends with the user or the key.
    """
    if session_of(request) is not None:
        raise Conflict("has_session", "A session cannot make a code: log in again instead.")
    code = await services.identities.cookies.create_code(principal_of(request))
    body = {"code": code, "expires_in": CODE_SECONDS, "path": f"{CONSOLE_LOGIN}{code}"}
    return JSONResponse(body, 201)


@router.get(
    "/auth/me", dependencies=[requires_a_token()], summary="Get the caller", response_model=MeOut
)
async def me(request: Request) -> Response:
    """Return the caller's identity, grants and permissions, and its session if it has one.

    `person`: the human behind it, if known. `permissions`: the scopes in which each one is held;
    an empty scope is everywhere.
    """
    return JSONResponse(
        _render_me(principal_of(request), session_of(request), services_of(request))
    )


User = Annotated[
    str | None,
    Query(
        max_length=NAME_CHARACTERS_MAX,
        pattern=text_patterns.LINE,
        description="Only logins of this user; requires an administrator.",
    ),
]
Kind = Annotated[
    Literal["user", "external"],
    Query(description="The kind of `user`: external for a person of the OpenID Connect provider."),
]


@router.get(
    "/auth/sessions",
    dependencies=[requires_a_token()],
    summary="List own logins",
    response_model=LoginListOut,
)
async def list_logins(
    request: Request, services: ServicesDep, user: User = None, kind: Kind = "user"
) -> Response:
    """List the caller's logins that have not ended, the last used one first.

    `current` is that of the request's cookie.
    """
    session = session_of(request)
    current = None if session is None else str(session.id)
    found = [
        {**login.data(), "current": str(login.id) == current}
        for login in await services.identities.cookies.list(_login_owner(request, user, kind))
    ]
    return JSONResponse({"items": found})


@router.delete(
    "/auth/sessions",
    status_code=204,
    dependencies=[requires_a_token()],
    summary="End own other logins",
)
async def end_other_logins(
    request: Request, services: ServicesDep, user: User = None, kind: Kind = "user"
) -> Response:
    """End all logins of the caller but that of the request's cookie."""
    session = session_of(request)
    kept = None if session is None else session.id
    await services.identities.cookies.end_others(kept, _login_owner(request, user, kind))
    return Response(status_code=204)


@router.delete(
    "/auth/sessions/{id}",
    status_code=204,
    dependencies=[requires_a_token()],
    summary="End an own login",
)
async def end_login(
    id: UUID, request: Request, services: ServicesDep, user: User = None, kind: Kind = "user"
) -> Response:
    """End a login: its cookie, or its tokens, are refused from now on."""
    await services.identities.cookies.end_login(id, _login_owner(request, user, kind))
    return Response(status_code=204)


def _login_owner(request: Request, user: str | None, kind: PrincipalKind) -> Identity:
    """Return the owner of the logins that are meant. Raises Forbidden for another user."""
    caller = principal_of(request).identity
    if user is None or caller == Identity(kind, user):
        return caller
    check_permission(request, "system:admin")
    if request.method not in READING:
        check_confirmed(request)
    return Identity(kind, user)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _render_me(
    principal: Principal, session: CookieSession | None, services: Any
) -> dict[str, Any]:
    held = {
        permission: sorted(scope_text(scope) for scope in principal.reach(permission).scopes)
        for permission in sorted(PERMISSIONS)
        if principal.has_permission(permission)
    }
    return {
        "name": principal.name,
        "kind": principal.kind,
        "person": principal.person,
        "roles": list(principal.roles),
        "grants": kept_of(principal.grants),
        "permissions": held,
        "session": session
        and {
            "id": str(session.id),
            "created_at": moment(session.created_at),
            "expires_at": moment(session.expires_at),
            "idle_seconds": services.identities.cookies.idle_seconds,
            "confirmed_until": moment(session.confirmed_until),
            "confirm_by": _CONFIRM_BY[principal.kind],
            "external": session.external and _render_person(session.external),
        },
    }


_CONFIRM_BY = {"user": "password", "api_key": "code", "external": "oidc"}


def _render_person(person: ExternalPerson) -> dict[str, Any]:
    return {
        "issuer": person.issuer,
        "subject": person.subject,
        "name": person.display_name,
        "email": person.email,
        "logout_url": person.logout_url,
    }
