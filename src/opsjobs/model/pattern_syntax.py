"""The syntax of patterns: the common part of regular expression dialects.

Syntax that cannot be matched in linear time is not supported."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

LENGTH_MAX = 1_000
DEPTH_MAX = 50
REPEAT_MAX = 1_000
_LAST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]
Place = Literal["text_start", "text_end", "line_start", "line_end", "word_edge", "no_word_edge"]


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of these ranges of code points; `fold`: the case is ignored."""

    ranges: Ranges
    negated: bool = False
    fold: bool = False

    def has(self, char: str) -> bool:
        """Return True if the character is one of these."""
        spellings = {char, char.lower(), char.upper()} if self.fold else {char}
        points = [ord(one) for one in spellings if len(one) == 1]
        return (
            any(low <= point <= high for point in points for low, high in self.ranges)
            != self.negated
        )


@dataclass(frozen=True, slots=True)
class At:
    """A position between two characters."""

    place: Place


@dataclass(frozen=True, slots=True)
class Sequel:
    """A sequence of nodes."""

    parts: Sequence[Node]


@dataclass(frozen=True, slots=True)
class Choice:
    """Alternatives."""

    ways: Sequence[Node]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repetition: at least `least` and at most `most` times (None: any number)."""

    what: Node
    least: int
    most: int | None


Node = Chars | At | Sequel | Choice | Repeat

_DIGITS: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = ((9, 13), (32, 32))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_PLACES: dict[str, Place] = {
    "A": "text_start",
    "z": "text_end",
    "Z": "text_end",
    "b": "word_edge",
    "B": "no_word_edge",
}
_ANCHORS: dict[str, Place] = {
    "^": "text_start",
    "^m": "line_start",
    "$": "text_end",
    "$m": "line_end",
}


def _all_but(ranges: Ranges) -> Ranges:
    edges = [-1, *(edge for low, high in sorted(ranges) for edge in (low, high)), _LAST + 1]
    return tuple(
        (edges[i] + 1, edges[i + 1] - 1)
        for i in range(0, len(edges), 2)
        if edges[i] + 1 <= edges[i + 1] - 1
    )


def read(text: str) -> Node:
    """Parse the pattern to a tree. Raises ValueError with the error and its position."""
    if len(text) > LENGTH_MAX:
        raise ValueError(f"the pattern has {len(text)} characters, the limit is {LENGTH_MAX}")
    reader = _PatternReader(text)
    node = reader.choice(0)
    if reader.rest:
        raise reader.wrong("this ) closes nothing")
    return node


@dataclass(slots=True)
class _PatternReader:
    text: str
    at: int = 0
    flags: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        end = self.text.find(")")
        if self.text.startswith("(?") and end > 2 and set(self.text[2:end]) <= set("ims"):
            self.flags, self.at = set(self.text[2:end]), end + 1

    @property
    def rest(self) -> str:
        return self.text[self.at : self.at + 1]

    def wrong(self, words: str) -> ValueError:
        return ValueError(f"the pattern cannot be read at character {self.at + 1}: {words}")

    def take(self, words: str = "it ends too early") -> str:
        if not (char := self.rest):
            raise self.wrong(words)
        self.at += 1
        return char

    def follows(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def choice(self, depth: int) -> Node:
        if depth > DEPTH_MAX:
            raise self.wrong(f"it is nested more than {DEPTH_MAX} deep")
        ways = [self.sequel(depth)]
        while self.follows("|"):
            ways.append(self.sequel(depth))
        return Choice(ways) if len(ways) > 1 else ways[0]

    def sequel(self, depth: int) -> Node:
        parts: list[Node] = []
        while self.rest and self.rest not in "|)":
            parts.append(self.repeated(self.one(depth)))
        return Sequel(parts)

    def one(self, depth: int) -> Node:
        match char := self.take():
            case "(":
                return self.group(depth)
            case "[":
                return self.bracket()
            case "\\":
                return self.escape()
            case ".":
                return Chars(() if "s" in self.flags else ((10, 10),), negated=True)
            case "^" | "$":
                return At(_ANCHORS[char + ("m" if "m" in self.flags else "")])
            case "*" | "+" | "?":
                raise self.wrong(f"there is nothing before {char} that could be repeated")
        return self.chars(((ord(char), ord(char)),))

    def chars(self, ranges: Ranges, *, negated: bool = False) -> Chars:
        return Chars(ranges, negated, "i" in self.flags)

    def group(self, depth: int) -> Node:
        if self.follows("?") and not self.follows(":"):
            raise self.wrong(
                "(? is only supported as (?: … ), and as (?i), (?m), (?s) at the very beginning"
            )
        node = self.choice(depth + 1)
        if not self.follows(")"):
            raise self.wrong("a ) is missing")
        return node

    def repeated(self, node: Node) -> Node:
        least, most = 1, 1
        if self.follows("*"):
            least, most = 0, -1
        elif self.follows("+"):
            most = -1
        elif self.follows("?"):
            least = 0
        elif self.rest == "{" and (counts := self.counts()) is not None:
            least, most = counts
        else:
            return node
        self.follows("?")  # a lazy quantifier does not change whether it matches
        if self.rest and self.rest in "*+?":
            raise self.wrong("a repetition is repeated: put it into ( )")
        return Repeat(node, least, most if most >= 0 else None)

    def counts(self) -> tuple[int, int] | None:
        """Return the numbers of {n}, {n,} or {n,m}; None if the brace is a literal."""
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : end].partition(",")
        if end < 0 or not low.isdecimal() or not (high.isdecimal() or not high):
            return None
        least = most = int(low)
        if high:
            most = int(high)
        elif comma:
            most = -1
        if max(least, most) > REPEAT_MAX or 0 <= most < least:
            raise self.wrong(f"{{{low}{comma}{high}}} is not a range of counts up to {REPEAT_MAX}")
        self.at = end + 1
        return least, most

    def escape(self) -> Node:
        char = self.take("it ends with a backslash")
        if char in _PLACES:
            return At(_PLACES[char])
        if char.lower() in _CLASSES:
            return self.chars(_CLASSES[char.lower()], negated=char.isupper())
        point = ord(self.unescape(char))
        return self.chars(((point, point),))

    def unescape(self, char: str) -> str:
        """Return the character of an escape whose backslash has been read."""
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char in "xu":
            digits = self.text[self.at : self.at + (2 if char == "x" else 4)]
            if len(digits) != (2 if char == "x" else 4) or not set(digits) <= set(string.hexdigits):
                raise self.wrong(f"\\{char} wants {2 if char == 'x' else 4} hexadecimal digits")
            self.at += len(digits)
            return chr(int(digits, 16))
        if char.isalnum():
            why = (
                "a reference to a group cannot be matched in linear time"
                if char.isdecimal()
                else "it means nothing here"
            )
            raise self.wrong(f"\\{char} is not taken: {why}")
        return char

    def bracket(self) -> Node:
        negated = self.follows("^")
        ranges = list(self.members())  # a ] in the first place is a literal
        while not self.follows("]"):
            ranges += self.members()
        return self.chars(tuple(ranges), negated=negated)

    def members(self) -> Ranges:
        low = self.member()
        if isinstance(low, tuple):
            return low
        if self.rest != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return ((ord(low), ord(low)),)
        self.take()
        high = self.member()
        if isinstance(high, tuple) or high < low:
            raise self.wrong("this range of characters has no order")
        return ((ord(low), ord(high)),)

    def member(self) -> str | Ranges:
        char = self.take("a ] is missing")
        if char != "\\":
            return char
        char = self.take("it ends with a backslash")
        if char.lower() in _CLASSES:
            ranges = _CLASSES[char.lower()]
            return _all_but(ranges) if char.isupper() else ranges
        return "\b" if char == "b" else self.unescape(char)
