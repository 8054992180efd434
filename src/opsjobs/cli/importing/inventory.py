"""What was found in an inventory, and what of it is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TARGETS_AT_MOST = 100_000


@dataclass(frozen=True, slots=True)
class FoundTarget:
    """One machine. None is not said; `user` and `key` (the path of a private key) say with which
    credential to log in.

    `variables`: what the inventory holds of it besides, of which labels may be made.
    """

    name: str
    host: str
    port: int | None = None
    user: str | None = None
    key: str | None = None
    credential: str | None = None
    groups: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    jump: str | None = None
    transport: str | None = None
    platform: str | None = None
    zone: str | None = None
    slots: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """An entry of POST /targets/import, with only what was said."""
        said: dict[str, Any] = {
            "name": self.name,
            "host": self.host,
            "port": self.port,
            "credential": self.credential,
            "groups": list(self.groups) or None,
            "labels": dict(self.labels) or None,
            "jump": self.jump,
            "transport": self.transport,
            "platform": self.platform,
            "zone": self.zone,
            "slots": self.slots,
        }
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not carried over: of what, and why. `target`: whether a whole machine is left out."""

    what: str
    reason: str
    target: bool = False


@dataclass(frozen=True, slots=True)
class ImportedInventory:
    """Machines, in the order of the file, each name once; and what is left."""

    found: Sequence[FoundTarget]
    left: Sequence[Skipped] = ()


def port_of(text: str) -> int:
    """The port that a text spells. Raises ValueError."""
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise ValueError(f"{text[:40]!r} is not a port")
    return int(text)
