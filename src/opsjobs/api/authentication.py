"""Authentication of requests: token or cookie is verified before anything else is read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opsjobs.api.cookies import CookiePolicy, check_same_origin
from opsjobs.api.paths import HOOK, is_hook, route_path
from opsjobs.api.problems import Problem
from opsjobs.api.rate_limits import ClientAddresses, OpenRequest, UnauthenticatedLimiter
from opsjobs.api.request import token_of
from opsjobs.identity.authenticator import Authenticator, RequestProof
from opsjobs.model.access import Principal
from opsjobs.model.errors import Forbidden, TooMany, Unauthorised, Unavailable
from opsjobs.store import audit
from opsjobs.store.audit import Actor

REFRESH = "/auth/refresh"
# Exactly these are served without a token; openapi.json and docs only if they are enabled. Calls of
# triggers prove their secret instead.
OPEN_ROUTES = frozenset(
    {
        *("/livez", "/readyz", "/health", "/openapi.json", "/docs"),
        *("/auth/login", REFRESH, "/auth/methods", "/auth/session", HOOK),
        *("/auth/oidc", "/auth/oidc/callback"),
    }
)
# These are never refused, so that monitoring works; for an address over its limit they are answered
# from the cache.
PROBES = frozenset({"/livez", "/readyz", "/health"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
UNATTENDED = "opsjobs-unattended"
"""Header of reads that an unused page makes by itself: `true`."""


class AuthMiddleware:
    """Middleware that passes requests with a valid token, or a valid cookie of our own pages.

    Sets in `request.state` the `principal`, its `proof`, the caller's `address`, and the `session`
    of a cookie (None for a token, which takes precedence). Requests without a valid token are
    counted by address (`limiter`).
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        addresses: ClientAddresses,
        limiter: UnauthenticatedLimiter,
        cookies: CookiePolicy,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._addresses = addresses
        self._limiter = limiter
        self._cookies = cookies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send 401 without a valid token, whether the path exists or not; 429 over the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = self._addresses.address(scope)
        state = scope.setdefault("state", {})
        state["address"] = address
        try:
            if route_path(scope) in OPEN_ROUTES or is_hook(scope):
                await self._open(scope, receive, send)
                return
            principal = await self._principal(scope, address)
        except (Unauthorised, Forbidden, TooMany) as refused:
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
                with self._limiter.open_request(address, _kind(scope)):
                    await self._app(scope, receive, send)

    async def _principal(self, scope: Scope, address: str | None) -> Principal:
        try:
            proof = self._proof(scope)
        except (Unauthorised, Forbidden):
            self._limiter.count_missing_token(address)
            raise
        state = scope["state"]
        state["proof"], state["session"] = proof, None
        with self._limiter.verifying(address, proof.token):
            if proof.is_cookie:
                session = await self._authenticator.session(
                    proof.token, used=not _is_unattended(scope)
                )
                state["session"] = session
                principal = session.principal
            else:
                principal = await self._authenticator.principal(proof.token)
            if scope["method"] not in READING:
                await self._authenticator.remember(principal)
        return principal

    def _proof(self, scope: Scope) -> RequestProof:
        headers = Headers(scope=scope)
        cookie = None if "authorization" in headers else self._cookies.read(scope)
        if cookie is None:
            return RequestProof(token_of(headers))
        check_same_origin(scope, has_cookie=True)
        return RequestProof(cookie, is_cookie=True)


def _is_unattended(scope: Scope) -> bool:
    return scope["method"] in READING and Headers(scope=scope).get(UNATTENDED) == "true"


def _kind(scope: Scope) -> OpenRequest:
    if is_hook(scope):
        return OpenRequest.HOOK
    return OpenRequest.REFRESH if route_path(scope) == REFRESH else OpenRequest.OTHER


UNAUTHENTICATED = "unauthenticated"
"""Actor of audit rows of requests without a token, such as logins."""
