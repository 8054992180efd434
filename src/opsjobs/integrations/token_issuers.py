"""Token issuers over HTTP: the keys of an issuer, logins at an OpenID Connect provider.

The platform's Auth Service verifies tokens by introspection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from opsjobs.clock import Clock
from opsjobs.integrations.json_client import JsonClient, ServiceUnavailable
from opsjobs.integrations.services.client import ServiceClient
from opsjobs.integrations.services.profile import AuthCalls
from opsjobs.model.secret import Secret

DISCOVERY = "/.well-known/openid-configuration"
# Some generations of the platform report a rejection in the body, some by the status.
_NO = (401, 403)


class PinnedIssuer:
    """An issuer whose JWKS is at an address in the settings."""

    def __init__(self, client: JsonClient, jwks_url: str) -> None:
        self._client = client
        self._url = jwks_url

    async def jwks(self) -> Any:
        """Return the JWKS. Raises ServiceUnavailable."""
        return await self._client.get(self._url)


class DiscoveredIssuer:
    """An issuer whose discovery document names its JWKS; over https only unless `plain_http`."""

    def __init__(self, client: JsonClient, issuer: str, *, plain_http: bool) -> None:
        self._client = client
        self._issuer = issuer
        self._schemes = ("https://", "http://") if plain_http else ("https://",)

    async def jwks(self) -> Any:
        """Return the JWKS.

        Raises ServiceUnavailable, including if the discovery document is that of another issuer.
        """
        return await self._client.get(self.endpoint(await self.document(), "jwks_uri"))

    async def document(self) -> Mapping[str, Any]:
        """Return the discovery document. Raises ServiceUnavailable."""
        document = await self._client.get(self._issuer.rstrip("/") + DISCOVERY)
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ServiceUnavailable(f"{self._issuer} has a discovery document of another issuer")
        return document

    def endpoint(self, document: Mapping[str, Any], name: str) -> str:
        """Return an address in the document. Raises ServiceUnavailable if it may not be asked."""
        url = document.get(name)
        if not isinstance(url, str) or not url.startswith(self._schemes):
            raise ServiceUnavailable(f"{self._issuer} names no {name} that may be asked")
        return url


class AuthService:
    """The platform's Auth Service, queried for each token that opsjobs did not issue."""

    def __init__(self, client: ServiceClient, calls: AuthCalls) -> None:
        self._client = client
        self._calls = calls

    async def validate(self, token: str) -> Mapping[str, Any] | None:
        """Return the claims of a valid token, None for an invalid one.

        Both forms of the platform's response are supported. Raises ServiceUnavailable.
        """
        response = await self._client.post(
            self._calls.path, {self._calls.token: token}, idempotent=True, accept=(200, *_NO)
        )
        if response.status in _NO:
            return None
        answer = response.body
        if not isinstance(answer, dict) or not isinstance(answer.get("valid"), bool):
            path = self._calls.path
            raise ServiceUnavailable(f"the Auth Service does not say at {path} if a token is valid")
        if not answer["valid"]:
            return None
        return _claims(answer)


def _claims(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of `{valid, user, roles, permissions}`.

    `user` is a name, an id, or an object with the older claims.
    """
    user = answer.get("user")
    if isinstance(user, dict):
        claims = {
            name: user[name]
            for name in ("sub", "user_id", "username", "role", "roles", "permissions")
            if name in user
        }
        claims.setdefault("user_id", user.get("id"))
    else:
        claims = {"sub": user}
    of_answer = ("roles", "role", "permissions", "exp", "scope_labels")
    return {**claims, **{name: answer[name] for name in of_answer if answer.get(name) is not None}}


# --- an OpenID Connect provider: its discovery document, and its token endpoint


PAUSE_SECONDS = 2.0
"""Pause between fetches while there is no discovery document."""
ENDPOINT_CHARACTERS_MAX = 2_000
ERROR_CHARACTERS_MAX = 200
_REFUSALS = (400, 401)


class CodeRefused(Exception):
    """The token endpoint refused a code.

    `is_client`: it refused the client, so its id, its secret or its redirect address is wrong.
    """

    def __init__(self, error: str) -> None:
        super().__init__(f"the token endpoint answers {error}")
        self.is_client = error in ("invalid_client", "unauthorized_client", "redirect_uri_mismatch")


@dataclass(frozen=True, slots=True)
class OpenIdClient:
    """This installation as the provider knows it."""

    id: str
    redirect_uri: str
    scopes: str
    secret: Secret | None = field(default=None, repr=False)
    """None for a public client, which has PKCE only."""


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """The parts of the discovery document that a login needs."""

    authorization_endpoint: str
    token_endpoint: str
    end_session_endpoint: str | None
    has_basic: bool
    """False if the token endpoint takes a secret only in the form (client_secret_post)."""
    sends_issuer: bool
    """True if each answer names its issuer (RFC 9207)."""

    def authorization_url(self, parameters: Mapping[str, str]) -> str:
        """Return the address at which a browser logs in."""
        return _with_query(self.authorization_endpoint, parameters)

    def logout_url(self, client_id: str, after: str) -> str | None:
        """Return the address at which a browser logs out there, too; None if there is none.

        `after`: the address that it then comes back to.
        """
        if self.end_session_endpoint is None:
            return None
        parameters = {"client_id": client_id, "post_logout_redirect_uri": after}
        return _with_query(self.end_session_endpoint, parameters)


class OpenIdProvider:
    """The provider. Its discovery document is kept for `ttl_seconds`.

    `issuer`: reads the document, over https only unless the settings allow http.
    """

    def __init__(
        self,
        client: JsonClient,
        issuer: DiscoveredIssuer,
        clock: Clock,
        *,
        ttl_seconds: float,
    ) -> None:
        self._client = client
        self._issuer = issuer
        self._clock = clock
        self._ttl_seconds = ttl_seconds
        self._found: ProviderMetadata | None = None
        self._found_at = float("-inf")
        self._failed_at = float("-inf")
        self._lock = asyncio.Lock()

    async def metadata(self) -> ProviderMetadata:
        """Return the provider's addresses. Raises ServiceUnavailable."""
        async with self._lock:
            now = self._clock.monotonic()
            if self._found is None or now - self._found_at >= self._ttl_seconds:
                if now - self._failed_at < PAUSE_SECONDS:
                    raise ServiceUnavailable("it did not answer a moment ago")
                try:
                    self._found = _read(await self._issuer.document(), self._issuer.endpoint)
                except ServiceUnavailable:
                    self._found, self._failed_at = None, self._clock.monotonic()
                    raise
                self._found_at = now
            return self._found

    async def exchange(self, client: OpenIdClient, code: str, verifier: str) -> str:
        """Exchange a code for the ID token. Raises CodeRefused and ServiceUnavailable."""
        metadata = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": client.redirect_uri,
            "code_verifier": verifier,
            "client_id": client.id,
        }
        basic = None
        if client.secret is not None and metadata.has_basic:
            # RFC 6749, 2.3.1: both parts are encoded before they are joined by a colon.
            basic = (quote(client.id, safe=""), quote(client.secret.reveal(), safe=""))
        elif client.secret is not None:
            form["client_secret"] = client.secret.reveal()
        status, answer = await self._client.post_form(
            metadata.token_endpoint, form, basic=basic, accept=(200, *_REFUSALS)
        )
        found = answer if isinstance(answer, dict) else {}
        if status in _REFUSALS:
            raise CodeRefused(plain(found.get("error")) or f"{status} without an error")
        token = found.get("id_token")
        if not isinstance(token, str):
            raise ServiceUnavailable("its token endpoint gives no id_token: is openid a scope?")
        return token


def plain(text: object) -> str:
    """Return a text of the provider for the log: short, printable, on one line."""
    if not isinstance(text, str):
        return ""
    return "".join(c for c in text[:ERROR_CHARACTERS_MAX] if c.isprintable())


def _read(
    document: Mapping[str, Any], endpoint: Callable[[Mapping[str, Any], str], str]
) -> ProviderMetadata:
    methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    has_end = isinstance(document.get("end_session_endpoint"), str)
    names = ("authorization_endpoint", "token_endpoint")
    urls = [endpoint(document, name) for name in names]
    end = endpoint(document, "end_session_endpoint") if has_end else None
    if any(not _is_address(url) for url in (*urls, *([end] if end else []))):
        raise ServiceUnavailable("its discovery document has an endpoint that is no address")
    return ProviderMetadata(
        urls[0],
        urls[1],
        end,
        has_basic=not isinstance(methods, list) or "client_secret_basic" in methods,
        sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _is_address(url: str) -> bool:
    """Return True for an address that may stand in a header, and has no fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_clean = url.isascii() and url.isprintable() and " " not in url
    return (
        bool(parts.hostname) and is_clean and len(url) <= ENDPOINT_CHARACTERS_MAX and "#" not in url
    )


def _with_query(url: str, parameters: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters)}"
