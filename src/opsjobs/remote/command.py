"""The check of a command line before it is sent to any machine."""

from __future__ import annotations


def check_command(command: str) -> None:
    """Raise ValueError for an empty command line, or one with NUL.

    An empty one would request a shell; at NUL a server cuts the line off.
    """
    if not command or "\0" in command:
        raise ValueError("a command line is neither empty nor holds NUL")
