"""Who is asking: the token is judged before anything else of a request is read; each route names what it requires."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opsjobs.api.client_address import Callers
from opsjobs.api.paths import route_path
from opsjobs.api.problems import Problem
from opsjobs.api.unauthenticated_rate_limit import UnauthenticatedLimiter
from opsjobs.identity.authenticator import Authenticator
from opsjobs.model.access import Principal
from opsjobs.model.errors import Forbidden, TooMany, Unauthorised, Unavailable
from opsjobs.model.execution import TriggeredBy
from opsjobs.store import audit
from opsjobs.store.audit import Actor

CONSOLE_AND_CLI = ("opsjobs-cli/",)
REFRESH = "/auth/refresh"
# Exactly these answer without a token; openapi.json and docs only where they are on at all.
OPEN_DOORS = frozenset(
    {"/livez", "/readyz", "/health", "/openapi.json", "/docs", "/auth/login", REFRESH}
)
# Of these whoever watches the service is never refused; from where too much comes they are answered out of memory.
PROBES = frozenset({"/livez", "/readyz", "/health"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
ANY_TOKEN = "any token"  # noqa: S105  what docs say of a route that only asks who you are


class AuthMiddleware:
    """Lets a request pass with a valid token, and puts into `request.state` its `principal`, and the caller's `address`.

    What comes without one, or with a bad one, is counted by its address (`strangers`).
    """

    def __init__(
        self,
        app: ASGIApp,
        judge: Authenticator,
        callers: Callers,
        strangers: UnauthenticatedLimiter,
    ) -> None:
        self._app = app
        self._judge = judge
        self._callers = callers
        self._strangers = strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """401 for everything without a valid token, whether there is such a path or not; 429 for too much of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = self._callers.address(scope)
        state = scope.setdefault("state", {})
        state["address"] = address
        try:
            if route_path(scope) in OPEN_DOORS:
                await self._open(scope, receive, send)
                return
            principal = await self._principal(scope, address)
        except (Unauthorised, TooMany) as refused:
            await Problem.of(scope, refused)(scope, receive, send)
        except Unavailable as away:
            await Problem.unavailable(scope, away)(scope, receive, send)
        else:
            state["principal"] = principal
            with audit.acting(
                Actor.from_principal(principal, address=address, request_id=state.get("request_id"))
            ):
                await self._app(scope, receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        address = state["address"]
        with audit.acting(
            Actor(NOBODY, "system", address=address, request_id=state.get("request_id"))
        ):
            if route_path(scope) in PROBES:
                state["in_a_hurry"] = self._strangers.is_too_fast(address)
                await self._app(scope, receive, send)
            else:
                with self._strangers.at_a_door(address, goes_on=route_path(scope) == REFRESH):
                    await self._app(scope, receive, send)

    async def _principal(self, scope: Scope, address: str | None) -> Principal:
        try:
            token = token_of(Headers(scope=scope))
        except Unauthorised:
            self._strangers.without_token(address)
            raise
        with self._strangers.judging(address, token):
            principal = await self._judge.principal(token)
            if scope["method"] not in READING:
                await self._judge.remember(principal)
        return principal


NOBODY = "nobody yet"


def token_of(headers: Headers) -> str:
    """The bearer token of a request. Raises Unauthorised where there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthorised(
            "token_missing", "Send a token: the header `Authorization: Bearer opsc_…`."
        )
    return token


class Within(StrEnum):
    """What a route does for a caller who holds its permission within a scope only (`api/authorization.py` has the means)."""

    EVERYTHING = "everything"
    """Refuses him: what it is about has no labels, or is about all things."""
    OBJECT = "object"
    """Judges the thing in its path: 404 where he may not see it, 403 where he may see it and not do this to it."""
    LIST = "list"
    """Shows him what lies within his reach, in pages and totals as if there were nothing else."""
    BODY = "body"
    """Judges what the body names or describes."""
    ANYWHERE = "anywhere"
    """Lets him: what it is about has no labels, and is no secret from anybody who holds the permission at all."""


class Permission:
    """A dependency that refuses a caller who does not hold the permission; one with a scope unless the route is `within` it."""

    def __init__(self, name: str, within: Within) -> None:
        self.name = name
        self.within = within

    # Async, as all dependencies of ours: FastAPI sends others to a thread and back, at each request.
    async def __call__(self, request: Request) -> None:
        """Raises Forbidden."""
        check(request, self.name, within=self.within)
        request.state.permission = self.name


def requires(permission: str, within: Within = Within.EVERYTHING) -> Any:
    """For `dependencies=[requires("jobs:create")]`: every route but the open doors has exactly one."""
    return Depends(Permission(permission, within))


class _AnyToken(Permission):
    """Whoever has a valid token may: it is about himself."""

    def __init__(self) -> None:
        super().__init__(ANY_TOKEN, Within.ANYWHERE)

    async def __call__(self, request: Request) -> None:
        """The token was judged before."""
        principal_of(request)


def requires_a_token() -> Any:
    """For the few routes that are about the caller himself, and need no permission."""
    return Depends(_AnyToken())


def check(request: Request, permission: str, *, within: Within = Within.EVERYTHING) -> None:
    """Raises Forbidden where the caller may not; unless it is `within` something, also where he may not everywhere."""
    principal = principal_of(request)
    reach = principal.reach(permission)
    if not reach.scopes:
        roles = ", ".join(principal.roles) or "none"
        detail = (
            f"{principal.name} (roles: {roles}) does not hold {permission}: ask an administrator."
        )
        raise Forbidden("forbidden", detail)
    if within is Within.EVERYTHING and not reach.everywhere:
        detail = f"{principal.name} holds {permission} within a scope, and this is not about things with labels: ask an administrator."
        raise Forbidden("out_of_reach", detail)


def principal_of(request: Request) -> Principal:
    """Who sent this request."""
    principal = request.state.principal
    assert isinstance(principal, Principal), "a route behind Tokens has a principal"
    return principal


def triggered_by(request: Request) -> TriggeredBy:
    """`manual` for what people type (our command line, by its User-Agent), `api` for what programs send."""
    agent = request.headers.get("user-agent", "")
    return TriggeredBy.MANUAL if agent.startswith(CONSOLE_AND_CLI) else TriggeredBy.API
