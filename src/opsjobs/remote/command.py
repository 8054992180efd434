"""What a command line must be before it may be sent to any machine."""

from __future__ import annotations


def check_command(command: str) -> None:
    """Raise ValueError for an empty line, which would ask for a shell, and for a NUL, at which a server cuts it off."""
    if not command or "\0" in command:
        raise ValueError("a command line is neither empty nor holds NUL")
