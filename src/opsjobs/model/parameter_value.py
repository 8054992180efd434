"""The types of parameters: conversion of values from JSON or a command line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from opsjobs.model.api_model import read_instant
from opsjobs.model.naming import check_host

TEXT_MAX = 32_768
ENTRIES_MAX = 1_000

ParameterType = Literal[
    "string",
    "integer",
    "number",
    "boolean",
    "choice",
    "multi_choice",
    "datetime",
    "secret",
    "host_list",
]
Value = str | int | float | bool | list[Any] | None

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d{1,18}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?")


class ValueRefused(ValueError):
    """The value is invalid for this parameter; `code` is for programs."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def fitting(kind: ParameterType, given: object) -> Value:
    """Return the value converted to this type. Raises ValueRefused.

    Every type accepts texts, because a command line has no other values."""
    return _FITTING.get(kind, _text)(given)


def size_of(kind: ParameterType, value: Any) -> Any:
    """Return the value to compare with `min` and `max`."""
    if kind == "datetime":
        return read_instant(str(fitting(kind, value)))
    return fitting(kind, value)


def _text(given: object) -> str:
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = str(given)
    if not isinstance(given, str):
        raise ValueRefused("wrong_type", "it is not a text")
    if len(given) > TEXT_MAX:
        raise ValueRefused("too_long", f"it has more than {TEXT_MAX} characters")
    if "\x00" in given:
        raise ValueRefused(
            "bad_character", "it contains a NUL character, which no command can receive"
        )
    return given


def _integer(given: object) -> int:
    if isinstance(given, str) and _INTEGER.fullmatch(given):
        given = int(given)
    if not isinstance(given, int) or isinstance(given, bool) or abs(given) >= 1 << 63:
        raise ValueRefused("wrong_type", "it is not a whole number")
    return given


def _number(given: object) -> int | float:
    if isinstance(given, str) and _NUMBER.fullmatch(given):
        given = int(given) if _INTEGER.fullmatch(given) else float(given)
    if (
        not isinstance(given, int | float)
        or isinstance(given, bool)
        or abs(given) >= 1 << 63
        or not math.isfinite(given)
    ):
        raise ValueRefused("wrong_type", "it is not a number")
    return given


def _boolean(given: object) -> bool:
    if isinstance(given, str) and given in ("true", "false"):
        return given == "true"
    if not isinstance(given, bool):
        raise ValueRefused("wrong_type", "it is neither true nor false")
    return given


def _moment(given: object) -> str:
    try:
        read_instant(given if isinstance(given, str) else "")
    except ValueError as wrong:
        raise ValueRefused(
            "wrong_type", f"it is not a date and time with a zone: {wrong}"
        ) from None
    return str(given)


def _scalar(given: object) -> str | int | float | bool:
    return given if isinstance(given, bool | int | float) else _text(given)


def _entries(given: object, between: str) -> list[Any]:
    if isinstance(given, str):
        given = [entry.strip() for entry in re.split(between, given) if entry.strip()]
    if not isinstance(given, list):
        raise ValueRefused("wrong_type", "it is not a list")
    if len(given) > ENTRIES_MAX:
        raise ValueRefused("too_long", f"it has more than {ENTRIES_MAX} entries")
    return given


def _choices(given: object) -> list[Any]:
    return [_scalar(one) for one in _entries(given, r",")]


def _hosts(given: object) -> list[Any]:
    return [_host(one) for one in _entries(given, r"[\s,]+")]


def _host(given: object) -> str:
    try:
        return check_host(_text(given))
    except ValueError:
        raise ValueRefused(
            "wrong_type", f"{str(given)[:100]!r} is neither an IP address nor a host name"
        ) from None


_FITTING: Mapping[ParameterType, Callable[[object], Value]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "datetime": _moment,
    "choice": _scalar,
    "multi_choice": _choices,
    "host_list": _hosts,
}
