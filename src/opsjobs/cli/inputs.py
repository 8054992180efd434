"""Read files, standard input (`-`) and prompts for commands, each with a size limit.

The interpreter of a script file is found here, too.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath

import typer

from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, pluralize
from opsjobs.model.units import describe_size


def read_bytes(path: str, max_bytes: int) -> bytes:
    """Return the content of a file or of standard input.

    Raises CommandFailed if it is larger than `max_bytes` or cannot be read.
    """
    try:
        if path == "-":
            content = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with expand(path).open("rb") as file:
                content = file.read(max_bytes + 1)
    except OSError as error:
        raise CommandFailed(
            f"{path} cannot be read: {error.strerror}. Check the path.", ExitCode.USAGE
        ) from None
    if len(content) > max_bytes:
        raise CommandFailed(
            f"{name_of(path)} has more than {describe_size(max_bytes)}, which is the limit.",
            ExitCode.USAGE,
        )
    return content


def read_text(path: str, max_bytes: int) -> str:
    """Return the text of a file or of standard input.

    Raises CommandFailed as `read_bytes` does, and if it is not UTF-8.
    """
    try:
        return read_bytes(path, max_bytes).decode()
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"{name_of(path)} is not UTF-8 text (byte {error.start}).", ExitCode.USAGE
        ) from None


def expand(path: str | Path) -> Path:
    """Return the path with a leading `~` replaced by the home. Raises CommandFailed."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise CommandFailed(
            f"{path}: there is no such user on this machine. Check the path.", ExitCode.USAGE
        ) from None


def name_of(path: str) -> str:
    """Return the name of the input in messages."""
    return "standard input" if path == "-" else path


# --- secrets


SECRET_BYTES_MAX = 65_536
PASSWORD_CHARACTERS_MAX = 1_024


def ask_secret(question: str, *, otherwise: str) -> str:
    """Prompt without echo.

    Raises CommandFailed with the advice `otherwise` if stdin is not a terminal.
    """
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"{question}: standard input is not a terminal. {otherwise}", ExitCode.USAGE
        )
    return str(typer.prompt(question, hide_input=True, err=True))


def read_secret(path: str) -> str:
    """Return a job secret; the line end of a single line is removed."""
    text = read_secret_text(path)
    line = text.rstrip("\r\n")
    return text if "\n" in line else line


def read_secret_text(path: str) -> str:
    """Return a secret's text, at most 64 KiB; `-` is standard input. Raises CommandFailed."""
    text = read_text(path, SECRET_BYTES_MAX)
    if not text.strip():
        raise CommandFailed(
            f"{name_of(path)} is empty. Name a file that holds the secret.",
            ExitCode.USAGE,
        )
    return text


def read_password(question: str, *, twice: bool = False) -> str:
    """Return a password from a prompt (`twice`: confirmed), or a line of standard input.

    Raises CommandFailed.
    """
    if sys.stdin.isatty():
        return str(typer.prompt(question, hide_input=True, err=True, confirmation_prompt=twice))
    line = sys.stdin.readline(PASSWORD_CHARACTERS_MAX + 2).rstrip("\r\n")
    if not line or len(line) > PASSWORD_CHARACTERS_MAX:
        raise CommandFailed(
            f"{question}: give it as one line of standard input, at most "
            f"{PASSWORD_CHARACTERS_MAX} characters.",
            ExitCode.USAGE,
        )
    return line


# --- private keys


_OPENSSH = re.compile(
    r"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END OPENSSH PRIVATE KEY-----", re.DOTALL
)
_MAGIC = b"openssh-key-v1\x00"
_UNENCRYPTED = b"none"


def is_encrypted_key(text: str) -> bool:
    """Return True if a passphrase protects this key.

    An OpenSSH key names a cipher; a PEM header contains ENCRYPTED.
    """
    found = _OPENSSH.search(text)
    if found is None:
        return "ENCRYPTED" in text
    try:
        content = base64.b64decode("".join(found[1].split()), validate=True)
    except binascii.Error:
        return False
    if not content.startswith(_MAGIC):
        return False
    start = len(_MAGIC) + 4
    length = int.from_bytes(content[len(_MAGIC) : start])
    return content[start : start + length] != _UNENCRYPTED


def ask_passphrase(key: str, *, otherwise: str) -> str:
    """Prompt for the passphrase of this key file.

    Raises CommandFailed if there is no terminal.
    """
    if not sys.stdin.isatty():
        raise CommandFailed(f"{key}: the key has a passphrase. {otherwise}", ExitCode.USAGE)
    return ask_secret(f"Passphrase of {key}", otherwise=otherwise)


# --- the interpreter of a script file: by its first line, its ending and its targets


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
