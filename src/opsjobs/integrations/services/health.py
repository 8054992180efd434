"""The health of a service as this process sees it: its state, its last error, its circuit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from opsjobs.backoff import Backoff
from opsjobs.clock import Clock
from opsjobs.telemetry.logs import log

FAILURES_MAX = 5
"""Failures in a row that open the circuit."""
PAUSE_SECONDS = 2.0
PAUSE_SECONDS_MAX = 30.0


class IntegrationState(StrEnum):
    """The state of an integration."""

    UNUSED = "unused"
    """It was not needed yet."""
    OK = "ok"
    FAILING = "failing"
    OPEN = "open"
    """It failed several times in a row, and is not asked for a while."""


@dataclass(frozen=True, slots=True)
class IntegrationStatus:
    """One integration as GET /status shows it."""

    name: str
    host: str
    profile: str
    state: IntegrationState
    last_error: str | None
    since: datetime
    """When it came into this state."""
    asked_at: datetime | None = None
    """The end of the last request; None before the first."""


class ServiceHealth:
    """The health of one service, with its circuit breaker.

    An open circuit lets one request through after each pause: if that succeeds, it is closed.
    """

    def __init__(self, name: str, url: str, profile: str, clock: Clock) -> None:
        parts = urlsplit(url)
        self.name = name
        self.host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        self.failures = 0
        self.last_error: str | None = None
        self._profile = profile
        self._clock = clock
        self._state = IntegrationState.UNUSED
        self._since = clock.now()
        self._asked_at: datetime | None = None
        self._backoff = Backoff(PAUSE_SECONDS, PAUSE_SECONDS_MAX)
        self._closed_until = 0.0
        self._probing = False

    def status(self) -> IntegrationStatus:
        """Return the state for GET /status."""
        return IntegrationStatus(
            self.name,
            self.host,
            self._profile,
            self._state,
            self.last_error,
            self._since,
            self._asked_at,
        )

    def closed_for(self) -> float:
        """Return for how many seconds nothing may be sent; 0: send, and report the result.

        With an open circuit this admits one request; others wait for its result.
        """
        if self.failures < FAILURES_MAX:
            return 0.0
        rest = self._closed_until - self._clock.monotonic()
        if rest > 0 or self._probing:
            return max(rest, 1.0)
        self._probing = True
        return 0.0

    def tried(self) -> None:
        """Note the end of a request, whether it failed or not."""
        self._probing = False
        self._asked_at = self._clock.now()

    def succeeded(self) -> None:
        """Note a request that the service answered."""
        self.failures = 0
        self._backoff.reset()
        self._move(IntegrationState.OK)

    def failed(self, error: str) -> None:
        """Note a request without a usable answer."""
        self.failures += 1
        self.last_error = error
        if self.failures >= FAILURES_MAX:
            self._closed_until = self._clock.monotonic() + self._backoff.next()
            self._move(IntegrationState.OPEN)
        else:
            self._move(IntegrationState.FAILING)

    def refused_us(self, error: str) -> None:
        """Note that the service is up, but does not accept our credentials."""
        self.failures = 0
        self.last_error = error
        self._move(IntegrationState.FAILING)

    def _move(self, state: IntegrationState) -> None:
        if state is self._state:
            return
        level = log.info if state is IntegrationState.OK else log.warning
        level("integration_state", integration=self.name, state=state, error=self.last_error)
        self._state, self._since = state, self._clock.now()
