"""The health of a target, from its circuits, its maintenance and its last runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from opsjobs.model.circuit import CircuitState
from opsjobs.model.execution import RunStatus, moment


class HealthStatus(StrEnum):
    """The health of a target in one word.

    `maintenance`: its runs are held. `unhealthy`: a circuit of it is not closed, or its last run
    ended unreachable, lost or dead. `ok`: neither, and it has run something or accepted a login,
    as of a test. `unknown`: nothing of this. Runs that never started do not count."""

    OK = "ok"
    UNHEALTHY = "unhealthy"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """The circuit of a target that stays open longest."""

    state: CircuitState
    code: str | None
    """The error code of the last failed connect."""
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run of a target that has ended."""

    status: RunStatus
    code: str | None
    """Its error code."""
    at: datetime
    """The time when it ended."""


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """The health of a target, and what it follows from."""

    status: HealthStatus
    circuit: OpenCircuit | None
    maintenance: Mapping[str, Any] | None
    last_run: LastRun | None
    last_success_at: datetime | None
    """Among its last 50 runs, as the next one."""
    last_contact_at: datetime | None
    """The end of the last run that was in contact with the machine."""
    waiting_runs: int
    """Runs that are held until its maintenance or its outage is over."""
    dead_letters: int
    """Runs on it that wait for an answer."""

    def data(self) -> dict[str, Any]:
        """Return `health` of a target."""
        circuit, last = self.circuit, self.last_run
        return {
            "status": self.status.value,
            "circuit": {
                "state": circuit.state.value,
                "code": circuit.code,
                "since": moment(circuit.since),
                "until": moment(circuit.until),
            }
            if circuit is not None
            else None,
            "maintenance": self.maintenance,
            "last_run": {"status": last.status.value, "code": last.code, "at": moment(last.at)}
            if last is not None
            else None,
            "last_success_at": moment(self.last_success_at),
            "last_contact_at": moment(self.last_contact_at),
            "waiting_runs": self.waiting_runs,
            "dead_letters": self.dead_letters,
        }
