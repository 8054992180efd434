"""The circuit breaker of one login on one host: the right to try, and effects of outcomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from uuid import UUID

from opsjobs.model.execution import OFFLINE, ErrorCode

TRIPS_MAX = 6
"""The consecutive openings that lengthen the pause; the last is 32 times the first."""
RIGHT_SECONDS = 10.0
"""The lifetime of an unrenewed right to try: the time that a dead holder blocks others."""


class CircuitState(StrEnum):
    """The state of a circuit.

    Closed: sessions are allowed. Open: none before `until`. Half-open: one try, which decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """The number of consecutive failed connects that open a circuit, and the first pause.

    A refused login opens it at once."""

    failures: int = 5
    pause_seconds: float = 15.0
    refused_pause_seconds: float = 900.0

    def pause(self, code: ErrorCode, trips: int) -> timedelta:
        """Return how long the circuit stays open at its `trips`-th consecutive opening (1, 2, …).

        It doubles each time."""
        first = self.pause_seconds if code in OFFLINE else self.refused_pause_seconds
        return timedelta(seconds=first * 2 ** (min(max(trips, 1), TRIPS_MAX) - 1))


@dataclass(frozen=True, slots=True)
class CircuitKey:
    """The id of a target and of a credential ("" = none)."""

    target_id: str
    credential_id: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to log in."""

    key: CircuitKey
    login: str
    """A text that represents everything that makes it another login when it changes."""
    token: UUID
    """Identifies this one try."""
    insist: bool = False
    """True if a command of opsjobs already runs there.

    An unreachable host is then not a reason to wait; a refused login is.
    """


class Right(Enum):
    """The result of an Ask."""

    FREE = "free"
    """The login is known to work: any number of concurrent tries."""
    YOURS = "yours"
    """The caller alone may try until it has reported the outcome."""
    BUSY = "busy"
    """Another caller is trying: ask again soon."""
    OPEN = "open"
    """No try is allowed before `until`."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a try."""

    key: CircuitKey
    login: str
    code: ErrorCode | None = None
    """The error; None is success."""
    message: str = ""
    token: UUID | None = None
    """Identifies the right that it was tried with, which this report ends."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """The state of one login.

    `code`, `message` and `since`: why and since when it is not closed.
    """

    login: str
    state: CircuitState = CircuitState.CLOSED
    proven: bool = False
    """True if the login was accepted once."""
    failures: int = 0
    """Consecutive failed connects."""
    trips: int = 0
    """Consecutive openings."""
    code: ErrorCode | None = None
    message: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    holder: UUID | None = None
    """The token of the current try."""
    held_until: datetime | None = None

    @property
    def free(self) -> bool:
        """True if no permission is needed."""
        return self.state is CircuitState.CLOSED and self.proven

    @property
    def well(self) -> bool:
        """True if nothing has failed since the last success."""
        return self.state is CircuitState.CLOSED and self.failures == 0

    def ask(self, wish: Ask, now: datetime) -> tuple[Circuit, Right]:
        """Return the new circuit and the right to try.

        Another login is another circuit, which starts without history."""
        here = self if self.login == wish.login else Circuit(wish.login)
        if here.free:
            return here, Right.FREE
        if here._shut(wish, now):
            return here, Right.OPEN
        if here.holder is not None and here.held_until is not None and here.held_until > now:
            return here, Right.BUSY
        due = here.state is CircuitState.OPEN and here.until is not None and here.until <= now
        taken = replace(here, holder=wish.token, held_until=now + timedelta(seconds=RIGHT_SECONDS))
        return (replace(taken, state=CircuitState.HALF_OPEN) if due else taken), Right.YOURS

    def _shut(self, wish: Ask, now: datetime) -> bool:
        if self.state is not CircuitState.OPEN or self.until is None or self.until <= now:
            return False
        return not (wish.insist and self.code in OFFLINE)

    def after_report(self, report: Report, now: datetime, policy: CircuitPolicy) -> Circuit:
        """Return the circuit after a try.

        Reports about an earlier login, or with errors unrelated to the login, change nothing."""
        over = report.token is not None and report.token == self.holder
        here = replace(self, holder=None, held_until=None) if over else self
        if self.login != report.login:
            return here
        if report.code is None:
            return Circuit(self.login, proven=True)
        if report.code is ErrorCode.AUTH_FAILED:
            return here._opened(report, now, policy, proven=False)
        if report.code not in OFFLINE:
            return here._spared()
        if here.state is CircuitState.HALF_OPEN or here.failures + 1 >= policy.failures:
            return here._opened(report, now, policy, proven=here.proven)
        return replace(here, failures=here.failures + 1)

    def _spared(self) -> Circuit:
        """Return the circuit as before the try: a half-open one is open again, and due."""
        return (
            replace(self, state=CircuitState.OPEN) if self.state is CircuitState.HALF_OPEN else self
        )

    def _opened(
        self, report: Report, now: datetime, policy: CircuitPolicy, *, proven: bool
    ) -> Circuit:
        assert report.code is not None
        failed = replace(
            self,
            state=CircuitState.OPEN,
            proven=proven,
            failures=self.failures + 1,
            code=report.code,
            message=report.message,
            since=self.since or now,
        )
        refused_anew = (
            report.code is ErrorCode.AUTH_FAILED and self.code is not ErrorCode.AUTH_FAILED
        )
        if self.state is CircuitState.OPEN and not refused_anew:
            return failed  # another try was faster, or insisted: the pause stays as it was
        trips = 1 if refused_anew else self.trips + 1
        return replace(failed, trips=trips, until=now + policy.pause(report.code, trips))


def change(before: Circuit, after: Circuit) -> CircuitState | None:
    """Return the state to publish (open or closed); None if nothing visible has changed."""
    was, now = (c.state is CircuitState.CLOSED for c in (before, after))
    if was == now:
        return None
    return CircuitState.CLOSED if now else CircuitState.OPEN


def describe_open(target_name: str, circuit: Circuit) -> str:
    """Return why there is no session, in words."""
    since = f"{circuit.since:%Y-%m-%d %H:%M:%SZ}" if circuit.since else "just now"
    until = f"{circuit.until:%Y-%m-%d %H:%M:%SZ}" if circuit.until else "a while"
    code = circuit.code.value if circuit.code else "unknown"
    return (
        f"The circuit of {target_name} is open since {since} ({code}): {circuit.message} "
        f"It is tried again after {until}, or at once after `opsjobs circuits reset {target_name}`."
    )
