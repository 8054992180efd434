"""The one tree of errors.

    Failure
    ├── Refusal            the request is refused; has a code and an HTTP status
    │   ├── Invalid        422  the request is understood and wrong; `errors` has JSON Pointers
    │   ├── NotFound       404  it does not exist, or is invisible to this caller
    │   ├── Conflict       409  the thing is in another state, or the name is taken
    │   ├── Gone           410  it existed, and was deleted by retention
    │   ├── Unauthorised   401  no token, or not a valid one
    │   ├── Forbidden      403  visible, but not allowed
    │   ├── Precondition   412/428  If-Match is stale or missing
    │   └── TooMany        429  a limit is reached; `retry_after_seconds` says when to retry
    ├── RemoteFailure      the outcome "no session" or "it broke": stored, has an ErrorCode
    └── Unavailable        503  PostgreSQL (or a required service) is unavailable: retry
        ├── TooSlow        503  PostgreSQL ended the statement at its time limit
        └── DiskFull       503  PostgreSQL has no space left on its volume

An outcome is recorded, a refusal is returned to the caller, and everything that is not a Failure is
a bug and is not caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opsjobs.model.execution import OFFLINE, ErrorCode


class Failure(Exception):
    """Anything that opsjobs raises on purpose."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault in a request: a JSON Pointer into the body, a message, and a stable code."""

    pointer: str
    detail: str
    code: str = "invalid"


class Refusal(Failure):
    """A refused request: `code` is stable and for programs, the message is for people."""

    status = 400

    def __init__(self, code: str, detail: str, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)


class Invalid(Refusal):
    """The request is understood, and wrong."""

    status = 422


class NotFound(Refusal):
    """The thing does not exist, or the caller may not learn that it does."""

    status = 404

    @classmethod
    def for_ref(cls, noun: str, ref: object) -> NotFound:
        """Return the error for a noun and a reference: `("job", 7)` gives "There is no job 7."."""
        return cls(f"{noun.lower().replace(' ', '_')}_not_found", f"There is no {noun} {ref}.")


class Conflict(Refusal):
    """The thing is not in a state that allows it, or the name is taken."""

    status = 409


class Gone(Refusal):
    """The thing existed, but was deleted by retention."""

    status = 410


class Unauthorised(Refusal):
    """The token is missing or invalid."""

    status = 401


class Forbidden(Refusal):
    """The caller may see the thing, but not do this to it."""

    status = 403


class Precondition(Refusal):
    """If-Match is missing (428) or names an older version (412)."""

    def __init__(self, code: str, detail: str, *, status: int) -> None:
        super().__init__(code, detail)
        self.status = status


class TooMany(Refusal):
    """A limit is reached; retry after `retry_after_seconds`."""

    status = 429

    def __init__(self, code: str, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(code, detail)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(Failure):
    """A required service does not respond.

    The message is for the log; `detail` and `code` are for the caller."""

    code = "unavailable"

    def __init__(
        self,
        reason: str,
        *,
        detail: str = "The database does not answer now: try again in a second.",
    ) -> None:
        super().__init__(reason)
        self.detail = detail


class TooSlow(Unavailable):
    """PostgreSQL ended the statement at its time limit: a retry may fail in the same way."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, detail="The database took too long: ask for less, or try again in a minute."
        )


class Locked(Unavailable):
    """Another transaction held a lock in PostgreSQL for longer than the lock timeout."""


class DiskFull(Unavailable):
    """PostgreSQL has no space left to write."""

    code = "database_disk_full"

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason,
            detail="The disk of the database is full: "
            "nothing is stored until there is space on its volume.",
        )


class RemoteFailure(Failure):
    """A host could not be reached, or the work there failed; becomes a run's outcome.

    `because`: of `circuit_open`, the error that opened the circuit; of `credential_missing`, that a
    service that has the credential is away."""

    def __init__(self, code: ErrorCode, message: str, *, because: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.because = because

    @property
    def offline(self) -> bool:
        """True if the host is unreachable now and may recover by itself, so that waiting helps."""
        return (self.because or self.code) in OFFLINE
