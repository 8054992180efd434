"""Resolve a host to an address that callers may make opsjobs connect to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import Executor
from urllib.parse import SplitResult

from opsjobs.model.addresses import Network, forms, is_public, within


class AddressRefused(Exception):
    """The host has no address that may be connected to."""


async def resolve_public(
    host: str,
    port: int,
    allow: Sequence[Network],
    *,
    setting: str,
    executor: Executor | None = None,
) -> str:
    """Return an address of the host, resolved once. Raises AddressRefused.

    All of its addresses must be public or within `allow`, in every form that they embed. The error
    is the same for a name that does not resolve: neither reveals what an internal name resolves to.
    `setting`: the name of the setting that `allow` comes from.
    """
    refused = AddressRefused(
        f"{host} has no public address; list its network in {setting} if it is meant"
    )
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(
            executor, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
    except (OSError, UnicodeError):
        raise refused from None
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not addresses or not all(is_allowed(address, allow) for address in addresses):
        raise refused
    return addresses[0]


def is_allowed(address: str, allow: Sequence[Network]) -> bool:
    """Return True if the address is public, or within these networks in all of its forms."""
    return is_public(address) or all(within(form, allow) for form in forms(address))


def port_of(parts: SplitResult) -> int:
    """Return the port of a URL."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def at_address(parts: SplitResult, address: str) -> str:
    """Return the URL with the address in place of the host name."""
    shown = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=f"{shown}:{port_of(parts)}").geturl()
