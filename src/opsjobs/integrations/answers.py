"""Read what other services answer: JSON and headers, whatever they contain."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

RETRY_AFTER_DIGITS = 9


def parse_json(raw: bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError.

    Refused are also what Python reads and no column or response of ours can hold: NaN, Infinity,
    numbers beyond a float, half surrogate pairs, and nesting beyond the recursion limit.
    """
    try:
        # Given bytes, Python would also read half surrogates that are not escaped.
        text = raw.decode(json.detect_encoding(raw))
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_float
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (OverflowError, RecursionError) as wrong:
        raise ValueError(str(wrong)) from None
    return value


def parse_retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None if there are none, or it is a date."""
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > RETRY_AFTER_DIGITS:
        return None
    return float(digits)


def parse_host(location: str | None) -> str | None:
    """Return the host of a Location header; None if it has none."""
    try:
        return urlsplit(location or "").hostname
    except ValueError:
        return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> int:
    number = int(text)
    float(number)  # raises OverflowError
    return number


def _float(text: str) -> float:
    if (number := float(text)) in (float("inf"), float("-inf")):
        raise OverflowError(f"{text[:40]} is too large")
    return number
