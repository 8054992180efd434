"""Durations and sizes with units: "60s", "1.5h", "10MiB"; default: seconds, bytes."""

from __future__ import annotations

import re
from decimal import Decimal

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE = re.compile(r"(\d{1,30})\s*(B|KiB|MiB|GiB)?")
LIMIT_ERRORS = {
    "gt": ("greater_than", "it must be more than {gt}"),
    "ge": ("greater_than_equal", "it must be at least {ge}"),
    "le": ("less_than_equal", "it must be at most {le}"),
}
"""The code of pydantic's error for each bound, and its message."""
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, None: 1}


def parse_duration(text: object) -> float:
    """Return the seconds of "250ms", "30s", "10m", "2h", "1d", "45" or a number.

    >>> parse_duration("1.5h")
    5400.0
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} is not a duration: write a number with ms, s, m, h or d, such as 30s or 1.5h"
        )
    return float(match[1]) * _SECONDS[match[2]]


def format_duration(seconds: float) -> str:
    """Return the shortest exact notation: 90.0 -> "90s", 3600.0 -> "1h"."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    # Never 4.6e+06s, and no digit is lost.
    return f"{Decimal(repr(float(seconds))):f}s".replace(".0s", "s")


def parse_size(text: object) -> int:
    """Return the bytes of "64KiB", "10MiB", "2GiB", "100" or a whole number.

    >>> parse_size("10MiB")
    10485760
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} is not a size: write whole bytes or a number with KiB, MiB or GiB, such as "
            "10MiB"
        )
    return int(match[1]) * _BYTES[match[2]]


def format_size(size_bytes: int) -> str:
    """Return the shortest exact notation: 10485760 -> "10MiB"."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit}"
    return str(size_bytes)


def describe_size(size_bytes: int) -> str:
    """Return a size for a sentence: "10MiB", or "1500 bytes" if no larger unit is exact."""
    written = format_size(size_bytes)
    if not written.isdigit():
        return written
    return f"{written} byte" if size_bytes == 1 else f"{written} bytes"
