"""What names a durable run on its machine, and what names the machine's store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from opsjobs.model.program import OURS, Program
from opsjobs.model.secret import Secret

Durability = Literal["auto", "required", "off"]


def durability(*wishes: Durability | None) -> Durability:
    """What holds where action, job and target each may wish: required anywhere wins, else off anywhere, else auto."""
    for strongest in ("required", "off"):
        if strongest in wishes:
            return strongest
    return "auto"


@dataclass(frozen=True, slots=True)
class RunKey:
    """One start of one action: it happens at most once. Names the folder `<run>.<action>.<attempt>` on the target."""

    run: UUID
    action: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.run}.{self.action}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class SpoolIdentity:
    """Which store answers: the token in ~/.opsjobs/id and the machine's boot id. "No such run" means only what it says
    while both are those under which the start was sent.
    """

    store: str
    boot: str


@dataclass(frozen=True, slots=True)
class Become:
    """As whom a command runs, and by which program; a password goes over standard input."""

    user: str = "root"
    method: Literal["sudo", "su", "doas"] = "sudo"
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class StartOrder:
    """What to start, at most once. `timeout_seconds`, `grace_seconds` (TERM to KILL) and `limit_bytes` of each output file
    are watched on the target itself.

    `program`: what is started, where it is more than the plain `command`, which is its text then (see `StartOrder.of`).
    """

    key: RunKey
    command: str
    timeout_seconds: float
    grace_seconds: float = 5.0
    limit_bytes: int = 2 << 30
    environment: Mapping[str, str] = field(default_factory=dict)
    become: Become | None = None
    program: Program | None = None

    @classmethod
    def of(cls, key: RunKey, program: Program, timeout_seconds: float, **more: Any) -> StartOrder:
        """An order for a program. One that is nothing but a command line with variables is the plain order it always was."""
        if program.plain:
            return cls(key, program.text, timeout_seconds, environment=program.env, **more)
        return cls(key, program.text, timeout_seconds, program=program, **more)

    @property
    def digest(self) -> str:
        """SHA-256 of what runs: a run that is found with another one is not ours."""
        variables = sorted((name, value) for name, value in self.environment.items() if not name.startswith(OURS))
        what: list[Any] = [self.command, variables, self.become.user if self.become else None]
        if self.program is not None:
            what.append(self.program.digest)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()
