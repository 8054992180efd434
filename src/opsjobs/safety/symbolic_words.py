"""A word as far as it is known: plain text with marks for the parts that a shell inserts.

A mark is one character of a private plane, so that a word stays a `str` that can be cut, joined and
searched. Input is cleared of these characters first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice, product

from opsjobs.safety.budget import check_size

MAYBE_EMPTY = "\ue000"
"""An unknown value that may be empty: a variable that is never set."""
SOMETHING = "\ue001"
"""An unknown value that is not empty: the output of `mktemp`."""
STAR = "\ue002"
ANY = "\ue003"
SPLIT = "\ue004"
"""White space of an unquoted expansion: one word becomes two here."""
HOME = "\ue005"
OPEN, COMMA, CLOSE = "\ue006", "\ue007", "\ue008"
LEFT, RIGHT = "\ue009", "\ue00a"
"""Brackets of a glob: `[a-z]`."""
OUTSIDE = "\ue00b"
LATER = MAYBE_EMPTY + OUTSIDE
"""An unknown value from outside the program: its argument, an earlier action's output."""

DIGITS_MAX = 9
MEANINGS_MAX = 16
"""The most values of one word, command line or variable."""

_MARKS = re.compile("[\ue000-\ue00b]")
_UNWANTED = re.compile("[\ue000-\ue00b\ud800-\udfff]")
_GLOB = re.compile(f"[{STAR}{ANY}]")
_BRACKETS = re.compile(f"{LEFT}(.)([^{RIGHT}{LEFT}/]*){RIGHT}", re.DOTALL)
_BRACES = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")
_UNQUOTED = str.maketrans(
    {"*": STAR, "?": ANY, "{": OPEN, ",": COMMA, "}": CLOSE, "[": LEFT, "]": RIGHT}
)
_LITERAL = str.maketrans({OPEN: "{", COMMA: ",", CLOSE: "}", LEFT: "[", RIGHT: "]"})
_SHOWN = str.maketrans(
    {
        MAYBE_EMPTY: "…",
        SOMETHING: "…",
        STAR: "*",
        ANY: "?",
        SPLIT: " ",
        HOME: "~",
        OPEN: "{",
        COMMA: ",",
        CLOSE: "}",
        LEFT: "[",
        RIGHT: "]",
        OUTSIDE: "",
    }
)
_NAMES = {
    "python": "OPSJOBS_UNSAID",
    "powershell": "$OPSJOBS_UNSAID",
    "powershell-line": "$OPSJOBS_UNSAID",
    "cmd": "%OPSJOBS_UNSAID%",
}


def parse_number(text: str) -> int | None:
    """Return the whole number that a text is; None if it is none, or longer than any index."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > DIGITS_MAX:
        return None
    return int(text)


def cleared(text: str) -> str:
    """Replace internal marks and surrogates by U+FFFD; surrogates have no bytes in UTF-8."""
    return _UNWANTED.sub("\ufffd", text)


def mark_special(text: str) -> str:
    r"""Mark the special characters in unquoted shell text, except escaped ones.

    `r\m*` becomes `rm` STAR.
    """
    if "\\" not in text:
        return text.translate(_UNQUOTED)
    head, *rest = text.split("\\")
    pieces, literal = [head.translate(_UNQUOTED)], False
    for piece in rest:
        if literal:  # the second backslash of a pair
            pieces.append(piece.translate(_UNQUOTED))
            literal = False
        elif not piece:
            pieces.append("\\")
            literal = True
        else:
            pieces.append(("" if piece[0] == "\n" else piece[0]) + piece[1:].translate(_UNQUOTED))
    return "".join(pieces)


def is_known(word: str) -> bool:
    """Return True if all of the word is known.

    A glob counts as known, because the names that it may match can be computed.
    """
    return MAYBE_EMPTY not in word and SOMETHING not in word


def has_glob(word: str) -> bool:
    """Return True if the word depends on the names of files."""
    return _GLOB.search(word) is not None


def render_word(word: str) -> str:
    """Return the word for display: `rm -rf …/`."""
    return word.translate(_SHOWN)


def as_source(word: str, language: str = "bash") -> str:
    """Return the word as source text again; unknown parts become unset variables."""
    if OUTSIDE in word and language == "bash":
        word = word.replace(LATER, "${OPSJOBS_UNKNOWN}")
    name = _NAMES.get(language)
    unknown = {MAYBE_EMPTY: name or "${OPSJOBS_UNSAID}", SOMETHING: name or "${OPSJOBS_UNSAID:?}"}
    return _MARKS.sub(lambda mark: unknown.get(mark[0]) or render_word(mark[0]), word)


def fields(word: str) -> list[str]:
    """Return the words into which the shell expands one word.

    Braces are expanded, globs of one character resolved, and the word is cut at unquoted white
    space.
    """
    if _MARKS.search(word) is None:
        return [word]
    found = [field for piece in _braces(word) for field in piece.split(SPLIT)]
    if SPLIT in word:
        found = [field for field in found if field]
    return [_brackets(field).translate(_LITERAL) for field in found]


def _brackets(word: str) -> str:
    if LEFT not in word:
        return word

    def resolve(match: re.Match[str]) -> str:
        return match[1] if not match[2] and match[1] not in "!^" else ANY

    return _BRACKETS.sub(resolve, word)


def _braces(word: str) -> list[str]:
    """Expand braces, `{rm,-rf}` to two words, innermost first; at most MEANINGS_MAX words."""
    done: list[str] = []
    left = [word]
    while left and len(done) + len(left) <= MEANINGS_MAX:
        one = left.pop(0)
        found = next((f for f in _BRACES.finditer(one) if COMMA in f[1]), None)
        if found is None:
            done.append(one)
        else:
            pieces = found[1].split(COMMA)
            check_size((len(pieces) - 1) * (len(one) - len(found[0])))
            left[:0] = [one[: found.start()] + piece + one[found.end() :] for piece in pieces]
    return done + left


def join_parts(parts: Iterable[Sequence[str]]) -> list[str]:
    """Return all meanings of a word of several parts, each with its own meanings.

    If there are too many, MAYBE_EMPTY represents the rest. Raises Spent if one of them would be
    too long.
    """
    parts = list(parts)
    check_size(sum(len(max(part, key=len, default="")) for part in parts))
    if all(len(part) == 1 for part in parts):
        return ["".join(part[0] for part in parts)]
    found = list(
        dict.fromkeys("".join(pieces) for pieces in islice(product(*parts), MEANINGS_MAX + 1))
    )
    return found if len(found) <= MEANINGS_MAX else [*found[:MEANINGS_MAX], MAYBE_EMPTY]
