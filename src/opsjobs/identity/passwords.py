"""Password hashing with argon2id, off the event loop and with a limit on concurrency."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from opsjobs.model.errors import FieldError, Invalid, TooMany

P = ParamSpec("P")
T = TypeVar("T")

CHARACTERS_MIN = 12
NAME_CHARACTERS_MIN = 3
DIFFERENT_MIN = 5
CHARACTERS_MAX = 1_024
AT_ONCE = 2
"""Concurrent hashes: each takes 64 MiB and a core for some 50 ms."""
WAITING_MAX = 32


class Passwords:
    """Hashes and verifies passwords; the library's default cost follows RFC 9106."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._dummy_hash: str | None = None

    async def hashed(self, password: str) -> str:
        """Return the hash of a password. Raises TooMany if too many hashes are waiting."""
        return await self._run(self._hash, password)

    async def verify(self, kept: str | None, password: str) -> bool:
        """Return True if the password matches the hash. Raises TooMany.

        Without a hash (an unknown user) the same amount of work is done, and the result is False.
        """
        return await self._run(self._verify, kept, password)

    def is_outdated(self, kept: str) -> bool:
        """Return True if the hash was made with a lower cost than the current one."""
        return self._hasher.check_needs_rehash(kept)

    async def _run(self, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        if self._waiting >= WAITING_MAX:
            raise TooMany(
                "busy",
                "Too many passwords are being checked just now: try again in a second.",
                retry_after_seconds=1,
            )
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work, *given, **named)
        finally:
            self._waiting -= 1

    def _hash(self, password: str) -> str:
        return self._hasher.hash(password.encode("utf-8", "surrogatepass"))

    def _verify(self, kept: str | None, password: str) -> bool:
        if self._dummy_hash is None:
            self._dummy_hash = self._hash(secrets.token_urlsafe(32))
        try:
            return (
                self._hasher.verify(
                    kept or self._dummy_hash, password.encode("utf-8", "surrogatepass")
                )
                and kept is not None
            )
        except (VerificationError, InvalidHashError):
            return False


def check_new(password: str, name: str) -> None:
    """Raise Invalid if a new password is too short, too simple or contains the user's name."""
    if len(password) < CHARACTERS_MIN:
        detail = (
            f"A password has at least {CHARACTERS_MIN} characters. "
            "A few unrelated words are easy to remember."
        )
    elif len(name) >= NAME_CHARACTERS_MIN and name.lower() in password.lower():
        detail = "The password has the user's name in it: choose another one."
    elif len(set(password)) < DIFFERENT_MIN:
        detail = (
            f"The password has fewer than {DIFFERENT_MIN} different characters: choose another one."
        )
    else:
        return
    raise Invalid(
        "weak_password", detail, errors=[FieldError("/password", detail, "weak_password")]
    )
