"""Patterns that are matched in linear time: an automaton without backtracking."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from opsjobs.model.pattern_syntax import At, Chars, Choice, Node, Place, Repeat, Sequel, read

STEPS_MAX = 5_000
COMPILED_MAX = 20_000
"""The limit of compiled parts of a pattern; a repeated part counts each time."""
_KEPT_MAX = 200_000
WORK_MAX = 300_000
"""The limit of steps for one text, or for all values of one launch: about 0.1 s.

Cached steps do not count."""
_WORD = frozenset("0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

# A step: a set of characters or a place, and the next step; or a fork to two steps; None: the end.
_Step = tuple[Chars | At, int] | tuple[int, int] | None
_State = tuple[frozenset[int], str]
"""The possible next steps, and the kind of the character before them.

The kind is "" at the start, "\\n", "a" for a word character, "." for others."""


class TooMuchWork(ValueError):
    """The pattern takes too long with this text: it has too many simultaneous alternatives."""

    def __init__(self) -> None:
        super().__init__(
            "the pattern takes too long with this text: write it with smaller counts, or in fewer "
            "ways to go on"
        )


@dataclass
class MatchBudget:
    """The remaining steps, shared by texts that are matched together."""

    left: int = WORK_MAX

    def spend(self, steps: int) -> None:
        """Count steps. Raises TooMuchWork."""
        self.left -= steps
        if self.left < 0:
            raise TooMuchWork


class Pattern:
    """A compiled pattern. `matches`: some part of the text; `fits`: the whole text.

    >>> Pattern("b+").matches("abba"), Pattern("b+").fits("abba")
    (True, False)"""

    def __init__(self, text: str) -> None:
        """Compile the text. Raises ValueError if it is not a supported pattern."""
        self.text = text
        self._steps: list[_Step] = []
        self._compiled = 0
        self._first = self._compile(read(text), self._add(None))
        self._kept = 0  # numbers of steps in `_known`
        self._known: dict[tuple[_State, str, bool], tuple[_State, bool]] = {}
        # Equal states are one object: a look-up in `_known` would compare them number by number.
        self._states: dict[_State, _State] = {}

    def matches(self, text: str) -> bool:
        """Return True if some part of the text matches. Raises TooMuchWork."""
        return self._run(text, MatchBudget(), whole=False)

    def fits(self, text: str, work: MatchBudget | None = None) -> bool:
        """Return True if the text as a whole matches. Raises TooMuchWork."""
        return self._run(text, work or MatchBudget(), whole=True)

    def _run(self, text: str, work: MatchBudget, *, whole: bool) -> bool:
        state: _State = (frozenset((self._first,)), "")
        for char in text:
            state, done = self._next(state, char, work, whole=whole)
            if done and not whole:
                return True
            if not state[0]:
                return False
        return 0 in self._reached(state, "")

    def _next(
        self, state: _State, char: str, work: MatchBudget, *, whole: bool
    ) -> tuple[_State, bool]:
        """Return the state after `char`, and whether a match had ended before it."""
        if (known := self._known.get((state, char, whole))) is not None:
            return known
        reached = self._reached(state, char)
        work.spend(len(reached))
        after = {
            step[1]
            for step in (self._steps[number] for number in reached)
            if step is not None and isinstance(step[0], Chars) and step[0].has(char)
        }
        if not whole:
            after.add(self._first)
        self._kept += len(after) + 1
        if self._kept > _KEPT_MAX:
            self._known.clear()  # with many states it is only slower, and still linear
            self._states.clear()
            self._kept = 0
        next_state = (frozenset(after), _kind(char))
        found = (self._states.setdefault(next_state, next_state), 0 in reached)
        self._known[state, char, whole] = found
        return found

    def _reached(self, state: _State, char: str) -> set[int]:
        """Return all steps that are reachable from these without consuming a character.

        `char` is the next character ("": the end)."""
        reached: set[int] = set()
        open_ = list(state[0])
        while open_:
            number = open_.pop()
            if number in reached:
                continue
            reached.add(number)
            step = self._steps[number]
            if step is None or isinstance(step[0], Chars):
                continue
            if isinstance(step[0], At):
                if _holds(step[0].place, state[1], char):
                    open_.append(step[1])
            else:
                open_ += (step[0], step[1])
        return reached

    def _add(self, step: _Step) -> int:
        if len(self._steps) >= STEPS_MAX:
            raise _too_often()
        self._steps.append(step)
        return len(self._steps) - 1

    def _compile(self, node: Node, then: int) -> int:
        """Add the steps of the node in front of `then`; return the number of its first one."""
        self._compiled += 1  # a repeated part may be empty and add no step
        if self._compiled > COMPILED_MAX:
            raise _too_often()
        match node:
            case Chars() | At():
                return self._add((node, then))
            case Sequel(parts):
                for part in reversed(parts):
                    then = self._compile(part, then)
                return then
            case Choice(ways):
                first = self._compile(ways[-1], then)
                for way in reversed(ways[:-1]):
                    first = self._add((self._compile(way, then), first))
                return first
            case Repeat(what, least, most):
                return self._repeat(what, least, most, then)

    def _repeat(self, what: Node, least: int, most: int | None, then: int) -> int:
        if most is None:
            loop = self._add((then, then))
            self._steps[loop] = (self._compile(what, loop), then)
            first = loop
        else:
            first = then
            for _ in range(most - least):
                first = self._add((self._compile(what, first), then))
        for _ in range(least):
            first = self._compile(what, first)
        return first


def _too_often() -> ValueError:
    return ValueError("the pattern repeats too much: write smaller counts")


def _kind(char: str) -> str:
    if char == "\n":
        return "\n"
    return "a" if char in _WORD else "."


def _holds(place: Place, before: str, char: str) -> bool:
    match place:
        case "text_start":
            return before == ""
        case "text_end":
            return char == ""
        case "line_start":
            return before in ("", "\n")
        case "line_end":
            return char in ("", "\n")
        case "word_edge":
            return (before == "a") != (char in _WORD)
        case "no_word_edge":
            return (before == "a") == (char in _WORD)


@lru_cache(maxsize=1_000)
def pattern(text: str) -> Pattern:
    """Return the compiled pattern, cached for all users. Raises ValueError."""
    return Pattern(text)
