"""From where a request comes: who connected, or whom a proxy of ours names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
HOPS_MAX = 20


class Callers:
    """Knows the proxies whose word is taken (`trusted`)."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def address(self, scope: Scope) -> str | None:
        """The address of who asks: of X-Forwarded-For the last one that none of our own proxies has."""
        client = scope.get("client")
        found: str | None = client[0] if client else None
        if not self._trusted or not self._is_ours(found):
            return found
        told = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        # From the end: what stands before the first stranger is what he said of himself.
        for one in reversed([part.strip() for part in told[-HOPS_MAX:]]):
            if not _is_address(one):
                return found
            found = one
            if not self._is_ours(one):
                return found
        return found

    def _is_ours(self, text: str | None) -> bool:
        if text is None or not _is_address(text):
            return False
        address = ipaddress.ip_address(text)
        return any(
            address in network for network in self._trusted if network.version == address.version
        )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
