"""Fetch the keys of a token issuer: a pinned address or OIDC discovery."""

from __future__ import annotations

from typing import Any

from opsjobs.integrations.json_client import JsonClient, ServiceUnavailable

DISCOVERY = "/.well-known/openid-configuration"


class PinnedIssuer:
    """Its JWKS at an address that is set."""

    def __init__(self, asking: JsonClient, jwks_url: str) -> None:
        self._asking = asking
        self._url = jwks_url

    async def jwks(self) -> Any:
        """The document. Raises Away."""
        return await self._asking.get(self._url)


class DiscoveredIssuer:
    """Its JWKS where its own discovery document says; `plain_http` False: only over https."""

    def __init__(self, asking: JsonClient, issuer: str, *, plain_http: bool) -> None:
        self._asking = asking
        self._issuer = issuer
        self._schemes = ("https://", "http://") if plain_http else ("https://",)

    async def jwks(self) -> Any:
        """The document. Raises Away, also where the discovery document speaks of another issuer."""
        told = await self._asking.get(self._issuer.rstrip("/") + DISCOVERY)
        if not isinstance(told, dict) or told.get("issuer") != self._issuer:
            raise ServiceUnavailable(f"{self._issuer} has a discovery document of another issuer")
        url = told.get("jwks_uri")
        if not isinstance(url, str) or not url.startswith(self._schemes):
            raise ServiceUnavailable(f"{self._issuer} names no jwks_uri that may be asked")
        return await self._asking.get(url)
