"""The interpreter of a script file: by its first line, its ending and its targets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.render import plain, pluralize

_KNOWN = {
    "python3": "python",
    **{name: name for name in ("bash", "sh", "python", "powershell", "pwsh", "node", "perl")},
}
_BY_ENDING = {
    ".ps1": "powershell",
    ".cmd": "cmd",
    ".bat": "cmd",
    ".py": "python",
    ".sh": "bash",
}
_DEFAULT = "bash"


def find_interpreter(name: str, body: bytes) -> str:
    """Return the interpreter of the script's `#!` line, or of its ending, or bash.

    Both `#!/usr/bin/env python3` and `#!/bin/sh` name their program.
    """
    return _from_first_line(body) or _BY_ENDING.get(_ending(name), _DEFAULT)


def _from_first_line(body: bytes) -> str | None:
    first = body.split(b"\n", 1)[0].decode(errors="replace").strip()
    program = first.removeprefix("#!").split() if first.startswith("#!") else []
    if len(program) > 1 and program[0].endswith("/env"):
        return _KNOWN.get(program[1], f"/usr/bin/{program[1]}")
    return program[0] if program else None


def _ending(name: str) -> str:
    return PurePath(name).suffix.lower()


def depends_on_targets(name: str) -> bool:
    """Return True if the kind of the targets decides if, or with what, this script runs."""
    return _ending(name) in (".ps1", ".cmd", ".bat", ".sh")


def fit_interpreter(name: str, interpreter: str, platforms: Mapping[str, int]) -> str:
    """Return the interpreter for targets of these platforms (their numbers).

    Raises CommandFailed if one interpreter does not fit all of them.
    """
    windows, count = platforms.get("windows", 0), sum(platforms.values())
    some = f"{windows} of {pluralize(count, 'target')}"
    match interpreter:
        case "powershell" if windows == 0 and count:
            return "pwsh"
        case "powershell" if windows < count:
            raise CommandFailed(
                f"{plain(name)}: {some} are Windows hosts, which run it with powershell; the "
                "others need pwsh. Select targets of one kind, or give --interpreter pwsh if all "
                "of them have it.",
                ExitCode.USAGE,
            )
        case "cmd" if windows < count:
            raise CommandFailed(
                f"{plain(name)}: cmd runs on Windows hosts only, and {count - windows} of "
                f"{pluralize(count, 'target')} are none. Select Windows hosts only.",
                ExitCode.USAGE,
            )
        case _ if windows and _ending(name) == ".sh":
            raise CommandFailed(
                f"{plain(name)}: {some} are Windows hosts, which have no POSIX shell. Leave them "
                "out (-x), or give --interpreter bash if they have one.",
                ExitCode.USAGE,
            )
    return interpreter
