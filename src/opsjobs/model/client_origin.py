"""The origin of a client for counting: an IPv4 address, or an IPv6 /64 network.

The holder of one IPv6 address usually has all addresses of its /64 network."""

from __future__ import annotations

import ipaddress

NETWORK_BITS = 64
"""The prefix length of the smallest IPv6 network that is assigned to a customer."""


def origin(address: str | None) -> str:
    """Return the key that this address is counted under.

    It is "unknown" if there is no IP address (a Unix socket has none).

        >>> origin("10.0.0.5"), origin("::ffff:10.0.0.5"), origin("2001:db8:0:1::5"), origin(None)
        ('10.0.0.5', '10.0.0.5', '2001:db8:0:1::', 'unknown')"""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, NETWORK_BITS), strict=False).network_address)
