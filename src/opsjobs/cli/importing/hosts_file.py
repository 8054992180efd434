"""Files such as /etc/hosts: an address and its names per line."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from opsjobs.cli.importing.inventory import TARGETS_MAX, FoundTarget, ImportedInventory, Skipped


def looks_like(lines: Sequence[str]) -> bool:
    """Return True if these lines are of a hosts file."""
    words = [line.split() for line in lines]
    return bool(words) and all(
        len(w) > 1 and _address(w[0]) is not None and "=" not in w[1] for w in words
    )


def read(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError with the line.

    Of a name that appears twice, the first one counts.
    """
    found: dict[str, FoundTarget] = {}
    left: list[Skipped] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        address = _address(words[0])
        if address is None or len(words) < 2:
            raise ValueError(
                f"line {number}: {line.strip()[:60]!r} is not an address followed by names"
            )
        name = words[1]
        if (reason := _unfit(address)) is not None:
            left.append(Skipped(f"{words[0]} {name}", reason, target=True))
        elif name in found:
            left.append(
                Skipped(
                    f"{words[0]} {name}",
                    f"the name already has the address {found[name].host}",
                    target=True,
                )
            )
        else:
            found[name] = FoundTarget(name, words[0])
        if len(found) > TARGETS_MAX:
            raise ValueError(f"it has more than {TARGETS_MAX} hosts")
    return ImportedInventory([*found.values()], left)


def _address(word: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        return None


def _unfit(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    if address.is_loopback or address.is_unspecified:
        return "it is the machine itself"
    if address.is_multicast or str(address) == "255.255.255.255":
        return "it is a multicast or broadcast address"
    return "it is a link-local address" if address.is_link_local else None
