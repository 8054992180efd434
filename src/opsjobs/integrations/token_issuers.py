"""Token issuers over HTTP: the keys of an issuer, and introspection by the Auth Service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.integrations.json_client import JsonClient, ServiceUnavailable
from opsjobs.integrations.services.client import ServiceClient
from opsjobs.integrations.services.profile import AuthCalls

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
