"""Which addresses the worker may connect to at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from opsjobs.model.execution import ErrorCode
from opsjobs.model.failures import RemoteFailure

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


# Link-local, and the addresses at which clouds hand out credentials: AWS, Azure, GCP and others at 169.254.169.254
# (link-local); AWS and GCP over IPv6; Alibaba; Azure's wire server; Oracle.
_METADATA = _networks(
    [
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
    ]
)
# 0.0.0.0 and :: connect to this machine.
_LOOPBACK = _networks(["127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128"])
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Asked with every resolved address just before it is connected to (7-security.md 17).

    `deny` wins over everything, `allow` lists exceptions to the built-in refusals: link-local and metadata addresses
    always, loopback where `production`.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    production: bool = False

    @classmethod
    def of(cls, *, allow: Iterable[str] = (), deny: Iterable[str] = (), production: bool = False) -> AddressPolicy:
        """From CIDR texts; raises ValueError for one that is none."""
        return cls(_networks(allow), _networks(deny), production)

    def __call__(self, address: str) -> None:
        """Raises RemoteFailure(SAFETY_BLOCKED) where this address may not be connected to."""
        reason = self._refusal(address)
        if reason is not None:
            raise RemoteFailure(ErrorCode.SAFETY_BLOCKED, f"{address} may not be connected to: {reason}.")

    def _refusal(self, text: str) -> str | None:
        forms = _forms(text)
        if any(_within(form, self.deny) for form in forms):
            return "it is in OPSJOBS_TARGET_DENY"
        if all(_within(form, self.allow) for form in forms):
            return None
        if any(_within(form, _METADATA) for form in forms):
            return "it is a link-local or metadata address; list it in OPSJOBS_TARGET_ALLOW if it is really meant"
        if self.production and any(_within(form, _LOOPBACK) for form in forms):
            return "it is this machine itself, refused in production; list it in OPSJOBS_TARGET_ALLOW if it is meant"
        return None


def _forms(text: str) -> list[Address]:
    """The address, or what it stands for where an IPv6 spelling carries an IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inner: list[Address] = [address]
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner += address.teredo
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return inner


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks if network.version == address.version)
