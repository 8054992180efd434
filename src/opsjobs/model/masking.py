"""Redaction of secrets in output: each byte becomes `*`, regardless of chunk boundaries.

It takes one pass in linear time, for any text and any number of secrets: the group of four bytes at
every fourth place of the text, or at every 16th if no secret is short, is looked up in a set of all
groups that secrets contain at such places; bytes are compared only after a hit. Only bytes that may
be the start of a secret are held back, until that is decided.

Views of the text without line breaks, indentation or colours find a secret whose layout was
changed: wrapped base64, an indented key, a folded YAML scalar, a match that grep coloured. Each
view maps its bytes to their places in the text."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from opsjobs.model.secret_variants import has_blanks, spellings

PIECE_BYTES = 64
"""The size of the pieces of a long form (the last is up to twice as long).

Searching for pieces also finds parts of a secret."""
ACROSS_BYTES_MIN = 8
"""The minimum length of a match across a line break.

It is also the minimum that must be at stake at the end of a whole line to hold that line back."""
SPAN_BYTES = 1024
"""The maximum distance in the text from the first to the last byte of a piece.

Line breaks, indentation and colours count."""

_GRAM = 4
# The number of groups that are looked up at once; only after a hit they are checked one by one.
_STRETCH = 128
# From this length on a piece contains a whole group of four at one of every four places.
_INDEXED_BYTES_MIN = 2 * _GRAM - 1
# The maximum distance of groups, in groups: the shortest piece must contain a whole one, at any
# offset.
_STRIDE_MAX = 4
_BREAK = re.compile(rb"[\r\n]")


class Forms:
    """All spellings of some secrets, indexed for search.

    They are built once and shared by everything that can print the secrets."""

    __slots__ = (
        "__weakref__",
        "_grams",
        "_heads",
        "_longest",
        "_pieces",
        "_short",
        "_stride",
        "_within",
        "folds",
    )

    def __init__(self, secrets: Iterable[str]) -> None:
        secrets = tuple(secrets)
        pieces = {piece for form in spellings(secrets) for piece in _cut(form)}
        self._pieces = sorted(pieces)
        self._longest = max(map(len, pieces), default=0)
        self._short = [piece for piece in self._pieces if len(piece) < _INDEXED_BYTES_MIN]
        shortest = min(map(len, self._indexed), default=_INDEXED_BYTES_MIN)
        self._stride = min(_STRIDE_MAX, (shortest - _GRAM + 1) // _GRAM)
        places = range(_GRAM * self._stride)
        self._grams = {
            int.from_bytes(p[at : at + _GRAM], sys.byteorder)
            for p in self._indexed
            for at in places
        }
        self._heads = {piece[:_GRAM] for piece in self._pieces}
        self._within = _prefixes(self._pieces)
        self.folds = has_blanks(secrets)

    @property
    def _indexed(self) -> Iterator[bytes]:
        return (piece for piece in self._pieces if len(piece) >= _INDEXED_BYTES_MIN)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def found_in(self, text: bytes) -> list[Span]:
        """Return the spans of pieces in a text without line breaks; they may overlap."""
        spans = [span for piece in self._short for span in _each(piece, text)]
        groups = memoryview(text)[: len(text) // _GRAM * _GRAM].cast("I")[:: self._stride]
        for first in range(0, len(groups), _STRETCH):
            stretch = groups[first : first + _STRETCH]
            if not self._grams.isdisjoint(stretch):
                for number, group in enumerate(stretch, first):
                    if group in self._grams:
                        spans += self._around(text, number * _GRAM * self._stride)
        return spans

    def _around(self, text: bytes, at: int) -> Iterator[Span]:
        """Yield the pieces whose first sampled group is at this place.

        Of pieces that begin at one place, the longest."""
        for start in range(max(at - _GRAM * self._stride + 1, 0), at + 1):
            if text[start : start + _GRAM] in self._heads and (
                size := self._size_at(text[start : start + self._longest])
            ):
                yield start, start + size

    def _size_at(self, text: bytes) -> int:
        """Return the length of the longest piece that is a prefix of the text; 0 if there is none.

        Every piece that sorts between that piece and the text also starts with that piece."""
        at = bisect_right(self._pieces, text) - 1
        while at >= 0 and not text.startswith(self._pieces[at]):
            at = self._within[at]
        return len(self._pieces[at]) if at >= 0 else 0

    def begun_in(self, text: bytes) -> list[int]:
        """Return the places at the end of the text where incomplete pieces begin."""
        size, heads = len(text), self._heads
        first = max(0, size - self._longest + 1)
        begun = [at for at in range(first, size - _GRAM + 1) if text[at : at + _GRAM] in heads]
        return [
            at
            for at in (*begun, *range(max(first, size - _GRAM + 1), size))
            if self._goes_on(text[at:])
        ]

    def _goes_on(self, rest: bytes) -> bool:
        place = bisect_right(self._pieces, rest)
        return place < len(self._pieces) and self._pieces[place].startswith(rest)


def _cut(form: bytes) -> Iterator[bytes]:
    at = 0
    while len(form) - at >= 2 * PIECE_BYTES:
        yield form[at : at + PIECE_BYTES]
        at += PIECE_BYTES
    yield form[at:]


def _prefixes(pieces: Sequence[bytes]) -> list[int]:
    """Return for each sorted piece the index of its longest proper prefix, or -1."""
    found, open_ = list[int](), list[int]()
    for number, piece in enumerate(pieces):
        while open_ and not piece.startswith(pieces[open_[-1]]):
            open_.pop()
        found.append(open_[-1] if open_ else -1)
        open_.append(number)
    return found


def _each(piece: bytes, text: bytes) -> Iterator[Span]:
    at = text.find(piece)
    while at >= 0:
        yield at, at + len(piece)
        at = text.find(piece, at + 1)


NO_FORMS = Forms(())


class Mask:
    """The secrets of one run that must not be shown, in all of their forms."""

    __slots__ = ("_forms",)

    def __init__(self, forms: Iterable[Forms] = ()) -> None:
        self._forms = tuple(one for one in forms if one)

    def __bool__(self) -> bool:
        return bool(self._forms)

    def also(self, forms: Forms) -> Mask:
        """Return a mask with additional forms."""
        return Mask([*self._forms, forms])

    def stream(self) -> Masking | None:
        """Return the redaction of a stream; None if there are no secrets."""
        return Masking(self._forms) if self._forms else None

    def text(self, words: str) -> str:
        """Return the text with secrets replaced by stars."""
        if not self._forms or not words:
            return words
        text = _Text(words.encode("utf-8", "surrogatepass"), self._forms)
        if not (covered := text.covered()):
            return words
        # A piece may end within a character, whose rest is then invalid UTF-8.
        return starred(text.whole, covered).decode("utf-8", "replace")

    def tree(self, value: Any) -> Any:
        """Return a JSON value whose texts and keys are redacted."""
        if not self._forms:
            return value
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.tree(name): self.tree(item) for name, item in value.items()}
            case list():
                return [self.tree(item) for item in value]
        return value


NOTHING = Mask()


class Masking:
    """The redaction of a stream: it outputs as many bytes as it reads, some of them delayed."""

    def __init__(self, forms: Sequence[Forms]) -> None:
        self._forms = forms
        # The last input bytes, and how many of them have been output.
        self._kept = b""
        self._out = 0

    def add(self, data: bytes) -> bytes:
        """Add input; return the redacted bytes that are decided."""
        text = _Text(self._kept + data, self._forms)
        covered = text.covered()
        held = _past(covered, self._hold_from(text.end))
        masked = starred(text.whole, covered)[self._out : held]
        keep = max(0, min(len(text.whole) - SPAN_BYTES, held))
        self._kept, self._out = text.whole[keep:], max(held, self._out) - keep
        return masked

    def finish(self) -> bytes:
        """Return the rest at the end of the stream, redacted if it is a secret."""
        text = _Text(self._kept, self._forms)
        rest = starred(text.whole, text.covered())[self._out :]
        self._kept, self._out = b"", 0
        return rest

    def _hold_from(self, end: _Text) -> int:
        """Return the place in the text from which on bytes may become a secret.

        `end` is the last part of the text."""
        return end.first + min(end.find_begun(), default=len(end.whole))


class _Text:
    """A text and its views; `first`: its offset in a longer text."""

    def __init__(self, whole: bytes, forms: Sequence[Forms], first: int = 0) -> None:
        self.whole = whole
        self.first = first
        self._forms = forms
        self._views = list(views(whole, folds=any(one.folds for one in forms)))

    def _searches(self) -> Iterator[tuple[View, Forms]]:
        return (
            (view, one)
            for view in self._views
            for one in self._forms
            if one.folds or not view.folded
        )

    @property
    def end(self) -> _Text:
        """The last part of the text, in which a held-back secret may begin."""
        first = len(self.whole) - SPAN_BYTES
        return _Text(self.whole[first:], self._forms, first) if first > 0 else self

    def covered(self) -> list[Span]:
        """Return the sorted spans of secrets in the text."""
        found = set[Span]()
        for view, one in self._searches():
            for start, end in one.found_in(view.bare):
                span = view.span(start, end)
                if self._counts(span, end - start):
                    found.add(span)
        return sorted(found)

    def _counts(self, span: Span, size: int) -> bool:
        """Return True if a match counts as a piece.

        A match across a line break must be long enough, and not too spread out."""
        start, end = span
        if end - start == size:
            return True
        return end - start <= SPAN_BYTES and (
            size >= ACROSS_BYTES_MIN or not _BREAK.search(self.whole, start, end)
        )

    def find_begun(self) -> Iterator[int]:
        """Yield the places where held-back bytes begin.

        In a whole line they are held back only if enough bytes are at stake."""
        whole_line = self.whole.endswith((b"\n", b"\r"))
        for view, one in self._searches():
            size = len(view.bare)
            yield from (
                view.place(at)
                for at in one.begun_in(view.bare)
                if size - at >= ACROSS_BYTES_MIN or not whole_line
            )


def _past(spans: Sequence[Span], held: int) -> int:
    """Return the first place from `held` on that is not redacted.

    Redacted bytes need not wait."""
    for start, end in spans:
        if start <= held < end:
            held = end
    return held


_COLOUR_FORM = rb"\x1b(?:\[[0-9;:]*(?:[A-Za-z]|\Z)|\Z)"
"""An escape sequence that sets colours or erases to the end of the line.

grep prints both. Also matches the start of one at the end of a text."""
# Each starts with one byte or one set of bytes: the re module skips to such a start quickly,
# but tries alternatives at every byte.
_COLOUR = re.compile(_COLOUR_FORM)
_JOINED = re.compile(rb"[\r\n]")
_UNINDENTED = re.compile(rb"[\\\r\n](?:(?:(?<=[\r\n])[\r\n]*|[\r\n]+)[ \t]*(?:\\(?= ))?|(?<=\\)\Z)")
_FOLDED = re.compile(rb"[ \t\r\n](?:(?<=[\r\n])[\r\n]*|[\r\n]+)[ \t]*")
_BREAKS = re.compile(rb"[\r\n]+[ \t]*")
_LEFT = re.compile(rb"[\r\n]+[ \t]*|" + _COLOUR_FORM)
# Texts without these have no gaps except line breaks and the blanks after them.
_NOT_BREAKS = {_UNINDENTED: (b"\\",), _FOLDED: (b" \n", b"\t\n", b" \r", b"\t\r"), _COLOUR: ()}
_STARS = bytes(byte if byte in b"\r\n" else ord("*") for byte in range(256))

Span = tuple[int, int]


class View:
    """One view of a text: `bare` is searched, `place` maps its bytes to the text.

    `below`: the view whose `bare` is `whole`, if `whole` is not the text itself."""

    def __init__(
        self,
        whole: bytes,
        gaps: re.Pattern[bytes],
        *,
        folded: bool = False,
        below: View | None = None,
    ) -> None:
        self.whole = whole
        self.folded = folded
        self._gaps = gaps
        self._below = below
        if gaps is _JOINED:
            self.bare = whole.translate(None, b"\r\n")
            return
        joint = b" " if folded else b""
        if any(sign in whole for sign in _NOT_BREAKS[gaps]) or gaps is _COLOUR:
            self.bare = gaps.sub(joint, whole)
        else:
            # These gaps are equivalent in this text, and are removed in a quarter of the time.
            self._gaps = _BREAKS
            self.bare = _without_breaks(whole, joint)

    @cached_property
    def _removed(self) -> tuple[list[int], list[int]]:
        """The places in `bare` before which bytes were removed, and the running totals."""
        before, sums = list[int](), [0]
        if len(self.bare) != len(self.whole):
            for gap in self._gaps.finditer(self.whole):
                start = gap.start() + (1 if self.folded else 0)
                before.append(start - sums[-1])
                sums.append(sums[-1] + gap.end() - start)
        return before, sums

    def place(self, at: int) -> int:
        """Return the place in the text of the byte number `at` of the view."""
        before, sums = self._removed
        here = at + sums[bisect_right(before, at)]
        return here if self._below is None else self._below.place(here)

    def span(self, start: int, end: int) -> Span:
        """Return the span in the text of a piece of the view."""
        return self.place(start), self.place(end - 1) + 1


def views(whole: bytes, *, folds: bool) -> Iterator[View]:
    """Yield the views of a text that differ.

    `folds`: a line break may replace a blank of a secret."""
    below = None
    if b"\x1b" in whole and len((plain := View(whole, _COLOUR)).bare) < len(whole):
        whole, below = plain.bare, plain
    yield View(whole, _JOINED, below=below)
    if _is_indented(whole):
        yield View(whole, _UNINDENTED, below=below)
    if folds and (b"\n" in whole or b"\r" in whole):
        yield View(whole, _FOLDED, folded=True, below=below)


def _without_breaks(text: bytes, joint: bytes) -> bytes:
    """Return `_BREAKS.sub(joint, text)`, computed without a regular expression."""
    lines = [line for line in text.splitlines() if line]
    if not lines:
        return joint if text else b""
    bare = [line.lstrip(b" \t") for line in lines]
    if text.startswith((b"\n", b"\r")):
        bare[0] = joint + bare[0]
    else:
        bare[0] = lines[0]
    if text.endswith((b"\n", b"\r")):
        bare[-1] += joint
    return joint.join(bare)


def _is_indented(text: bytes) -> bool:
    """Return True if blanks follow a line break, or a backslash precedes one.

    It is called for each output, so it uses no regular expression. From the end a line break is
    searched for by its rare byte, in a quarter of the time of `in`."""
    if text.rfind(b"\n ") >= 0 or text.rfind(b"\n\t") >= 0:
        return True
    if b"\\" in text and (text.endswith(b"\\") or b"\\\n" in text or b"\\\r" in text):
        return True
    return b"\r" in text and (b"\r " in text or b"\r\t" in text)


def starred(text: bytes, spans: Sequence[Span]) -> bytes:
    """Return the text with these spans, which are in order, replaced by stars.

    Line breaks, indentation and colours stay."""
    if not spans:
        return text
    masked = bytearray(text)
    for start, end in _merged(spans):
        masked[start:end] = text[start:end].translate(_STARS)
        if b"\x1b" in text[start:end] or b"\n" in text[start:end] or b"\r" in text[start:end]:
            for gap in _LEFT.finditer(text, start, end):
                masked[gap.start() : gap.end()] = gap[0]
    return bytes(masked)


def _merged(spans: Sequence[Span]) -> Iterator[Span]:
    first, last = spans[0]
    for start, end in spans[1:]:
        if start > last:
            yield first, last
            first, last = start, end
        last = max(last, end)
    yield first, last
