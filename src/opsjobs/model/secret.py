"""Values that must never be printed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


class Secret:
    """A text that only `reveal` returns: `repr`, `str` and formatting return `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text itself; call it as late as possible and store the result nowhere."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled: it would lie in the open")


@dataclass(frozen=True, slots=True)
class JobSecret:
    """The reference of a secret parameter to a credential; a worker decrypts it for a run.

    `credential_id` is None until a launch has looked the name up."""

    credential: str
    credential_id: str | None = None


def is_secret(value: object) -> bool:
    """Return True if a parameter's value must not be shown."""
    return isinstance(value, Secret | JobSecret)


def digest(token: str) -> bytes:
    """Return the hash by which a token, a cookie or a code is stored.

    A plain hash is enough: each is 256 random bits, not a chosen word."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
