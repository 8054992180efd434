"""The tokens of a condition, each with its position."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

CHARACTERS_MAX = 4_096


class Fault(ValueError):
    """An invalid condition: the error, and its character position (from 0)."""

    def __init__(self, at: int, words: str) -> None:
        super().__init__(f"at character {at + 1}: {words}")
        self.at = at
        self.words = words


@dataclass(frozen=True, slots=True)
class ExpressionToken:
    """A token. `kind`: word, number, text, sign or end. `value`: of a number or a text."""

    kind: str
    text: str
    at: int
    value: Any = None


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?[0-9]+(?:\.[0-9]+)?(?![A-Za-z0-9_]))
    | (?P<word>[A-Za-z0-9_](?:[A-Za-z0-9_/-]*[A-Za-z0-9_])?)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<sign>==|!=|<=|>=|[<>()\[\],.])
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def tokens(text: str) -> list[ExpressionToken]:
    """Return all tokens, with `end` as the last. Raises Fault."""
    if len(text) > CHARACTERS_MAX:
        raise Fault(CHARACTERS_MAX, f"it is longer than {CHARACTERS_MAX} characters")
    found: list[ExpressionToken] = []
    at = 0
    while not found or found[-1].kind != "end":
        token, at = _token(text, at)
        found.append(token)
    return found


def _token(text: str, at: int) -> tuple[ExpressionToken, int]:
    match = _TOKEN.match(text, at)
    if match is None:
        at += len(text[at:]) - len(text[at:].lstrip())
        raise Fault(
            at, f"{text[at : at + 10]!r} is neither a name, a number, a text in quotes nor a sign"
        )
    kind = match.lastgroup or "end"
    said = match[kind]
    return ExpressionToken(kind, said, match.start(kind), _value(kind, said)), match.end()


def _value(kind: str, said: str) -> Any:
    if kind == "number":
        return float(said) if "." in said else int(said)
    if kind == "text":
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), said[1:-1], flags=re.DOTALL)
    return None
