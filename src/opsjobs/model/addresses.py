"""Addresses: which are special, what targets may have, and how clients are counted.

One list of special addresses serves everything that connects to a caller's addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse CIDR texts. Raises ValueError for an invalid one."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


LOOPBACK = networks(["127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128"])
"""This machine; 0.0.0.0 and :: connect to it as well."""

METADATA = networks(
    [
        # Link-local: AWS, Azure, GCP and others hand out credentials at 169.254.169.254.
        "169.254.0.0/16",
        "fe80::/10",
        "fec0::/10",  # site-local, which link-local became in old stacks
        "fd00:ec2::/32",  # AWS over IPv6
        "fd20:ce::254/128",  # GCP over IPv6
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.192/32",  # Oracle
    ]
)
"""Link-local addresses, and those at which clouds hand out credentials."""

NO_MACHINE = networks(
    [
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "ff00::/8",  # multicast
        "64:ff9b:1::/48",  # NAT64 with a prefix of the network's own: can reach any IPv4 address
        "100::/64",  # discard only
        "3fff::/20",  # documentation
        "5f00::/16",  # segment identifiers of SRv6
    ]
)
"""Addresses that belong to no host, or that hide the address that they reach."""

_INTERNAL = networks(
    [
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "fc00::/7",
        "2001::/23",
        "2001:db8::/32",
    ]
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)


def forms(text: str) -> list[Address]:
    """Return the address, and the IPv4 addresses that an IPv6 address embeds.

    An IPv4-mapped address is only its IPv4 address.

        >>> [[str(form) for form in forms(text)] for text in ("::ffff:10.0.0.1", "64:ff9b::a00:1")]
        (['10.0.0.1'], ['64:ff9b::a00:1', '10.0.0.1'])"""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    found: list[Address] = [address]
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found += address.teredo
    carries = address in _NAT64 or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP
    if carries or (address in _COMPATIBLE and int(address) > 0xFFFF):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def within(address: Address, among: Sequence[Network]) -> bool:
    """Return True if one of these networks contains the address."""
    return any(address in network for network in among if network.version == address.version)


def is_public(text: str) -> bool:
    """Return True if the address, in all of its forms, is one of the public Internet."""
    special = (*LOOPBACK, *METADATA, *NO_MACHINE, *_INTERNAL)
    return all(form.is_global and not within(form, special) for form in forms(text))


def is_allowed(address: str, allow: Sequence[Network]) -> bool:
    """Return True if the address is public, or within these networks in all of its forms."""
    return is_public(address) or all(within(form, allow) for form in forms(address))


_LIST_IT = "list it in OPSJOBS_TARGET_ALLOW"


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The check of each resolved address just before it is connected to.

    `deny` takes precedence. `allow` lists exceptions to the built-in refusals: link-local,
    metadata and similar addresses that no host has are always refused, loopback if `production`.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    production: bool = False

    @classmethod
    def parse(
        cls, *, allow: Iterable[str] = (), deny: Iterable[str] = (), production: bool = False
    ) -> AddressPolicy:
        """Return a policy from CIDR texts. Raises ValueError for an invalid one."""
        return cls(networks(allow), networks(deny), production)

    def __call__(self, address: str) -> None:
        """Raise RemoteFailure(SAFETY_BLOCKED) if this address may not be connected to."""
        reason = self._refusal(address)
        if reason is not None:
            raise RemoteFailure(
                ErrorCode.SAFETY_BLOCKED, f"The host's address may not be connected to: {reason}."
            )

    def _refusal(self, text: str) -> str | None:
        found = forms(text)
        if any(within(form, self.deny) for form in found):
            return "it is in OPSJOBS_TARGET_DENY"
        if all(within(form, self.allow) for form in found):
            return None
        if any(within(form, METADATA) for form in found):
            return f"it is a link-local or metadata address; {_LIST_IT} if it is really meant"
        if any(within(form, NO_MACHINE) for form in found):
            what = "no machine has such an address, or what is behind it cannot be known"
            return f"{what}; {_LIST_IT} if it is meant"
        if self.production and any(within(form, LOOPBACK) for form in found):
            return f"it is this machine itself, refused in production; {_LIST_IT} if it is meant"
        return None


NETWORK_BITS = 64
"""The prefix length of the smallest IPv6 network that is assigned to a customer."""


def origin(address: str | None) -> str:
    """Return the key that this address is counted under.

    It is "unknown" if there is no IP address, as with a Unix socket.

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
