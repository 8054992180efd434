"""Read files and standard input (`-`) for commands: whole, and with a size limit."""

from __future__ import annotations

import sys
from pathlib import Path

from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.model.units import format_size


def read_bytes(path: str, max_bytes: int) -> bytes:
    """Return the content of a file or of standard input.

    Raises CommandFailed if it is larger than `max_bytes` or cannot be read.
    """
    try:
        if path == "-":
            content = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with Path(path).expanduser().open("rb") as file:
                content = file.read(max_bytes + 1)
    except OSError as away:
        raise CommandFailed(
            f"{path} cannot be read: {away.strerror}. Check the path.", ExitCode.USAGE
        ) from None
    if len(content) > max_bytes:
        raise CommandFailed(
            f"{name_of(path)} has more than {format_size(max_bytes)}, which is the limit.",
            ExitCode.USAGE,
        )
    return content


def read_text(path: str, max_bytes: int) -> str:
    """Return the text of a file or of standard input.

    Raises CommandFailed as `read_bytes` does, and if it is not UTF-8.
    """
    try:
        return read_bytes(path, max_bytes).decode()
    except UnicodeDecodeError as wrong:
        raise CommandFailed(
            f"{name_of(path)} is not UTF-8 text (byte {wrong.start}).", ExitCode.USAGE
        ) from None


def name_of(path: str) -> str:
    """Return how the input is called in messages."""
    return "standard input" if path == "-" else path
