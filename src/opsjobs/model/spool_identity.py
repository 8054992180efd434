"""The identity of a durable run on its machine, and of the machine's spool."""

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
    """Return the durability from the wishes of action, job and target.

    `required` anywhere wins, else `off` anywhere, else `auto`."""
    for strongest in ("required", "off"):
        if strongest in wishes:
            return strongest
    return "auto"


@dataclass(frozen=True, slots=True)
class RunKey:
    """The key of one start of one action, which happens at most once.

    It names the directory `<run>.<action>.<attempt>` on the target."""

    run: UUID
    action: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.run}.{self.action}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class SpoolIdentity:
    """The identity of a spool: the token in ~/.opsjobs/id and the machine's boot id.

    The answer "no such run" is conclusive only while both are the same as when the start was sent.
    """

    store: str
    boot: str


@dataclass(frozen=True, slots=True)
class Become:
    """The user that a command runs as, and the program that switches to it.

    A password is sent over standard input."""

    user: str = "root"
    method: Literal["sudo", "su", "doas"] = "sudo"
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class StartOrder:
    """The order to start a command at most once.

    `timeout_seconds`, `grace_seconds` (TERM to KILL) and `limit_bytes` of each output file are
    enforced on the target itself. `program`: the program, if it is more than a plain `command`;
    `command` is its text then (see `StartOrder.for_program`)."""

    key: RunKey
    command: str
    timeout_seconds: float
    grace_seconds: float = 5.0
    limit_bytes: int = 2 << 30
    environment: Mapping[str, str] = field(default_factory=dict)
    become: Become | None = None
    program: Program | None = None

    @classmethod
    def for_program(
        cls, key: RunKey, program: Program, timeout_seconds: float, **more: Any
    ) -> StartOrder:
        """Return an order for a program.

        A plain command line with variables makes the same order as in earlier releases."""
        if program.plain:
            return cls(key, program.text, timeout_seconds, environment=program.env, **more)
        return cls(key, program.text, timeout_seconds, program=program, **more)

    @property
    def digest(self) -> str:
        """The SHA-256 of what runs: a run found with another digest is not this one."""
        variables = sorted(
            (name, value) for name, value in self.environment.items() if not name.startswith(OURS)
        )
        what: list[Any] = [self.command, variables, self.become.user if self.become else None]
        if self.program is not None:
            what.append(self.program.digest)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()
