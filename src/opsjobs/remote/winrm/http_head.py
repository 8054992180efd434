"""The head of an HTTP message in its usual form, read at a fraction of the cost of h11.

Everything else is left to h11, which also judges what is no HTTP. What is accepted here, h11
accepts as well and reads alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Printable ASCII only, and no folded lines: each character has one way to match.
_HEAD = re.compile(rb"([!-~][ -~]*)\r\n((?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t -~]*\r\n)+)\r\n")
_LENGTH = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Head:
    """The first line, the fields (names in lower case), and where the body begins and ends."""

    line: str
    fields: tuple[tuple[str, str], ...]
    begin: int
    end: int


def read_head(data: bytes) -> Head | None:
    """Return the head of a message whose body has a stated length, and is followed by others.

    None if the head is not complete, or is not of this form: it may still be one.
    """
    found = _HEAD.match(data)
    if found is None:
        return None
    lines = found[2].decode("ascii").split("\r\n")
    fields: list[tuple[str, str]] = []
    length: str | None = None
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name == "content-length":
            if length is not None or _LENGTH.fullmatch(value) is None:
                return None
            length = value
        elif name in ("transfer-encoding", "upgrade", "expect") or (
            name == "connection" and value.lower() != "keep-alive"
        ):
            return None
        fields.append((name, value))
    if length is None:
        return None
    begin = found.end()
    return Head(found[1].decode("ascii"), tuple(fields), begin, begin + int(length))
