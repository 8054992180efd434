"""Views of a text for finding secrets: without line breaks, indentation and colours.

Each view maps its bytes to their places in the text. Wrapped base64, an indented key, a folded YAML
scalar and a match that grep coloured become plain text in one of the views."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property

_COLOUR_FORM = rb"\x1b(?:\[[0-9;:]*(?:[A-Za-z]|\Z)|\Z)"
"""An escape sequence that sets colours or erases to the end of the line.

grep prints both. Also matches its beginning at the end of a text."""
# Each begins with one byte or one set of bytes: the re module skips to such a beginning quickly,
# but tries alternatives at every byte.
_COLOUR = re.compile(_COLOUR_FORM)
_JOINED = re.compile(rb"[\r\n]")
_UNINDENTED = re.compile(rb"[\\\r\n](?:(?:(?<=[\r\n])[\r\n]*|[\r\n]+)[ \t]*(?:\\(?= ))?|(?<=\\)\Z)")
_FOLDED = re.compile(rb"[ \t\r\n](?:(?<=[\r\n])[\r\n]*|[\r\n]+)[ \t]*")
_BREAKS = re.compile(rb"[\r\n]+[ \t]*")
_LEFT = re.compile(rb"[\r\n]+[ \t]*|" + _COLOUR_FORM)
# Texts without these have no other gaps than line breaks and the blanks after them.
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
            # The same gaps in this text, and removed in a quarter of the time.
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

    `folds`: a line break may stand for a blank of a secret."""
    below = None
    if b"\x1b" in whole and len((plain := View(whole, _COLOUR)).bare) < len(whole):
        whole, below = plain.bare, plain
    yield View(whole, _JOINED, below=below)
    if _is_indented(whole):
        yield View(whole, _UNINDENTED, below=below)
    if folds and (b"\n" in whole or b"\r" in whole):
        yield View(whole, _FOLDED, folded=True, below=below)


def _without_breaks(text: bytes, joint: bytes) -> bytes:
    """Return the same as `_BREAKS.sub(joint, text)`, without a regular expression."""
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
    """Return True if blanks follow a line break, or a backslash comes before one.

    It is called for each output, so it uses no regular expression."""
    if b"\n " in text or b"\n\t" in text:
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
