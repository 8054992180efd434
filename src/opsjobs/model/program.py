"""The program that a run starts, and its identity in the spool of its host.

A program is a command line or a script, with all its input."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from opsjobs.model.secret import Secret
from opsjobs.model.units import describe_size

SCRIPT_BYTES_MAX = 256 << 10
WORD_BYTES_MAX = 120_000
"""The limit of one argument or variable: Linux refuses one of more than 128 KiB."""

OURS = "OPSJOBS_"
"""The prefix of variables that the service sets.

They follow from the run's key, or contain the current name of a host. They are not part of the
identity of a program: under another name of the host, or started by another release, a run is
the same one."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_OURS = frozenset({"OPSJOBS_RUN", "OPSJOBS_SPOOL", "OPSJOBS_SECRETS"})
# A shell refuses to set these, exits because of them, or sets them itself.
_SHELLS_BASH = (
    "BASHOPTS",
    "BASH_VERSINFO",
    "DIRSTACK",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "EUID",
    "FUNCNAME",
    "GROUPS",
    "SRANDOM",
)
_SHELLS = frozenset(
    (
        *_SHELLS_BASH,
        "_",
        "LINENO",
        "OLDPWD",
        "OPTIND",
        "PPID",
        "PWD",
        "RANDOM",
        "SECONDS",
        "SHELLOPTS",
        "UID",
    )
)


@dataclass(frozen=True, slots=True)
class Program:
    """A command line, or the exact bytes of a script with its interpreter and arguments.

    Raises ValueError for values that no shell or kernel accepts.
    """

    command: str | None = None
    script: bytes | None = None
    interpreter: str = "sh"
    """A known name, or a path."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Its variables, which never reach the processes of opsjobs."""
    cwd: str | None = None
    """Its working directory; None: the home. A relative path starts there."""
    stdin: bytes | None = None
    """Its standard input; None: empty."""
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    """Files of these names in the directory that $OPSJOBS_SECRETS names."""

    def __post_init__(self) -> None:
        if (self.command is None) == (self.script is None):
            raise ValueError("a program is a command line or a script: one of them")
        if self.command is not None and self.args:
            raise ValueError("a command line has its arguments in itself")
        if len(self.script or b"") > SCRIPT_BYTES_MAX:
            raise ValueError(f"a script has at most {describe_size(SCRIPT_BYTES_MAX)}")
        if "" in (self.command, self.interpreter, self.cwd):
            raise ValueError("neither a command line nor an interpreter nor a folder is empty")
        if any("\0" in text for text in self._texts()):
            raise ValueError(
                "neither a command line, nor an argument, nor a variable, nor a path can hold NUL"
            )
        if any(len(word.encode()) > WORD_BYTES_MAX for word in (*self.args, *self.env.values())):
            raise ValueError(
                f"an argument or a variable has at most {describe_size(WORD_BYTES_MAX)}"
            )
        for name in self.env:
            check_variable(name)
        if odd := [name for name in self.secrets if not _SECRET.fullmatch(name)]:
            raise ValueError(f"{odd[0]!r} cannot be the name of a secret's file")

    def _texts(self) -> tuple[str, ...]:
        return (
            self.command or "",
            self.interpreter,
            self.cwd or "",
            *self.args,
            *self.env.values(),
        )

    @property
    def plain(self) -> bool:
        """True if it is a command line with variables only, which a shell runs as it is."""
        return (
            self.command is not None
            and self.cwd is None
            and self.stdin is None
            and not self.secrets
        )

    @property
    def text(self) -> str:
        """The command line, or the script decoded for display."""
        return (
            self.command
            if self.command is not None
            else (self.script or b"").decode(errors="replace")
        )

    @property
    def digest(self) -> str:
        """The SHA-256 of all parts; of secrets only the names.

        It is stored on the target, where guesses of a secret could be tested against it."""
        what = [
            self.command,
            _sum(self.script),
            self.interpreter,
            self.args,
            sorted((name, value) for name, value in self.env.items() if not name.startswith(OURS)),
            self.cwd,
            _sum(self.stdin),
            sorted(self.secrets),
        ]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def check_variable(name: str) -> None:
    """Raise ValueError for an invalid variable name, or a reserved one."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a variable in an environment")
    if name in _OURS:
        raise ValueError(f"{name} is a variable of opsjobs itself")
    if name in _SHELLS:
        raise ValueError(f"{name} is a variable that shells keep to themselves")


def _sum(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


Durability = Literal["auto", "required", "off"]


def durability(*wishes: Durability | None) -> Durability:
    """Return the durability from the settings of action, job and target.

    `required` anywhere takes precedence, then `off` anywhere, else `auto`."""
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

    The reply "no such run" is conclusive only while both are the same as when the start was sent.
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

    Both times and the limit are enforced on the target itself.
    """

    key: RunKey
    command: str
    """The command line; of a `program` its text (see `StartOrder.for_program`)."""
    timeout_seconds: float
    grace_seconds: float = 5.0
    """The time from TERM to KILL."""
    limit_bytes: int = 2 << 30
    """The limit of each output file."""
    environment: Mapping[str, str] = field(default_factory=dict)
    become: Become | None = None
    program: Program | None = None
    """The program, if it is more than a plain command line."""

    @classmethod
    def for_program(
        cls, key: RunKey, program: Program, timeout_seconds: float, **more: Any
    ) -> StartOrder:
        """Return an order for a program.

        A plain command line with variables gives the same order as in earlier releases."""
        if program.plain:
            return cls(key, program.text, timeout_seconds, environment=program.env, **more)
        return cls(key, program.text, timeout_seconds, program=program, **more)

    @property
    def digest(self) -> str:
        """The SHA-256 of the program: a run found with another digest is not this one."""
        variables = sorted(
            (name, value) for name, value in self.environment.items() if not name.startswith(OURS)
        )
        what: list[Any] = [self.command, variables, self.become.user if self.become else None]
        if self.program is not None:
            what.append(self.program.digest)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()
