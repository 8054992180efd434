"""Read secrets and passwords from a file, standard input, or a prompt without echo."""

from __future__ import annotations

import sys

import typer

from opsjobs.cli import input_files
from opsjobs.cli.exit_codes import CommandFailed, ExitCode

SECRET_BYTES_MAX = 65_536
PASSWORD_CHARACTERS_MAX = 1_024


def ask(question: str, *, otherwise: str) -> str:
    """Prompt without echo.

    Raises CommandFailed with the advice `otherwise` if stdin is not a terminal.
    """
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"{question}: standard input is not a terminal. {otherwise}", ExitCode.USAGE
        )
    return str(typer.prompt(question, hide_input=True, err=True))


def read_value(path: str) -> str:
    """Return a secret of jobs; a single line loses its line end."""
    text = read_text(path)
    line = text.rstrip("\r\n")
    return text if "\n" in line else line


def read_text(path: str) -> str:
    """Return a secret's text, at most 64 KiB; `-` is standard input. Raises CommandFailed."""
    text = input_files.read_text(path, SECRET_BYTES_MAX)
    if not text.strip():
        raise CommandFailed(
            f"{input_files.name_of(path)} is empty. Name a file that holds the secret.",
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
