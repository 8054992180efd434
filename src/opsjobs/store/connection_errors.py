"""Which errors of PostgreSQL mean "away, try again", and which are refusals or bugs that a repetition never cures."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout

from opsjobs.model.errors import DiskFull, Locked, TooSlow, Unavailable

RETRYABLE = (errors.DeadlockDetected, errors.SerializationFailure)
"""The transaction may succeed if it is run again at once; `Database.repeat` does that."""

# Whole classes: connection exceptions, insufficient resources, operator intervention (shutdown, failover, cancel).
_CLASSES = ("08", "53", "57")
# A transaction that the server or a failover ended, an I/O error of the server's disk.
_STATES = ("25P03", "25P04", "25006", "58030")
# The server answers: it was too busy or the statement too large for its time limit, or somebody else held a lock for too long.
_TOO_SLOW = (TooSlow, "PostgreSQL ended a statement at its time limit")
_ANSWERED: Mapping[str, tuple[type[Unavailable], str]] = {
    "57014": _TOO_SLOW,
    "25P04": _TOO_SLOW,
    "55P03": (Locked, "PostgreSQL could not give a lock in time"),
}
# The operating system's words where PostgreSQL has no SQLSTATE of its own for a full disk (quota, WAL, temporary files).
_FULL_WORDS = ("No space left on device", "Disk quota exceeded")


def unavailable(error: psycopg.Error) -> Unavailable | None:
    """Return the error as Unavailable if PostgreSQL is away or short of something, or None if repeating is no cure."""
    if isinstance(error, RETRYABLE):
        return None
    reason = str(error).strip()
    if isinstance(error, errors.DiskFull) or any(words in reason for words in _FULL_WORDS):
        return DiskFull(f"The disk of PostgreSQL is full: {reason}")
    if error.sqlstate is None:
        # The driver's own: the connection broke or was never made. Other errors without a state are misuse of the driver.
        broken = isinstance(error, psycopg.OperationalError | PoolTimeout)
        return Unavailable(f"PostgreSQL does not answer: {reason}") if broken else None
    if error.sqlstate in _ANSWERED:
        kind, words = _ANSWERED[error.sqlstate]
        return kind(f"{words}: {reason}")
    if error.sqlstate[:2] in _CLASSES or error.sqlstate in _STATES:
        return Unavailable(f"PostgreSQL does not answer: {reason}")
    return None
