"""A word as far as it is known: plain text, with marks where a shell puts in something of its own.

A mark is one character of a private plane, so that a word stays a `str` that can be cut, joined and searched. What comes in
is cleared of these characters first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice, product

from opsjobs.safety.budget import check_size

MAYBE_EMPTY = "\ue000"
"""Something that is not known, and may be nothing at all: a variable that nobody sets."""
SOMETHING = "\ue001"
"""Something that is not known, but is not nothing: the output of `mktemp`."""
STAR = "\ue002"
ANY = "\ue003"
SPLIT = "\ue004"
"""White space of an expansion without quotes: here one word becomes two."""
HOME = "\ue005"
OPEN, COMMA, CLOSE = "\ue006", "\ue007", "\ue008"
LEFT, RIGHT = "\ue009", "\ue00a"
"""Brackets of a glob: `[a-z]`."""
OUTSIDE = "\ue00b"
LATER = MAYBE_EMPTY + OUTSIDE
"""A value that comes from outside of the program, and is not known: an argument of it, the output of an earlier action."""

MEANINGS_MAX = 16
"""Of one word or one command line: as many values as a variable may have."""

_MARKS = re.compile("[\ue000-\ue00b]")
_UNWANTED = re.compile("[\ue000-\ue00b\ud800-\udfff]")
_GLOB = re.compile(f"[{STAR}{ANY}]")
_BRACKETS = re.compile(f"{LEFT}(.)([^{RIGHT}{LEFT}/]*){RIGHT}", re.DOTALL)
_BRACES = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")
_UNQUOTED = str.maketrans({"*": STAR, "?": ANY, "{": OPEN, ",": COMMA, "}": CLOSE, "[": LEFT, "]": RIGHT})
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


def cleared(text: str) -> str:
    """A text without any of our marks in it, and without halves of characters, which have no bytes."""
    return _UNWANTED.sub("\ufffd", text)


def marked(text: str) -> str:
    r"""Unquoted text of a shell: what is special in it is marked, what is escaped is not. `r\m*` -> `rm` STAR."""
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


def known(word: str) -> bool:
    """Whether all of it is known; a glob counts as known, as what it may match can be said."""
    return MAYBE_EMPTY not in word and SOMETHING not in word


def has_glob(word: str) -> bool:
    """Whether the names of files decide what it is."""
    return _GLOB.search(word) is not None


def shown(word: str) -> str:
    """For people: `rm -rf …/`."""
    return word.translate(_SHOWN)


def as_source(word: str, language: str = "bash") -> str:
    """The word as text of a program again: what is not known becomes a variable that nobody sets."""
    if OUTSIDE in word and language == "bash":
        word = word.replace(LATER, "${OPSJOBS_UNKNOWN}")
    name = _NAMES.get(language)
    unknown = {MAYBE_EMPTY: name or "${OPSJOBS_UNSAID}", SOMETHING: name or "${OPSJOBS_UNSAID:?}"}
    return _MARKS.sub(lambda mark: unknown.get(mark[0]) or shown(mark[0]), word)


def fields(word: str) -> list[str]:
    """What the shell makes of one word: braces written out, globs of one character resolved, cut at unquoted white space."""
    if _MARKS.search(word) is None:
        return [word]
    found = [f for w in _braces(word) for f in w.split(SPLIT)]
    return (
        [_brackets(f).translate(_LITERAL) for f in found if f]
        if SPLIT in word
        else [_brackets(f).translate(_LITERAL) for f in found]
    )


def _brackets(word: str) -> str:
    return _BRACKETS.sub(lambda found: found[1] if not found[2] and found[1] not in "!^" else ANY, word) if LEFT in word else word


def _braces(word: str) -> list[str]:
    """`{rm,-rf}` -> two words, the innermost braces first; at most MEANINGS_MAX of them."""
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


def joined(parts: Iterable[Sequence[str]]) -> list[str]:
    """All meanings of a word of several parts, each with its own meanings; SOMETHING-like where there are too many.

    Raises Spent where one of them would be too long.
    """
    parts = list(parts)
    check_size(sum(len(max(part, key=len, default="")) for part in parts))
    if all(len(part) == 1 for part in parts):
        return ["".join(part[0] for part in parts)]
    found = list(dict.fromkeys("".join(pieces) for pieces in islice(product(*parts), MEANINGS_MAX + 1)))
    return found if len(found) <= MEANINGS_MAX else [*found[:MEANINGS_MAX], MAYBE_EMPTY]
