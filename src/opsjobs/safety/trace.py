"""The trace of a program: its calls and its unreadable parts, for all languages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from opsjobs.safety.budget import CHARACTERS_A_STEP, DEPTH_MAX, TEXT_BYTES_MAX, Budget, Spent
from opsjobs.safety.paths import normal, paths_if_empty, readings, wildcards
from opsjobs.safety.question import UNKNOWN_INPUTS, ProgramInputs
from opsjobs.safety.symbolic_words import ANY, MAYBE_EMPTY, STAR, render_word

Dialect = Literal["posix", "powershell", "cmd", "python"]
Reader = Callable[["Trace", str, "SourcePosition"], None]
"""Reads a text of one language into the trace."""

WINDOWS = frozenset({"powershell", "cmd"})
EXCERPT_CHARACTERS_MAX = 200
WILDCARDS_MAX = 16
"""The most runs of wildcards in a word; no file names need as many."""


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """The position of a call or a text in the program."""

    excerpt: str = ""
    """The text as written."""
    depth: int = 0
    """The number of programs around it."""
    cwd: str | None = None
    """The working folder, if it is known."""
    given: ProgramInputs = UNKNOWN_INPUTS
    """The arguments and the environment of the program that runs there."""

    def deeper(self) -> SourcePosition:
        """Return this position for a program written at it, one level deeper."""
        return SourcePosition(self.excerpt, self.depth + 1, self.cwd, self.given)

    def with_given(self, given: ProgramInputs) -> SourcePosition:
        """Return this position with the inputs of the program there."""
        return (
            self
            if given is self.given
            else SourcePosition(self.excerpt, self.depth, self.cwd, given)
        )

    def within(self, text: str, cwd: str | None = None) -> SourcePosition:
        """Return a position within the program.

        `text` is the excerpt, unless an outer program has set one already.
        """
        return SourcePosition(
            self.excerpt or excerpt_of(text),
            self.depth,
            self.cwd if cwd is None else cwd,
            self.given,
        )


@dataclass(frozen=True, slots=True)
class Io:
    """The inputs and outputs of a call."""

    sources: tuple[str, ...] = ()
    """The names of the commands that feed it."""
    text: Callable[[], str | None] | None = None
    """Returns its input, if that is known."""
    writes: tuple[tuple[str, str], ...] = ()
    """`("write" | "append", path)` of each file that it writes."""
    reads: tuple[str, ...] = ()
    """The paths of `<`."""
    feeders: tuple[Call, ...] = ()
    """The calls that feed it through a pipe."""

    def fed(self) -> str | None:
        """Return the input, if it is known; else None."""
        try:
            return self.text() if self.text is not None else None
        except Spent:
            return MAYBE_EMPTY  # it is too long, or the next step raises Spent again


NOTHING = Io()


@dataclass(frozen=True)
class Call:
    """One command or function with its arguments: `words[0]` is its name, without its folder."""

    words: tuple[str, ...]
    place: SourcePosition
    dialect: Dialect = "posix"
    io: Io = NOTHING

    @property
    def name(self) -> str:
        """The name of the command or function."""
        return self.words[0]

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """The words after the name that are not options; words after `--` never are."""
        rest, literal = _parted(self.words[1:])
        return (*(w for w in rest if not w.startswith("-") or w == "-"), *literal)

    @cached_property
    def options(self) -> tuple[str, ...]:
        """The words after the name that are options."""
        rest, _ = _parted(self.words[1:])
        return tuple(w for w in rest if w.startswith("-") and w != "-")

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The arguments as paths, each in all its readings."""
        return tuple(
            path for word in self.arguments for path in readings(self.as_path(word), self.place.cwd)
        )

    @cached_property
    def paths_if_empty(self) -> tuple[str, ...]:
        """The paths that the arguments become if their possibly empty parts are empty."""
        return tuple(
            path
            for word in self.arguments
            for path in paths_if_empty(self.as_path(word), self.place.cwd)
        )

    @cached_property
    def destinations(self) -> tuple[str, ...]:
        """The paths that a copying command writes to.

        They are the last argument, or that of `-t`, and the name of each source in that folder.
        """
        named = [
            self.words[n + 1]
            for n, word in enumerate(self.words[:-1])
            if word in ("-t", "--target-directory", "-Destination")
        ]
        named += [
            word.partition("=")[2] for word in self.words if word.startswith("--target-directory=")
        ]
        to = named[:1] or self.arguments[-1:]
        sources = self.arguments[:-1] or (self.arguments if named else ())
        found = [normal(self.as_path(word), self.place.cwd) for word in to]
        return (
            *found,
            *(
                f"{folder}/{self.as_path(word).rpartition('/')[2]}"
                for folder in found
                for word in sources
            ),
        )

    def as_path(self, word: str) -> str:
        """Return a Windows path as a POSIX path: lower case, slashes, and globs as marks."""
        if self.dialect not in WINDOWS:
            return word
        return (
            word.lower()
            .replace("\\", "/")
            .removeprefix("//?/")
            .replace("*.*", "*")
            .replace("*", STAR)
            .replace("?", ANY)
        )

    @cached_property
    def text(self) -> str:
        """The call in one line, and its input: for the expressions of rules."""
        return "\n".join((render_word(" ".join(self.words)), self.io.fed() or ""))


def _parted(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    if "--" not in words:
        return words, ()
    at = words.index("--")
    return words[:at], words[at + 1 :]


@dataclass
class Trace:
    """The record of a program's effects."""

    budget: Budget
    languages: Mapping[str, Reader]
    """The reader of each language."""
    names: frozenset[str] = frozenset()
    """The commands that the rules are about."""
    is_beginning: bool = False
    """The rest is not read. It may undo the calls, and set variables of what runs at the end."""
    calls: list[Call] = field(default_factory=list)
    events: list[tuple[str, SourcePosition]] = field(default_factory=list)
    downloaded: set[str] = field(default_factory=set)
    """Paths of files that were received over the network."""
    written: dict[str, str] = field(default_factory=dict)
    """Paths of files with a known text."""
    ran: list[tuple[str, str, SourcePosition]] = field(default_factory=list)
    """Paths of files that are run, with their language."""

    def call(
        self,
        words: Sequence[str],
        place: SourcePosition,
        *,
        dialect: Dialect = "posix",
        io: Io = NOTHING,
    ) -> None:
        """Record a call. Raises Spent if the text makes too many of them."""
        characters = sum(map(len, words))
        self.budget.spend(2 + len(words) // 8 + characters // CHARACTERS_A_STEP)
        if any(
            wildcards(word) > WILDCARDS_MAX
            for word in (*words, *(path for _, path in io.writes), *io.reads)
        ):
            self.event("too_many_wildcards", place)
        self.calls.append(Call(tuple(words), place, dialect, io))

    def event(self, name: str, place: SourcePosition) -> None:
        """Record an event, which is not a call: `unreadable`, `dynamic`, `fork_bomb` ….

        The rules refer to events by these names.
        """
        self.budget.spend()
        self.events.append((name, place))

    def read(self, language: str, text: str, place: SourcePosition) -> None:
        """Read a program within the program."""
        if place.depth >= DEPTH_MAX:
            self.event("too_deep", place)
            return
        if len(text) > TEXT_BYTES_MAX:
            self.event("too_large", place)
            return
        reader = self.languages.get(language)
        if reader is None:
            self.event("unknown_language", place)
            return
        self.budget.spend(4 + len(text) // 256)
        reader(self, text, place.deeper())


_SEEN_MAX = 2_000


def excerpt_of(text: str) -> str:
    """Return a text in one line, cut to the length of an excerpt."""
    line = " ".join(text[:_SEEN_MAX].split())
    return line if len(line) <= EXCERPT_CHARACTERS_MAX else line[: EXCERPT_CHARACTERS_MAX - 1] + "…"
