"""Validation errors: raised with a code and a path, with messages for people.

`fault` creates an error of opsjobs; `plain_words` rewords those of pydantic, with the name that was
probably meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import PydanticCustomError

from opsjobs.model import text_patterns
from opsjobs.model.units import LIMIT_ERRORS
from opsjobs.model.unknown_field import UnknownField


def fault(code: str, detail: str, *at: str | int) -> PydanticCustomError:
    """Return an error for a validator to raise.

    `at`: keys and positions from that validator's own model down to the invalid value.

        >>> str(fault("cycle", "a waits for b, b waits for a", "actions", 0, "depends_on"))
        '/actions/0/depends_on: a waits for b, b waits for a'"""
    where = "".join(f"/{step}" for step in at)
    words = f"{where}: {detail}" if where else detail
    # The text is passed as a value, so that pydantic does not interpret braces in it.
    return PydanticCustomError(code, "{words}", {"words": words, "detail": detail, "at": list(at)})


_PREFIXES = ("Value error, ", "Assertion failed, ")
_DATE = "it must be a date and time such as 2026-12-01T09:00:00Z"
_WHOLE = "it must be a whole number"
_NUMBER = "it must be a number"
_BOOLEAN = "it must be true or false"
_OBJECT = "it must be an object with named fields"
_WORDS = {
    "missing": "it is required",
    "timezone_aware": "it needs a time zone: Z, or an offset such as +01:00",
    "datetime_type": _DATE,
    "datetime_parsing": _DATE,
    "datetime_from_date_parsing": _DATE,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "list_type": "it must be a list",
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "string_too_short": "it must have at least {min_length} characters",
    "string_too_long": "it must have at most {max_length} characters",
    "too_short": "it must have at least {min_length} items, not {actual_length}",
    "too_long": "it must have at most {max_length} items",
    "less_than": "it must be less than {lt}",
    **dict(LIMIT_ERRORS.values()),
}
_CHOICES = {"literal_error": "expected", "enum": "expected", "union_tag_invalid": "expected_tags"}


def plain_words(error: Mapping[str, Any]) -> str:
    """Return the message of a pydantic error, without a full stop."""
    kind, context, given = str(error["type"]), error.get("ctx") or {}, error.get("input")
    if kind == "string_type":
        is_scalar = isinstance(given, int | float)
        return "it must be a text: put it in quotes" if is_scalar else "it must be a text"
    if kind == "extra_forbidden":
        near = given.near if isinstance(given, UnknownField) else None
        return "there is no such field here" + (f"; did you mean {near!r}?" if near else "")
    if kind == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        return f"it must {text_patterns.WORDS.get(pattern, f'match the pattern {pattern}')}"
    if kind in _CHOICES and _CHOICES[kind] in context:
        return _choice(str(context[_CHOICES[kind]]), given)
    if kind in ("too_short", "too_long") and isinstance(given, str):
        kind = f"string_{kind}"
    if kind in _WORDS:
        return _WORDS[kind].format_map(context)
    words = str(error["msg"])
    for prefix in _PREFIXES:
        words = words.removeprefix(prefix)
    return words


def _choice(expected: str, given: object) -> str:
    near = (
        get_close_matches(given, re.findall(r"'([^']*)'", expected), n=1)
        if isinstance(given, str)
        else []
    )
    return f"it must be {expected}" + (f"; did you mean {near[0]!r}?" if near else "")
