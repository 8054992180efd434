"""From where somebody comes, as it is counted: an address, or of IPv6 the network that whoever has one address has all of."""

from __future__ import annotations

import ipaddress

NETWORK_BITS = 64
"""Of IPv6: the smallest network that somebody is given."""


def origin(address: str | None) -> str:
    """What is counted together with this address; one word for all that is none (a Unix socket has none).

    >>> origin("10.0.0.5"), origin("::ffff:10.0.0.5"), origin("2001:db8:0:1::5"), origin(None)
    ('10.0.0.5', '10.0.0.5', '2001:db8:0:1::', 'unknown')
    """
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, NETWORK_BITS), strict=False).network_address)
