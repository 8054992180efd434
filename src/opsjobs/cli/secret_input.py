"""Secrets as the command line takes them: from a file, from standard input, or from a prompt without echo."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from opsjobs.cli.exit_codes import CommandFailed, ExitCode

SECRET_BYTES_AT_MOST = 65_536


def ask(question: str, *, otherwise: str) -> str:
    """Prompt without echo. Raises CommandFailed if there is no terminal to ask at; `otherwise`: what to do then."""
    if not sys.stdin.isatty():
        raise CommandFailed(f"{question}: standard input is not a terminal. {otherwise}", ExitCode.USAGE)
    return str(typer.prompt(question, hide_input=True, err=True))


def read_value(path: str) -> str:
    """Return a secret of jobs: a single line without its line end, several lines as they are."""
    text = read_text(path)
    line = text.rstrip("\r\n")
    return text if "\n" in line else line


def read_text(path: str) -> str:
    """Return a secret's text, at most 64 KiB; `-` is standard input. Raises CommandFailed."""
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError:
        raise CommandFailed(f"{_named(path)}: not UTF-8 text. Encode it first, such as with base64.", ExitCode.USAGE) from None
    if not text.strip():
        raise CommandFailed(f"{_named(path)}: it is empty. Name a file that holds the secret.", ExitCode.USAGE)
    return text


def read_bytes(path: str) -> bytes:
    """Return the content of a file, or of standard input, of at most 64 KiB. Raises CommandFailed."""
    try:
        if path == "-":
            content = sys.stdin.buffer.read(SECRET_BYTES_AT_MOST + 1)
        else:
            with Path(path).expanduser().open("rb") as file:
                content = file.read(SECRET_BYTES_AT_MOST + 1)
    except OSError as away:
        raise CommandFailed(f"{path}: it cannot be read ({away.strerror}). Check the path.", ExitCode.USAGE) from None
    if len(content) > SECRET_BYTES_AT_MOST:
        raise CommandFailed(f"{_named(path)}: it is over 64 KiB. A secret is smaller: name another file.", ExitCode.USAGE)
    return content


def _named(path: str) -> str:
    return "standard input" if path == "-" else path
