"""The result of reading an inventory: found targets and skipped entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TARGETS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class FoundTarget:
    """One host; a field is None if it is not given.

    `user` and `key` select the credential.
    """

    name: str
    host: str
    port: int | None = None
    user: str | None = None
    key: str | None = None
    """The path of a private key."""
    credential: str | None = None
    groups: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    jump: str | None = None
    transport: str | None = None
    platform: str | None = None
    winrm: Mapping[str, Any] | None = None
    """The options of a Windows host."""
    zone: str | None = None
    slots: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    """Other values of the inventory, from which labels can be made."""

    def body(self) -> dict[str, Any]:
        """Return the entry of POST /targets/import, with only the given fields."""
        fields: dict[str, Any] = {
            "name": self.name,
            "host": self.host,
            "port": self.port,
            "credential": self.credential,
            "groups": list(self.groups) or None,
            "labels": dict(self.labels) or None,
            "jump": self.jump,
            "transport": self.transport,
            "platform": self.platform,
            "winrm": dict(self.winrm) if self.winrm is not None else None,
            "zone": self.zone,
            "slots": self.slots,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that was not imported, with the reason."""

    what: str
    reason: str
    target: bool = False
    """True if it is a whole host."""


@dataclass(frozen=True, slots=True)
class ImportedInventory:
    """Hosts in the order of the file, each name once, and skipped entries."""

    found: Sequence[FoundTarget]
    left: Sequence[Skipped] = ()


def parse_port(text: str) -> int:
    """Return the port number in this text. Raises ValueError."""
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise ValueError(f"{text[:40]!r} is not a port")
    return int(text)
