"""Read passwords from a prompt or from standard input, never from the arguments."""

from __future__ import annotations

import sys

import typer

from opsjobs.cli.exit_codes import CommandFailed, ExitCode

CHARACTERS_AT_MOST = 1_024


def read_password(question: str, *, twice: bool = False) -> str:
    """Return a password from a prompt (`twice`: confirmed), or a line of standard input.

    Raises CommandFailed.
    """
    if sys.stdin.isatty():
        return str(typer.prompt(question, hide_input=True, err=True, confirmation_prompt=twice))
    line = sys.stdin.readline(CHARACTERS_AT_MOST + 2).rstrip("\r\n")
    if not line or len(line) > CHARACTERS_AT_MOST:
        raise CommandFailed(
            f"{question}: give it as one line of standard input, at most {CHARACTERS_AT_MOST} characters.", ExitCode.USAGE
        )
    return line
