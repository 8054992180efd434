"""Identities: what may act, and in whose name things run later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PrincipalKind = Literal["api_key", "user", "service", "external"]
IdentityKind = Literal["api_key", "user", "service", "external", "system"]
"""The kind of an acting identity: a principal, or opsjobs itself (`system`)."""

_NOUNS = {
    "api_key": "an API key",
    "user": "a user",
    "service": "a service",
    "external": "a user of the platform",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity without its rights. Two are the same only if both kind and name are."""

    kind: IdentityKind
    name: str

    def __str__(self) -> str:
        """Return kind and name in one text: `ada` for an API key, `user/ada` for a user.

        The name of a key has no slash."""
        return self.name if self.kind == "api_key" else f"{self.kind}/{self.name}"

    @property
    def noun(self) -> str:
        """The kind as a noun for messages."""
        return _NOUNS.get(self.kind, self.kind)
