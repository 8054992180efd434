"""Print messages on stderr, and escape the text of others in them.

Every process of the service starts by the command line, so this module loads no library.
"""

from __future__ import annotations

import os
import re
import sys

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def tell(message: str) -> None:
    """Print a message on stderr, one or more lines.

    It may contain text of a target or of the service: control characters are escaped. Pending
    stdout is written first, to keep the order if both are one file.
    """
    sys.stdout.flush()
    sys.stderr.write(f"{plain_lines(message)}\n")
    sys.stderr.flush()


def plain_lines(text: str) -> str:
    """Return the text with its control characters escaped, except line ends."""
    return "\n".join(plain(line) for line in text.split("\n"))


def discard_stdout() -> None:
    """Discard pending stdout after a broken pipe, so that the exit does not write again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(value: object) -> str:
    """Return the text with control and bidirectional characters escaped."""
    return _CONTROL.sub(lambda m: repr(m[0])[1:-1], str(value))


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: `pluralize(3, "target")` -> "3 targets"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
