"""The program that a run starts: a command line or a script, with all its input."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from opsjobs.model.secret import Secret

SCRIPT_BYTES_MAX = 256 << 10
WORD_BYTES_MAX = 120_000
"""The limit of one argument or variable: Linux refuses one of more than 128 KiB."""

OURS = "OPSJOBS_"
"""The prefix of variables that the service sets.

They follow from the run's key, or contain the current name of a machine. They do not count for the
identity of a program: under another name of the machine, or started by another release, a run is
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

    `interpreter`: a known name or a path. `env`: its variables, which never reach our own
    processes. `cwd`: its working directory (None: the home; a relative path starts there). `stdin`:
    its standard input (None: empty). `secrets`: files of these names in the directory that
    $OPSJOBS_SECRETS names. Raises ValueError for values that no shell or kernel accepts."""

    command: str | None = None
    script: bytes | None = None
    interpreter: str = "sh"
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    stdin: bytes | None = None
    secrets: Mapping[str, Secret] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.command is None) == (self.script is None):
            raise ValueError("a program is a command line or a script: one of them")
        if self.command is not None and self.args:
            raise ValueError("a command line has its arguments in itself")
        if len(self.script or b"") > SCRIPT_BYTES_MAX:
            raise ValueError(f"a script has at most {SCRIPT_BYTES_MAX} bytes")
        if "" in (self.command, self.interpreter, self.cwd):
            raise ValueError("neither a command line nor an interpreter nor a folder is empty")
        if any("\0" in text for text in self._texts()):
            raise ValueError(
                "neither a command line, nor an argument, nor a variable, nor a path can hold NUL"
            )
        if any(len(word.encode()) > WORD_BYTES_MAX for word in (*self.args, *self.env.values())):
            raise ValueError(f"an argument or a variable has at most {WORD_BYTES_MAX} bytes")
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
        """True if it is a command line with nothing but variables, which a shell runs as it is."""
        return (
            self.command is not None
            and self.cwd is None
            and self.stdin is None
            and not self.secrets
        )

    @property
    def text(self) -> str:
        """The command line, or the script decoded for people."""
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
