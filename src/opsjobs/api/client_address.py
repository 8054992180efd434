"""Client address of a request: of the connection, or as reported by a trusted proxy."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
HOPS_MAX = 20


class ClientAddresses:
    """Resolver of client addresses; X-Forwarded-For is accepted from `trusted` proxies only."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def address(self, scope: Scope) -> str | None:
        """Return the client's address: the last in X-Forwarded-For that is no trusted proxy."""
        client = scope.get("client")
        found: str | None = client[0] if client else None
        if not self._trusted or not self._is_ours(found):
            return found
        told = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        # From the end: entries before the first untrusted address were sent by that client itself.
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
