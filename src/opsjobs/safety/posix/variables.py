"""The values that shell variables may have: each one that the text assigns, in any order.

`expanded` returns those of `${…}`: defaults, pieces and replacements of a known value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tree_sitter import Node

from opsjobs.safety.budget import Budget, check_size, replaced
from opsjobs.safety.paths import compile_prefix, is_unknown, wildcards
from opsjobs.safety.question import UNKNOWN_INPUTS, Lookup
from opsjobs.safety.symbolic_words import (
    HOME,
    LATER,
    MAYBE_EMPTY,
    MEANINGS_MAX,
    OPEN,
    SOMETHING,
    SPLIT,
    fields,
    is_known,
    join_parts,
    mark_special,
    parse_number,
)

_SET_BY_THE_SYSTEM = {
    **dict.fromkeys(
        (
            "PWD",
            "OLDPWD",
            "USER",
            "LOGNAME",
            "UID",
            "EUID",
            "HOSTNAME",
            "RANDOM",
            "PATH",
            "$",
            "?",
            "#",
            "PPID",
            "SECONDS",
            "LINENO",
        ),
        SOMETHING,
    ),
    **dict.fromkeys(
        (
            "BASHPID",
            "EPOCHSECONDS",
            "HOSTTYPE",
            "OSTYPE",
            "MACHTYPE",
            "BASH_VERSION",
            "-",
            "0",
            "OPTARG",
            "REPLY",
        ),
        SOMETHING,
    ),
    "HOME": HOME,
    "IFS": SPLIT,
    "SHELL": "/bin/sh",
    "BASH": "/bin/bash",
    "OPSJOBS_UNKNOWN": LATER,
    # Set for each run, and never empty.
    **dict.fromkeys(
        ("OPSJOBS_VALUE", "OPSJOBS_TARGET", "OPSJOBS_HOST", "OPSJOBS_JOB", "OPSJOBS_SECRETS"),
        SOMETHING,
    ),
}
_ABSOLUTE = frozenset({"HOME", "PWD", "PATH", "OLDPWD", "SHELL", "BASH"})


@dataclass(frozen=True, slots=True)
class Assigned:
    """One assignment to a variable."""

    node: Node | None
    """The value as a node; None if it is given as text."""
    text: Sequence[str] = ()
    adds: bool = False
    """True for `+=`."""
    items: bool = False
    """True if the value is one of its words, as in a loop."""


@dataclass(frozen=True, slots=True)
class VariableFrame:
    """The positional parameters $1, $2 … of the script, or of a function."""

    words: tuple[str, ...]
    shifts: int = 0
    """The most of them that `shift` may have removed."""

    def argument(self, name: str) -> list[str]:
        """Return all possible values of `$1`, `$@`."""
        starts = range(min(self.shifts, len(self.words)) + 1)
        if name in "@*":
            return list(dict.fromkeys(SPLIT.join(self.words[at:]) for at in starts))
        number = parse_number(name)
        if number is None:
            return [MAYBE_EMPTY]
        return list(dict.fromkeys(self._word(number - 1 + at) for at in starts))

    def _word(self, at: int) -> str:
        # An unknown `"$@"` is one word here, and may be any number of words.
        if any(is_unknown(word) for word in self.words[:at]):
            return MAYBE_EMPTY
        return self.words[at] if at < len(self.words) else ""


SHIFTS_MAX = 16
_SHIFTS = re.compile(r"\bshift\b(?:[ \t]+(\d))?|\bgetopts\b")
_LOOPS = re.compile(r"\b(?:while|until|for|getopts)\b")


def shifts_in(text: str) -> int:
    """Return the number of arguments that this text may shift, SHIFTS_MAX at most."""
    if "shift" not in text and "getopts" not in text:
        return 0
    found = [int(shift[1] or 1) for shift in _SHIFTS.finditer(text)]
    return SHIFTS_MAX if found and _LOOPS.search(text) else min(sum(found), SHIFTS_MAX)


@dataclass
class Variables:
    """Variables, each resolved once when it is needed; a self-reference is unknown."""

    evaluate: Callable[[Node], list[str]]
    given: dict[str, list[Assigned]] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    """Names that the text tests for being empty before it uses them."""
    positional: list[VariableFrame] = field(default_factory=list)
    """The frames of $1, $2 …, if they are known."""
    zero: str = SOMETHING
    """The value of $0."""
    outer: Lookup = UNKNOWN_INPUTS.variables
    """Looks up variables of the environment of the script."""
    _found: dict[str, list[str]] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)
    _referred: dict[str, str] = field(default_factory=dict)

    def give(self, name: str, given: Assigned) -> None:
        """Add a value that this variable may have."""
        self.given.setdefault(name, []).append(given)

    def refer(self, name: str, to: str) -> None:
        """Make a name an alias of another: `declare -n name=to`."""
        if name.isidentifier() and to.isidentifier():
            self._referred[name] = to

    def look_up(self, name: str) -> list[str]:
        """Return the values that a name may have; MAYBE_EMPTY is among them if one is unknown."""
        if name.isdigit() or name in "@*":
            return self._argument(name)
        name = self._referred.get(name, name)
        if name not in self._found:
            if name in self._asked:
                return list(self.outer(name)) or [MAYBE_EMPTY]
            self._asked.add(name)
            self._found[name] = self._resolved(name)
            self._asked.discard(name)
        return self._found[name]

    def forget(self) -> None:
        """Drop all resolved values, because the arguments have changed."""
        self._found.clear()

    def _argument(self, name: str) -> list[str]:
        if not self.positional or name == "0":
            return [self.zero if name == "0" else MAYBE_EMPTY]
        return self.positional[-1].argument(name)

    def _resolved(self, name: str) -> list[str]:
        assignments = self.given.get(name)
        outer = self.outer(name)
        if not assignments and outer:
            return self._settled(name, outer)
        if name == "OPTARG" and self.positional:
            return [
                *dict.fromkeys(
                    piece
                    for word in self.positional[-1].words
                    for piece in (word, word[2:])
                    if piece
                ),
                SOMETHING,
            ]
        if not assignments:
            system = _SET_BY_THE_SYSTEM.get(name)
            if system is None:
                system = SOMETHING if name in self.checked else MAYBE_EMPTY
            return [system]
        found: dict[str, None] = dict.fromkeys(outer)
        now: list[str] = [""]
        for given in assignments:
            value = list(given.text) if given.node is None else self.evaluate(given.node)
            if given.items:
                value = [
                    piece
                    for text in value
                    for piece in (fields(text) if SPLIT in text or OPEN in text else [text])
                ]
            now = join_parts((now, value)) if given.adds else value
            found.update(dict.fromkeys(now))
        return self._settled(name, found)

    def _settled(self, name: str, values: Iterable[str]) -> list[str]:
        """Return the values without an empty one among several, within the bounds.

        An empty one is the variable's initial value: the others then include MAYBE_EMPTY, because
        an empty value is not a word of its own.
        """
        found = list(values)
        if len(found) > 1 and "" in found:
            found = [v for v in found if v] + [MAYBE_EMPTY]
        if len(found) > MEANINGS_MAX * 4:
            found = [*found[: MEANINGS_MAX * 4], MAYBE_EMPTY]
        if name in self.checked:
            found = [v.replace(MAYBE_EMPTY, SOMETHING) for v in found]
        return list(dict.fromkeys(found))

    def begins_with_slash(self, name: str) -> bool:
        """Return True if the value always begins with the root of all paths: `${HOME:0:1}`."""
        return name in _ABSOLUTE and name not in self.given


_SHAPE = re.compile(
    r"\$\{([!#]?)([A-Za-z_]\w*|[0-9]{1,9}|[@*#?$!0-])(\[[^\]]*\])?(.*)\}\Z", re.DOTALL
)
_PIECE = re.compile(r":\s*(-?[0-9]{1,9}|\(-?[0-9]{1,9}\))\s*(?::\s*(-?[0-9]{1,9}))?\Z")
_CASES: dict[str, Callable[[str], str]] = {
    "^^": str.upper,
    ",,": str.lower,
    "^": str.capitalize,
    ",": lambda v: v[:1].lower() + v[1:],
}

_Find = Callable[[str], list[str]]
_SEARCHED_MAX = 1_000
"""Characters of a value in which a glob is looked for at every place."""


def expanded(
    text: str,
    lookup: _Find,
    default: Callable[[], list[str]],
    slash: Callable[[str], bool],
    budget: Budget,
) -> list[str]:
    """Return the values of one `${…}`, as written in `text`.

    `lookup`: the values of a name; `default`: those of the word after `:-`;
    `slash`: whether a name's value begins with `/`.
    """
    budget.read(len(text))
    found = _SHAPE.match(text)
    if found is None:
        return [MAYBE_EMPTY]
    sigil, name, index, rest = found.groups()
    if sigil == "#":
        return [SOMETHING]
    values = lookup(name)
    if sigil == "!":
        return [
            v
            for value in values
            for v in (lookup(value) if value.isidentifier() else [MAYBE_EMPTY])
        ]
    if index and index not in ("[@]", "[*]"):
        values = _element(values, index[1:-1])
    if not rest:
        return values
    budget.read(sum(map(len, values)))
    return _operated(rest, values, default, slash(name), budget)


def _element(values: list[str], index: str) -> list[str]:
    at = parse_number(index)
    if at is None or at < 0:
        return [MAYBE_EMPTY]
    return [
        (parts[at] if at < len(parts) else "") for value in values for parts in [value.split(SPLIT)]
    ]


def _operated(
    rest: str, values: list[str], default: Callable[[], list[str]], absolute: bool, budget: Budget
) -> list[str]:
    head = rest[:2] if rest[0] == ":" and rest[1:2] in tuple("-=?+") else rest[:1]
    if head in (":-", "-", ":=", "="):
        unset = any(MAYBE_EMPTY in v or not v for v in values)
        return list(
            dict.fromkeys(
                [*(v for v in values if v and v != MAYBE_EMPTY), *(default() if unset else [])]
            )
        ) + ([SOMETHING] if MAYBE_EMPTY in values else [])
    if head in (":+", "+"):
        return [*default(), ""]
    if head in (":?", "?"):
        return [v.replace(MAYBE_EMPTY, SOMETHING) for v in values]
    piece = _PIECE.match(rest)
    if piece is not None:
        return _pieces(values, int(piece[1].strip("()")), piece[2], absolute)
    return [_changed(value, rest, budget) for value in values]


def _pieces(values: list[str], at: int, length: str | None, absolute: bool) -> list[str]:
    if absolute and at == 0 and length == "1":
        return ["/"]
    count = None if length is None else int(length)
    return [_piece(v, at, count) if is_known(v) else MAYBE_EMPTY for v in values]


def _piece(value: str, at: int, length: int | None) -> str:
    start = max(len(value) + at, 0) if at < 0 else at
    if length is None:
        return value[start:]
    return value[start : start + length] if length >= 0 else value[start:length]


def _changed(value: str, rest: str, budget: Budget) -> str:
    if not is_known(value):
        # The result of trimming an unknown value is a part of it, which may be empty, too.
        return MAYBE_EMPTY
    if rest in _CASES:
        return _CASES[rest](value)
    if rest[0] in "#%":
        return _trimmed(value, rest)
    if rest[0] == "/" and "/" in rest[1:]:
        return _replaced(value, rest, budget)
    return value if rest[0] == "@" else MAYBE_EMPTY


def _glob(pattern: str) -> str | None:
    """Return the pattern as a glob; None if it contains a value of the script."""
    if "$" in pattern or "`" in pattern:
        return None
    return mark_special(pattern.replace('"', "").replace("'", ""))


def _trimmed(value: str, rest: str) -> str:
    longest = rest[:2] in ("##", "%%")
    glob = _glob(rest[2:] if longest else rest[1:])
    if glob is None:
        return MAYBE_EMPTY
    if rest[0] == "#":
        return value[_length(value, glob, longest) :]
    return value[: len(value) - _length(value[::-1], glob[::-1], longest)]


def _length(value: str, glob: str, longest: bool) -> int:
    """Return the length of the prefix that matches the glob."""
    found = compile_prefix(glob, longest=longest).match(value)
    return 0 if found is None else found.end()


def _replaced(value: str, rest: str, budget: Budget) -> str:
    every = rest.startswith("//")
    old, _, new = rest[2 if every else 1 :].partition("/")
    glob = _glob(old.lstrip("#%"))
    if not glob or "$" in new or "`" in new:
        return MAYBE_EMPTY
    new, count = new.strip("\"'"), -1 if every else 1
    if not wildcards(glob):
        return replaced(value, glob, new, count)
    if len(value) > _SEARCHED_MAX:
        return MAYBE_EMPTY
    budget.read(len(value), len(value))  # a position without a match reads to the end
    made = compile_prefix(glob, longest=True).sub(lambda _: new, value, count=max(count, 0))
    check_size(len(made))
    return made
