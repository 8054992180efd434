"""Starting programs on Windows: as a line for cmd, or by a helper script in PowerShell."""

from __future__ import annotations

import base64
import codecs
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from opsjobs.model import quoting
from opsjobs.model.program import Program, StartOrder

LINE_CHARACTERS_MAX = 8_191
"""The maximum length of a line for cmd.exe."""

HOST_IDLE_SECONDS = 900.0
"""The idle time of a shell of commands: output waits that long for a slow worker."""
HELPER_IDLE_SECONDS = 180.0
"""The idle time of a shell of helpers: the shells of a dead worker are deleted soon."""

URGENT_OPERATIONS = frozenset({"cancel", "look", "hello"})
"""The operations of the helper of durable runs that a cancel needs."""

_POWERSHELL = "-NoProfile -NonInteractive -ExecutionPolicy Bypass"
_INTERPRETERS: Mapping[str, tuple[str, ...]] = {
    "powershell": ("powershell.exe",),
    "pwsh": ("pwsh.exe",),
    "cmd": ("cmd.exe",),
    "python": ("python.exe", "python3.exe", "py.exe"),
    "node": ("node.exe",),
    "perl": ("perl.exe",),
    "bash": ("bash.exe",),
    "sh": ("sh.exe",),
}
_BEFORE = {
    "powershell": f"{_POWERSHELL} -File ",
    "pwsh": f"{_POWERSHELL} -File ",
    "cmd": '/d /s /c "',
}
_ENDINGS = {"powershell": ".ps1", "pwsh": ".ps1", "cmd": ".cmd", "python": ".py"} | {
    "node": ".js",
    "perl": ".pl",
    "bash": ".sh",
    "sh": ".sh",
}
_TRAILING_BACKSLASHES = re.compile(r'(\\*)("|$)')


class UnsupportedProgram(ValueError):
    """A program that cannot be started over WinRM."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One command in a shell: its line, the shell's environment and folder, and its input.

    `nonce`: what precedes the reports of a helper script; None for a line of its own. `place`: the
    name of the folder for the program's files; the program knows it, but not the nonce. `stdin` is
    None if the caller writes it. `idle_seconds`: the time after which the host deletes the shell
    if nothing asks for it. `urgent`: it starts nothing, ends soon, and waits behind no start.
    """

    line: str
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    stdin: bytes | None = b""
    nonce: str | None = None
    place: str | None = None
    idle_seconds: float = HOST_IDLE_SECONDS
    urgent: bool = False


def launch_line(line: str, **more: Any) -> Launch:
    """Return the launch of a line in cmd. Raises UnsupportedProgram."""
    if "\n" in line.rstrip("\r\n"):
        raise UnsupportedProgram(
            "cmd.exe reads one line, and this command has several: use a script with the "
            "interpreter cmd or powershell"
        )
    line = line.rstrip("\r\n")
    if len(line) > LINE_CHARACTERS_MAX:
        raise UnsupportedProgram(
            f"cmd.exe reads at most {LINE_CHARACTERS_MAX} characters, and this command has "
            f"{len(line)}: use a script"
        )
    return Launch(line, **more)


def launch_program(program: Program) -> Launch:
    """Return the launch of a program. Raises UnsupportedProgram."""
    more: dict[str, Any] = {"environment": program.env, "folder": program.cwd}
    if program.command is not None and not program.secrets:
        return launch_line(program.command, stdin=program.stdin or b"", **more)
    nonce, place = secrets.token_hex(8), secrets.token_hex(16)
    given, data = _parameters(program)
    stdin = _helper_input("run", {"nonce": nonce, "place": place, **given}, data)
    stdin += program.stdin or b""
    return Launch(bootstrap_line(), stdin=stdin, nonce=nonce, place=place, **more)


def launch_cleanup(place: str) -> Launch:
    """Return the launch of a helper that removes the folder of a program that was killed."""
    return Launch(bootstrap_line(), stdin=_helper_input("clean", {"place": place}), urgent=True)


def launch_spool(parameters: Mapping[str, Any], data: bytes = b"") -> Launch:
    """Return the launch of the helper of durable runs, for one operation."""
    stdin = _helper_input("spool", parameters, data)
    urgent = parameters["op"] in URGENT_OPERATIONS
    return Launch(bootstrap_line(), stdin=stdin, idle_seconds=HELPER_IDLE_SECONDS, urgent=urgent)


def order_parameters(order: StartOrder) -> tuple[dict[str, Any], bytes]:
    """Return the parameters of the start of a durable run, and the bytes that follow them.

    Raises UnsupportedProgram.
    """
    program = order.program or Program(command=order.command, env=order.environment)
    given, data = _parameters(program)
    stdin = program.stdin or b""
    return {
        **given,
        "digest": order.digest,
        "timeout": order.timeout_seconds,
        "limit": order.limit_bytes,
        "folder": program.cwd,
        "stdin": len(stdin),
        "bytes": len(data) + len(stdin),
        "environment": [{"name": name, "value": value} for name, value in program.env.items()],
    }, data + stdin


def launch_disk() -> tuple[Launch, bytes]:
    """Return the launch of the helper that serves files, and the beginning of its input."""
    return Launch(bootstrap_line(), stdin=None, idle_seconds=HELPER_IDLE_SECONDS), _helper_input(
        "disk", {}
    )


def _helper_input(name: str, parameters: Mapping[str, Any], data: bytes = b"") -> bytes:
    """Return what the bootstrap line reads from its input: a helper and its parameters.

    What the host must not log follows as bytes, which the helper reads itself: a host with module
    logging writes what a cmdlet is given, such as the parameters, to its event log.
    """
    helper, given = read_helper(name).encode(), json.dumps(parameters).encode()
    return b"%d %d\n%b%b%b" % (len(helper), len(given), helper, given, data)


def _parameters(program: Program) -> tuple[dict[str, Any], bytes]:
    """Return the parameters of the helper script `run`, and its bytes: script, then secrets."""
    values = {name: secret.reveal().encode() for name, secret in program.secrets.items()}
    sizes = [{"name": name, "size": len(value)} for name, value in values.items()]
    found: dict[str, Any] = {"secrets": sizes}
    data = b"".join(values.values())
    if program.command is not None:
        line = launch_line(program.command).line
        found |= {"interpreters": ["cmd.exe"], "before": '/d /s /c "', "after": f'{line}"'}
        return found, data
    kind = _kind(program.interpreter)
    quote = quoting.cmd if kind == "cmd" else quote_argument
    arguments = "".join(f" {quote(argument)}" for argument in program.args)
    path = "/" in program.interpreter or "\\" in program.interpreter
    known = (program.interpreter,) if path else _INTERPRETERS.get(program.interpreter)
    script = _script_bytes(kind, program.script or b"")
    return {
        **found,
        "interpreters": known or (program.interpreter,),
        "script": len(script),
        "file": f"script{_ENDINGS.get(kind, '')}",
        "before": _BEFORE.get(kind, ""),
        "after": f'{arguments}"' if kind == "cmd" else arguments,
    }, script + data


def _script_bytes(kind: str, script: bytes) -> bytes:
    """Return a script as its interpreter reads it.

    Windows PowerShell reads a file without a byte order mark in the ANSI code page of the host.
    """
    if kind != "powershell" or script.isascii() or script.startswith(codecs.BOM_UTF8):
        return script
    try:
        script.decode()
    except UnicodeDecodeError:
        return script
    return codecs.BOM_UTF8 + script


def quote_argument(argument: str) -> str:
    """Quote an argument for programs that split their command line as Windows does."""
    doubled = _TRAILING_BACKSLASHES.sub(
        lambda found: found[1] * 2 + ('\\"' if found[2] else ""), argument
    )
    return f'"{doubled}"'


@cache
def bootstrap_line() -> str:
    """Return the line that starts PowerShell, which then reads a helper from its input."""
    code = base64.b64encode(_read("bootstrap").encode("utf-16-le")).decode()
    return f"powershell.exe {_POWERSHELL} -OutputFormat Text -EncodedCommand {code}"


@cache
def read_helper(name: str) -> str:
    """Return the helper script of this name."""
    return _read(name)


def _read(name: str) -> str:
    return files(__package__).joinpath("scripts", f"{name}.ps1").read_text()


def _kind(interpreter: str) -> str:
    """Return the kind of an interpreter by its name: python.exe is a python."""
    found = re.match(r"[a-z]+", re.split(r"[/\\]", interpreter.lower())[-1])
    return found[0] if found else ""
