"""Outputs of an action: values from its standard output for later actions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

OUTPUTS_BYTES_MAX = 64 << 10
"""The limit of all values together (as JSON), of one line, and of `actions.KEY.stdout`."""

DEPTH_MAX = 20

Wanted = Literal["none", "json_lines", "last_line"]


class Outputs:
    """An incremental reader of a stream's outputs.

    Values beyond the limit are dropped; longer lines are not values."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._line = bytearray()
        self._too_long = False
        self._values: dict[str, Any] = {}
        self._last = ""

    def add(self, data: bytes) -> None:
        """Add the next bytes of standard output."""
        if self._wanted == "none":
            return
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._grow(line)
            self._end_line()
        self._grow(rest)

    def finish(self) -> dict[str, Any] | None:
        """Return the values; None if no outputs were requested."""
        if self._wanted == "none":
            return None
        self._end_line()
        values = {"last": self._last} if self._wanted == "last_line" else self._values
        return fitting(values)

    def _grow(self, data: bytes) -> None:
        if len(self._line) + len(data) > OUTPUTS_BYTES_MAX:
            self._too_long = True
            self._line.clear()
        elif not self._too_long:
            self._line += data

    def _end_line(self) -> None:
        line, too_long = bytes(self._line), self._too_long
        self._line.clear()
        self._too_long = False
        if too_long:
            return
        if self._wanted == "last_line":
            self._last = (
                line.decode("utf-8", "replace").rstrip("\r") if line.strip() else self._last
            )
        elif line.lstrip().startswith(b"{"):
            self._values |= _object(line)


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def fitting(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first values within the limit, cleaned for a jsonb column."""
    valid: dict[str, Any] = {}
    room = OUTPUTS_BYTES_MAX
    for name, value in values.items():
        clean = _clean({name: value})
        if (room := room - len(json.dumps(clean))) < 0:
            break
        valid |= clean
    return valid


def _clean(value: Any, depth: int = 0) -> Any:
    """Return the value without NUL, surrogates, infinite numbers and too deep nesting."""
    match value:
        case str():
            return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        case float():
            return value if math.isfinite(value) else None
        case dict() | list() if depth > DEPTH_MAX:
            return None
        case dict():
            return {_clean(name): _clean(item, depth + 1) for name, item in value.items()}
        case list():
            return [_clean(item, depth + 1) for item in value]
    return value
