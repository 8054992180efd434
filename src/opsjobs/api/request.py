"""Parts of a request that routes and middleware read: services, caller, token, path."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import Scope

from opsjobs.composition import Services
from opsjobs.composition.authentication import API
from opsjobs.identity.authenticator import RequestProof
from opsjobs.model.access import Principal
from opsjobs.model.errors import Unauthorised
from opsjobs.model.execution import TriggeredBy
from opsjobs.store.identities.cookie_sessions import BrowserClient, CookieSession

CLI_AGENTS = ("opsjobs-cli/",)


def services_of(request: Request) -> Services:
    """Return the services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


# Async, like all dependencies of the API: FastAPI runs the others in a thread.
async def _services(request: Request) -> Services:
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]
"""The services of the application, as a parameter of a route."""


def principal_of(request: Request) -> Principal:
    """Return the principal that sent this request."""
    principal = request.state.principal
    assert isinstance(principal, Principal), "AuthMiddleware has set the principal"
    return principal


def proof_of(request: Request) -> RequestProof:
    """Return what this request has proven its principal by."""
    proof = request.state.proof
    assert isinstance(proof, RequestProof), "AuthMiddleware has set the proof"
    return proof


def session_of(request: Request) -> CookieSession | None:
    """Return the session whose cookie this request has; None for a bearer token."""
    session: CookieSession | None = getattr(request.state, "session", None)
    return session


def browser_client(request: Request) -> BrowserClient:
    """Return the client that logs in, as its session is listed."""
    return BrowserClient(request.state.address, request.headers.get("user-agent"))


def token_of(headers: Headers) -> str:
    """Return the bearer token of a request. Raises Unauthorised if it has none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthorised(
            "token_missing",
            "The request has no token. Send the header `Authorization: Bearer opsc_…`.",
        )
    return token


def triggered_by(request: Request) -> TriggeredBy:
    """Return `manual` for console (by its cookie) and CLI (by its User-Agent), else `api`."""
    if session_of(request) is not None:
        return TriggeredBy.MANUAL
    agent = request.headers.get("user-agent", "")
    return TriggeredBy.MANUAL if agent.startswith(CLI_AGENTS) else TriggeredBy.API


PREFIX = API
HOOK = "/hooks/{id}"
"""The route of the URLs of triggers, which needs no token."""
_HOOK = re.compile(r"/hooks/[^/]+")


def under_prefix(scope: Scope) -> Scope:
    """Return the request with PREFIX, if its path has it, as root path.

    Routes then see the path without it.
    """
    mine = dict(scope)
    if scope["path"] == PREFIX or scope["path"].startswith(PREFIX + "/"):
        mine["root_path"] = scope.get("root_path", "") + PREFIX
    return mine


def route_path(scope: Scope) -> str:
    """Return the path in the form of the routes, without any prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_hook(scope: Scope) -> bool:
    """Return True for the URL of a trigger, whether that exists or not."""
    return _HOOK.fullmatch(route_path(scope)) is not None


def build_location(request: Request, path: str) -> str:
    """Return a path in the caller's form: under /api/v1 if the request used that prefix."""
    return str(request.scope.get("root_path", "")) + path
