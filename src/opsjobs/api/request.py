"""Parts of a request that routes and middleware read: caller, proof, session, token."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import Headers

from opsjobs.identity.authenticator import RequestProof
from opsjobs.model.access import Principal
from opsjobs.model.errors import Unauthorised
from opsjobs.model.execution import TriggeredBy
from opsjobs.store.identities.cookie_sessions import BrowserClient, CookieSession

CLI_AGENTS = ("opsjobs-cli/",)


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
