"""A text as secrets are looked for in it: without line breaks, indentation and colours, and where each byte stands.

Wrapped base64, an indented key, a folded scalar of YAML and a match that grep coloured become plain text in one of the views.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property

_COLOUR = rb"\x1b(?:\[[0-9;:]*(?:[A-Za-z]|\Z)|\Z)"
"""A sequence that sets colours or erases to the end of the line (grep prints both), also its beginning at the end of a text."""
_JOINED = re.compile(rb"[\r\n]|" + _COLOUR)
_UNINDENTED = re.compile(rb"\\?[\r\n]+[ \t]*(?:\\(?= ))?|\\\Z|" + _COLOUR)
_FOLDED = re.compile(rb"[ \t]?[\r\n]+[ \t]*|" + _COLOUR)
_BREAKS = re.compile(rb"[\r\n]+[ \t]*")
_LEFT = re.compile(rb"[\r\n]+[ \t]*|" + _COLOUR)
_STARS = bytes(byte if byte in b"\r\n" else ord("*") for byte in range(256))

Span = tuple[int, int]


class View:
    """One view of a text: `bare` is what is searched, `place` tells where its bytes stand in the text."""

    def __init__(self, whole: bytes, gaps: re.Pattern[bytes], *, folded: bool = False) -> None:
        self.whole = whole
        self.folded = folded
        self._gaps = gaps
        if b"\x1b" in whole:
            self.bare = gaps.sub(self._kept if folded else b"", whole)
        elif gaps is _JOINED:
            self.bare = whole.translate(None, b"\r\n")
        else:
            if not any(sign in whole for sign in ((b" \n", b"\t\n", b" \r", b"\t\r") if folded else (b"\\",))):
                # The same gaps in this text, and found in a fifth of the time.
                self._gaps = _BREAKS
            self.bare = self._gaps.sub(b" " if folded else b"", whole)

    @staticmethod
    def _kept(gap: re.Match[bytes]) -> bytes:
        return b"" if gap[0].startswith(b"\x1b") else b" "

    @cached_property
    def _removed(self) -> tuple[list[int], list[int]]:
        """Return before which byte of `bare` something was removed, and how many bytes up to there."""
        before, sums = list[int](), [0]
        if len(self.bare) != len(self.whole):
            for gap in self._gaps.finditer(self.whole):
                start = gap.start() + (len(self._kept(gap)) if self.folded else 0)
                before.append(start - sums[-1])
                sums.append(sums[-1] + gap.end() - start)
        return before, sums

    def place(self, at: int) -> int:
        """Return where in the text the byte stands that is number `at` in the view."""
        before, sums = self._removed
        return at + sums[bisect_right(before, at)]

    def span(self, start: int, end: int) -> Span:
        """Return where in the text a piece of the view begins and ends."""
        return self.place(start), self.place(end - 1) + 1


def views(whole: bytes, *, folds: bool) -> Iterator[View]:
    """Return the views of a text that differ; `folds` if a break may stand for a blank of what is looked for."""
    yield View(whole, _JOINED)
    if _is_indented(whole):
        yield View(whole, _UNINDENTED)
    if folds and (b"\n" in whole or b"\r" in whole):
        yield View(whole, _FOLDED, folded=True)


def _is_indented(text: bytes) -> bool:
    """Return whether blanks follow a break, or a backslash comes before it. Asked of each output: no regular expression."""
    if b"\n " in text or b"\n\t" in text:
        return True
    if b"\\" in text and (text.endswith(b"\\") or b"\\\n" in text or b"\\\r" in text):
        return True
    return b"\r" in text and (b"\r " in text or b"\r\t" in text)


def starred(text: bytes, spans: Sequence[Span]) -> bytes:
    """Return the text with stars in these places, which are in order; line breaks, indentation and colours stay."""
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
