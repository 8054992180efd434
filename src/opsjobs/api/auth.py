"""Authentication of requests, and the permission that each route requires.

The token is verified before anything else of a request is read.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opsjobs.api.problems import Problem
from opsjobs.api.rate_limits import ClientAddresses, UnauthenticatedLimiter
from opsjobs.api.request import principal_of, route_path, token_of
from opsjobs.identity.authenticator import Authenticator
from opsjobs.model.access import Principal
from opsjobs.model.errors import Forbidden, TooMany, Unauthorised, Unavailable
from opsjobs.store import audit
from opsjobs.store.audit import Actor

REFRESH = "/auth/refresh"
# Exactly these answer without a token; openapi.json and docs only if they are enabled.
OPEN_DOORS = frozenset(
    {"/livez", "/readyz", "/health", "/openapi.json", "/docs", "/auth/login", REFRESH}
)
# These are never refused, so that monitoring works; for an address over its limit they are answered
# from the cache.
PROBES = frozenset({"/livez", "/readyz", "/health"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
ANY_TOKEN = "any token"  # noqa: S105  shown in docs for routes that need no permission


class AuthMiddleware:
    """Middleware that passes requests with a valid token.

    Sets in `request.state` the `principal` and the caller's `address`. Requests without a token or
    with an invalid one are counted by address (`limiter`).
    """

    def __init__(
        self,
        app: ASGIApp,
        judge: Authenticator,
        addresses: ClientAddresses,
        limiter: UnauthenticatedLimiter,
    ) -> None:
        self._app = app
        self._judge = judge
        self._addresses = addresses
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 without a valid token, whether the path exists or not; 429 over the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = self._addresses.address(scope)
        state = scope.setdefault("state", {})
        state["address"] = address
        try:
            if route_path(scope) in OPEN_DOORS:
                await self._open(scope, receive, send)
                return
            principal = await self._principal(scope, address)
        except (Unauthorised, TooMany) as refused:
            await Problem.from_refusal(scope, refused)(scope, receive, send)
        except Unavailable as away:
            await Problem.from_unavailable(scope, away)(scope, receive, send)
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
            Actor(UNAUTHENTICATED, "system", address=address, request_id=state.get("request_id"))
        ):
            if route_path(scope) in PROBES:
                state["in_a_hurry"] = self._limiter.is_too_fast(address)
                await self._app(scope, receive, send)
            else:
                with self._limiter.open_request(address, is_refresh=route_path(scope) == REFRESH):
                    await self._app(scope, receive, send)

    async def _principal(self, scope: Scope, address: str | None) -> Principal:
        try:
            token = token_of(Headers(scope=scope))
        except Unauthorised:
            self._limiter.count_missing_token(address)
            raise
        with self._limiter.verifying(address, token):
            principal = await self._judge.principal(token)
            if scope["method"] not in READING:
                await self._judge.remember(principal)
        return principal


UNAUTHENTICATED = "unauthenticated"
"""Actor of audit rows of requests without a token, such as logins."""


class Within(StrEnum):
    """Treatment of callers who hold a route's permission only within a scope.

    `api/authorization.py` has the checks.
    """

    EVERYTHING = "everything"
    """Refuses the caller: the route's objects have no labels, or it is about all objects."""
    OBJECT = "object"
    """Checks the object in the path: 404 if the caller may not see it, 403 if only see it."""
    LIST = "list"
    """Shows only objects within the caller's scope; pages and totals do not count others."""
    BODY = "body"
    """Checks the objects that the body names or describes."""
    ANYWHERE = "anywhere"
    """Allows the caller: the objects have no labels and may be seen with any such permission."""


class Permission:
    """Dependency that refuses callers without the permission.

    A caller who holds it only within a scope is refused if `within` is EVERYTHING.
    """

    def __init__(self, name: str, within: Within) -> None:
        self.name = name
        self.within = within

    # Async, as all our dependencies: FastAPI runs sync ones in a thread at each request.
    async def __call__(self, request: Request) -> None:
        """Check the permission. Raises Forbidden."""
        check(request, self.name, within=self.within)
        request.state.permission = self.name


def requires(permission: str, within: Within = Within.EVERYTHING) -> Any:
    """Return the dependency for `dependencies=[requires("jobs:create")]`.

    Every route except OPEN_DOORS has exactly one.
    """
    return Depends(Permission(permission, within))


class _AnyToken(Permission):
    """Dependency that accepts any valid token: the route is about the caller itself."""

    def __init__(self) -> None:
        super().__init__(ANY_TOKEN, Within.ANYWHERE)

    async def __call__(self, request: Request) -> None:
        """Check that the caller was authenticated before."""
        principal_of(request)


def requires_a_token() -> Any:
    """Return the dependency of the few routes about the caller itself, without a permission."""
    return Depends(_AnyToken())


def check(request: Request, permission: str, *, within: Within = Within.EVERYTHING) -> None:
    """Raise Forbidden if the caller does not hold the permission.

    If `within` is EVERYTHING, also raise it if the caller holds it only within a scope.
    """
    principal = principal_of(request)
    reach = principal.reach(permission)
    if not reach.scopes:
        roles = ", ".join(principal.roles) or "none"
        detail = (
            f"{principal.name} (roles: {roles}) does not hold {permission}. Ask an administrator."
        )
        raise Forbidden("forbidden", detail)
    if within is Within.EVERYTHING and not reach.everywhere:
        detail = (
            f"{principal.name} holds {permission} only within a scope, and this request takes it "
            "without one. Ask an administrator."
        )
        raise Forbidden("out_of_reach", detail)
