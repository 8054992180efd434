"""Search the lines of many interleaved streams, in one pass and bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from opsjobs.model.pattern import pattern

QUERY_CHARACTERS_MAX = 500
CONTEXT_LINES_MAX = 10
LINE_BYTES_MAX = 16 << 10
"""A longer line is searched in pieces, which overlap by the length of the text."""
HELD_BYTES_MAX = 8 << 20
"""Limit of all incomplete lines and context; beyond it they are searched as they are."""
SHOWN_CHARACTERS = 1_000
"""Characters of a line that are shown, around the place that was found."""


class StreamOrigin(NamedTuple):
    """One stream of one attempt of an action on a target."""

    target_run: int
    action: str | None
    attempt: int | None
    stream: str


@dataclass(frozen=True, slots=True)
class LineQuery:
    """The text or pattern to be found in a line, and how many lines around it are shown."""

    text: str | None = None
    pattern: str | None = None
    ignore_case: bool = False
    context: int = 0

    def finder(self) -> Callable[[bytes], int | None]:
        """Return a function from a line to the character position of the match, or None.

        Raises ValueError if the pattern is not supported. The function raises TooMuchWork.
        """
        if self.pattern is not None:
            return self._pattern_finder(self.pattern)
        wanted = self.text or ""
        if not self.ignore_case:
            exact = wanted.encode()
            return lambda line: (
                len(line[:found].decode("utf-8", "replace"))
                if (found := line.find(exact)) >= 0
                else None
            )
        folded = wanted.casefold()
        return lambda line: _position(line.decode("utf-8", "replace").casefold().find(folded))

    def _pattern_finder(self, written: str) -> Callable[[bytes], int | None]:
        compiled = pattern(written.casefold() if self.ignore_case else written)

        def find(line: bytes) -> int | None:
            text = line.decode("utf-8", "replace")
            if self.ignore_case:
                text = text.casefold()
            return 0 if compiled.matches(text) else None

        return find

    @property
    def certain_part(self) -> bytes | None:
        """The bytes without which no line matches; None if that is not known."""
        return self.text.encode() if self.text is not None and not self.ignore_case else None


@dataclass(frozen=True, slots=True)
class LineMatch:
    """A line that matches, and the lines around it."""

    origin: StreamOrigin
    seq: int
    """The position of the log at which the line ends, or is cut."""
    text: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    number: int | None = None
    """Its number among the lines that were fed; None if its beginning was not."""


@dataclass(slots=True)
class _Stream:
    held: bytearray = field(default_factory=bytearray)
    number: int | None = None
    """The number of the line of which `held` is a part."""
    before: deque[bytes] = field(default_factory=deque)
    open: list[tuple[LineMatch, list[str]]] = field(default_factory=list)
    """Matches whose context after them is not complete."""


class LineSearch:
    """Feed chunks of output in the order of the log; get the lines that match.

    A line may come in any number of chunks, and chunks of other streams between them.
    """

    def __init__(self, query: LineQuery, check: Callable[[], None] = lambda: None) -> None:
        """Prepare the search. Raises ValueError if the pattern is not supported.

        `check` is called before each line that is examined; what it raises ends the search.
        """
        self._query = query
        self._check = check
        self._find = query.finder()
        self._overlap = max(len((query.text or "").encode()) - 1, 0)
        self._streams: dict[StreamOrigin, _Stream] = {}
        self.held_bytes = 0
        """Bytes of incomplete lines and of context: at most HELD_BYTES_MAX and one chunk."""
        self.bytes = 0
        """Bytes that were searched."""
        self.lines = 0
        """The number of lines that have begun; the next one is numbered on from there."""

    def feed(
        self, origin: StreamOrigin, seq: int, data: bytes | None, begun: int = 0
    ) -> Iterator[LineMatch]:
        """Yield the matches that this chunk completes. `data` is None for bytes not kept.

        `begun`: the number of lines that begin in the chunk.
        """
        first, self.lines = self.lines + 1, self.lines + begun
        if data is None:
            yield from self._end(origin, seq)
            return
        self.bytes += len(data)
        found = self._streams.setdefault(origin, _Stream())
        self.held_bytes -= len(found.held)
        pieces = data.count(b"\n") + (not data.endswith(b"\n"))
        if pieces <= begun:  # the chunk goes on with no line
            found.number = first
            first += 1
        found.held += data
        yield from self._take_lines(origin, found, seq, first)
        self.held_bytes += len(found.held)
        if not (found.held or found.before or found.open):
            del self._streams[origin]
        if self.held_bytes > HELD_BYTES_MAX:
            yield from self.rest(seq)

    def rest(self, seq: int, *, ended: bool = True) -> Iterator[LineMatch]:
        """Yield the matches that wait for context, and if `ended` those in incomplete lines."""
        for origin in list(self._streams):
            yield from self._end(origin, seq, ended=ended)

    def _take_lines(
        self, origin: StreamOrigin, stream: _Stream, seq: int, following: int
    ) -> Iterator[LineMatch]:
        """Examine the complete lines; those after the first one are numbered from `following`."""
        certain = self._query.certain_part
        end = stream.held.rfind(b"\n") + 1
        quiet = not stream.open and not self._query.context
        if quiet and certain is not None and certain not in stream.held:
            count = stream.held.count(b"\n")
            stream.number = following + count - 1 if count else stream.number
            del stream.held[:end]  # no line of it matches, and none of them is shown
        else:
            lines = bytes(stream.held[:end]).split(b"\n")[:-1]
            del stream.held[:end]
            for line in lines:
                yield from self._examine(origin, stream, seq, line)
                stream.number, following = following, following + 1
        while len(stream.held) > LINE_BYTES_MAX:
            yield from self._examine(origin, stream, seq, bytes(stream.held[:LINE_BYTES_MAX]))
            del stream.held[: LINE_BYTES_MAX - self._overlap]

    def _examine(
        self, origin: StreamOrigin, stream: _Stream, seq: int, line: bytes
    ) -> Iterator[LineMatch]:
        self._check()
        place = self._find(line)
        context = self._query.context
        if stream.open:
            text = _excerpt(line, 0)
            for _, after in stream.open:
                after.append(text)
            while stream.open and len(stream.open[0][1]) >= context:
                yield _complete(*stream.open.pop(0))
        if place is not None:
            before = tuple(_excerpt(each, 0) for each in stream.before)
            match = LineMatch(origin, seq, _excerpt(line, place), before, number=stream.number)
            if context:
                stream.open.append((match, []))
            else:
                yield match
        if context:
            stream.before.append(line)
            self.held_bytes += len(line)
            if len(stream.before) > context:
                self.held_bytes -= len(stream.before.popleft())

    def _end(self, origin: StreamOrigin, seq: int, *, ended: bool = True) -> Iterator[LineMatch]:
        stream = self._streams.pop(origin, None)
        if stream is None:
            return
        self.held_bytes -= len(stream.held)
        if stream.held and ended:
            yield from self._examine(origin, stream, seq, bytes(stream.held))
        self.held_bytes -= sum(map(len, stream.before))
        for match, after in stream.open:
            yield _complete(match, after)


def _complete(match: LineMatch, after: list[str]) -> LineMatch:
    return replace(match, after=tuple(after))


def _position(found: int) -> int | None:
    return found if found >= 0 else None


def _excerpt(line: bytes, place: int) -> str:
    text = line.decode("utf-8", "replace").rstrip("\r")
    if len(text) <= SHOWN_CHARACTERS:
        return text
    start = max(0, min(place - SHOWN_CHARACTERS // 4, len(text) - SHOWN_CHARACTERS))
    end = start + SHOWN_CHARACTERS
    return ("… " if start else "") + text[start:end] + (" …" if end < len(text) else "")
