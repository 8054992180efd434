"""The circuit of one login on one machine: who may try it, and what each outcome makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from uuid import UUID

from opsjobs.model.execution import OFFLINE, ErrorCode

TRIPS_AT_MOST = 6
"""So many openings in a row lengthen the pause; the last one is 32 times the first."""
RIGHT_SECONDS = 10.0
"""How long the right to try lives without being prolonged: so long a process that died with it keeps the others waiting."""


class CircuitState(StrEnum):
    """Closed: sessions as they are wanted. Open: none before `until`. Half-open: one try, on which all depends."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """After how many failed connects in a row a circuit opens, and for how long it does at first; a refusal opens it at once."""

    failures: int = 5
    pause_seconds: float = 15.0
    refused_pause_seconds: float = 900.0

    def pause(self, code: ErrorCode, trips: int) -> timedelta:
        """How long the circuit stays open at its `trips`-th opening in a row (1, 2, …): twice as long each time."""
        first = self.pause_seconds if code in OFFLINE else self.refused_pause_seconds
        return timedelta(seconds=first * 2 ** (min(max(trips, 1), TRIPS_AT_MOST) - 1))


@dataclass(frozen=True, slots=True)
class CircuitKey:
    """Whose circuit it is: a target's id and a credential's ("" = none)."""

    target_id: str
    credential_id: str


@dataclass(frozen=True, slots=True)
class Ask:
    """The wish to log in. `login` stands for all that makes it another login when it changes; `token` names this one try.

    `insist`: something of ours runs there already, so want of contact is no reason to wait; a refused login is.
    """

    key: CircuitKey
    login: str
    token: UUID
    insist: bool = False


class Right(Enum):
    """The answer to an Ask."""

    FREE = "free"
    """The login is known to be good: any number of tries at a time."""
    YOURS = "yours"
    """Nobody else tries before you have told how it went."""
    BUSY = "busy"
    """Somebody else tries just now: ask again soon."""
    OPEN = "open"
    """Not before `until`."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a try went: `code` None is success. `token`: of the right that it was tried with, and that ends with this."""

    key: CircuitKey
    login: str
    code: ErrorCode | None = None
    message: str = ""
    token: UUID | None = None


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of a login. `proven`: it was accepted once. `failures`: connects that failed, in a row.

    `trips`: openings in a row. `code`, `message`, `since`: why and since when it is not closed. `holder`: who tries just now.
    """

    login: str
    state: CircuitState = CircuitState.CLOSED
    proven: bool = False
    failures: int = 0
    trips: int = 0
    code: ErrorCode | None = None
    message: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    holder: UUID | None = None
    held_until: datetime | None = None

    @property
    def free(self) -> bool:
        """True where nobody needs to ask."""
        return self.state is CircuitState.CLOSED and self.proven

    @property
    def well(self) -> bool:
        """True where nothing has gone wrong lately."""
        return self.state is CircuitState.CLOSED and self.failures == 0

    def ask(self, wish: Ask, now: datetime) -> tuple[Circuit, Right]:
        """The answer, and the circuit after it. Another login is another circuit: nothing is known of it yet."""
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

    def told(self, report: Report, now: datetime, policy: CircuitPolicy) -> Circuit:
        """The circuit after a try. What was said of an earlier login, and what says nothing of the login, changes nothing."""
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
        """As before the try: what was half-open is open, and due."""
        return replace(self, state=CircuitState.OPEN) if self.state is CircuitState.HALF_OPEN else self

    def _opened(self, report: Report, now: datetime, policy: CircuitPolicy, *, proven: bool) -> Circuit:
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
        refused_anew = report.code is ErrorCode.AUTH_FAILED and self.code is not ErrorCode.AUTH_FAILED
        if self.state is CircuitState.OPEN and not refused_anew:
            return failed  # another one was faster, or insisted: the pause goes on as it was
        trips = 1 if refused_anew else self.trips + 1
        return replace(failed, trips=trips, until=now + policy.pause(report.code, trips))


def change(before: Circuit, after: Circuit) -> CircuitState | None:
    """The state that the world is told of: open or closed; None where nothing has changed for it."""
    was, now = (c.state is CircuitState.CLOSED for c in (before, after))
    if was == now:
        return None
    return CircuitState.CLOSED if now else CircuitState.OPEN


def words(target_name: str, circuit: Circuit) -> str:
    """Why there is no session, for people."""
    since = f"{circuit.since:%Y-%m-%d %H:%M:%SZ}" if circuit.since else "just now"
    until = f"{circuit.until:%Y-%m-%d %H:%M:%SZ}" if circuit.until else "a while"
    code = circuit.code.value if circuit.code else "unknown"
    return (
        f"The circuit of {target_name} is open since {since} ({code}): {circuit.message} "
        f"It is tried again after {until}, or at once after `opsjobs circuits reset {target_name}`."
    )
