"""Secrets in what machines print are replaced byte for byte by `*`, however the bytes are cut into pieces on their way.

One pass in linear time, whatever the text and however many secrets: of the text a group of four bytes at every fourth place, or
at every 16th if no secret is short, is looked up in a set of all groups that secrets have there; only where one is found is
anything compared. Bytes that may be the beginning of a secret are held back until it is known, and nothing else is.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from opsjobs.model.masked_views import Span, View, starred, views
from opsjobs.model.secret_variants import has_blanks, spellings

PIECE_BYTES = 64
"""A long spelling is looked for in pieces of this size (the last one is up to twice as long), so that parts of it are found, too."""
ACROSS_BYTES_MIN = 8
"""What is shorter is not found across a line break, and no less at the end of a whole line makes that line wait."""
SPAN_BYTES = 1024
"""How far apart in the text the first and the last byte of a piece may be, with line breaks, indentation and colours in between."""

_GRAM = 4
# So many groups are asked about at once; only where one of them is known, they are looked at one by one.
_STRETCH = 128
# From this length on a piece has a whole group of four at one of every four places.
_INDEXED_BYTES_MIN = 2 * _GRAM - 1
# Groups are so many groups apart at most: the shortest piece must have a whole one, wherever it begins.
_STRIDE_MAX = 4
_BREAK = re.compile(rb"[\r\n]")


class Forms:
    """All spellings of some secrets, ready to be looked for; made once and shared by everything that may print them."""

    __slots__ = ("__weakref__", "_grams", "_heads", "_longest", "_pieces", "_short", "_stride", "_within", "folds")

    def __init__(self, secrets: Iterable[str]) -> None:
        secrets = tuple(secrets)
        pieces = {piece for form in spellings(secrets) for piece in _cut(form)}
        self._pieces = sorted(pieces)
        self._longest = max(map(len, pieces), default=0)
        self._short = [piece for piece in self._pieces if len(piece) < _INDEXED_BYTES_MIN]
        shortest = min(map(len, self._indexed), default=_INDEXED_BYTES_MIN)
        self._stride = min(_STRIDE_MAX, (shortest - _GRAM + 1) // _GRAM)
        places = range(_GRAM * self._stride)
        self._grams = {int.from_bytes(p[at : at + _GRAM], sys.byteorder) for p in self._indexed for at in places}
        self._heads = {piece[:_GRAM] for piece in self._pieces}
        self._within = _prefixes(self._pieces)
        self.folds = has_blanks(secrets)

    @property
    def _indexed(self) -> Iterator[bytes]:
        return (piece for piece in self._pieces if len(piece) >= _INDEXED_BYTES_MIN)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def found_in(self, text: bytes) -> list[Span]:
        """Where pieces stand in a text without line breaks; they may overlap."""
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
        """The pieces whose first whole group of those looked at stands here; of those that begin at one place the longest."""
        for start in range(max(at - _GRAM * self._stride + 1, 0), at + 1):
            if text[start : start + _GRAM] in self._heads and (size := self._size_at(text[start : start + self._longest])):
                yield start, start + size

    def _size_at(self, text: bytes) -> int:
        """Of the longest piece that the text begins with; 0 where it begins with none.

        Whatever stands between a piece and the text in their order begins with that piece, too.
        """
        at = bisect_right(self._pieces, text) - 1
        while at >= 0 and not text.startswith(self._pieces[at]):
            at = self._within[at]
        return len(self._pieces[at]) if at >= 0 else 0

    def begun_in(self, text: bytes) -> list[int]:
        """Where at its end pieces begin of which it has not yet all."""
        size, heads = len(text), self._heads
        first = max(0, size - self._longest + 1)
        begun = [at for at in range(first, size - _GRAM + 1) if text[at : at + _GRAM] in heads]
        return [at for at in (*begun, *range(max(first, size - _GRAM + 1), size)) if self._goes_on(text[at:])]

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
    """For each of these, which are in order: the longest other one that it begins with; -1 where there is none."""
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
    """What must not be seen of one run: the forms of all secrets that it knows."""

    __slots__ = ("_forms",)

    def __init__(self, forms: Iterable[Forms] = ()) -> None:
        self._forms = tuple(one for one in forms if one)

    def __bool__(self) -> bool:
        return bool(self._forms)

    def also(self, forms: Forms) -> Mask:
        """This and more."""
        return Mask([*self._forms, forms])

    def stream(self) -> Masking | None:
        """One stream to be masked; None where there is nothing to look for."""
        return Masking(self._forms) if self._forms else None

    def text(self, words: str) -> str:
        """The words with stars in them."""
        if not self._forms or not words:
            return words
        text = _Text(words.encode("utf-8", "surrogatepass"), self._forms)
        if not (covered := text.covered()):
            return words
        # A piece may end within a character: then its rest is none.
        return starred(text.whole, covered).decode("utf-8", "replace")

    def tree(self, value: Any) -> Any:
        """A JSON value whose texts and names are masked."""
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
    """A stream on its way: as many bytes come out as went in, some of them later."""

    def __init__(self, forms: Sequence[Forms]) -> None:
        self._forms = forms
        # The last bytes that went in; so many of them have come out.
        self._kept = b""
        self._out = 0

    def add(self, data: bytes) -> bytes:
        """The next bytes went in; those come out of which it is certain what they are."""
        text = _Text(self._kept + data, self._forms)
        covered = text.covered()
        held = _past(covered, self._held(text.end))
        masked = starred(text.whole, covered)[self._out : held]
        keep = max(0, min(len(text.whole) - SPAN_BYTES, held))
        self._kept, self._out = text.whole[keep:], max(held, self._out) - keep
        return masked

    def finish(self) -> bytes:
        """The stream has ended: what was held back was no secret, or is one already."""
        text = _Text(self._kept, self._forms)
        rest = starred(text.whole, text.covered())[self._out :]
        self._kept, self._out = b"", 0
        return rest

    def _held(self, end: _Text) -> int:
        """Where in the text, of which this is the end, something begins that may become a secret."""
        return end.first + min(end.begun(), default=len(end.whole))


class _Text:
    """A text, its views, and where in a longer one it begins (`first`)."""

    def __init__(self, whole: bytes, forms: Sequence[Forms], first: int = 0) -> None:
        self.whole = whole
        self.first = first
        self._forms = forms
        self._views = list(views(whole, folds=any(one.folds for one in forms)))

    def _searches(self) -> Iterator[tuple[View, Forms]]:
        return ((view, one) for view in self._views for one in self._forms if one.folds or not view.folded)

    @property
    def end(self) -> _Text:
        """The part in which something may begin that is held back."""
        first = len(self.whole) - SPAN_BYTES
        return _Text(self.whole[first:], self._forms, first) if first > 0 else self

    def covered(self) -> list[Span]:
        """Return where secrets stand in the text, from the first one on."""
        found = {
            span
            for view, one in self._searches()
            for start, end in one.found_in(view.bare)
            if self._counts(span := view.span(start, end), end - start)
        }
        return sorted(found)

    def _counts(self, span: Span, size: int) -> bool:
        """Return whether what was found is a piece; what stands across a break must be long enough, and not too far apart."""
        start, end = span
        if end - start == size:
            return True
        return end - start <= SPAN_BYTES and (size >= ACROSS_BYTES_MIN or not _BREAK.search(self.whole, start, end))

    def begun(self) -> Iterator[int]:
        """Return where something begins that is held back: of a line that is whole only if enough of it is at stake."""
        whole_line = self.whole.endswith((b"\n", b"\r"))
        for view, one in self._searches():
            size = len(view.bare)
            yield from (view.place(at) for at in one.begun_in(view.bare) if size - at >= ACROSS_BYTES_MIN or not whole_line)


def _past(spans: Sequence[Span], held: int) -> int:
    """What is covered need not wait: the first place from `held` on that is not."""
    for start, end in spans:
        if start <= held < end:
            held = end
    return held
