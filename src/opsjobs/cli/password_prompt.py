"""Passwords as people give them: typed where nobody sees it, or as the one line of standard input;
never on the command line.
"""

from __future__ import annotations

import sys

import typer

from opsjobs.cli.exit_codes import CommandFailed, ExitCode

CHARACTERS_AT_MOST = 1_024


def password(question: str, *, twice: bool = False) -> str:
    """A password that is typed, `twice` for a new one, or the first line of standard input. Raises
    CommandFailed.
    """
    if sys.stdin.isatty():
        return str(typer.prompt(question, hide_input=True, err=True, confirmation_prompt=twice))
    line = sys.stdin.readline(CHARACTERS_AT_MOST + 2).rstrip("\r\n")
    if not line or len(line) > CHARACTERS_AT_MOST:
        raise CommandFailed(
            f"{question}: give it as one line of standard input, at most {CHARACTERS_AT_MOST} characters.", ExitCode.USAGE
        )
    return line
