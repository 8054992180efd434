"""The encodings in which programs on Windows write, and their output as UTF-8.

Lines in UTF-8, in a code page and in UTF-16 may follow each other in one stream, as programs of
several kinds write to it. The result depends on the bytes alone, not on how they are cut into
pieces: a worker that reads a stream again from its start gets the same text.
"""

from __future__ import annotations

import codecs
import re

AUTO = "auto"
"""UTF-8 and UTF-16 are recognized; other bytes stay as they are."""
LINE_BYTES_MAX = 4096
"""A line is decoded at the latest when so many bytes of it are held."""
PROBE_BYTES = 256
"""The bytes from which it is decided if lines in UTF-16 begin, or are over."""

_NAME = re.compile(r"(?:cp|ibm|oem|windows|win)?[-_ ]?(\d{3,5})")
_UTF8, _UTF16 = codecs.BOM_UTF8, codecs.BOM_UTF16_LE
_ASCII = re.compile(rb"[\x00-\x7f]*?\n|[\x00-\x7f]+")


def check_encoding(text: str) -> str:
    """Return the name of a code page as `cp850`, or `auto`. Raises ValueError."""
    asked = text.strip().lower()
    if asked == AUTO:
        return AUTO
    found = _NAME.fullmatch(asked)
    name = "auto" if asked in ("utf-8", "utf8", "cp65001", "65001") else ""
    if found is not None and not name:
        name = f"cp{int(found[1])}"
        try:
            codecs.lookup(name)
        except LookupError:
            name = ""
    if not name:
        raise ValueError(
            "the encoding of output is auto, or a code page such as cp437, cp850, cp1252 or cp932"
        )
    return name


class TextDecoder:
    """Decodes one stream, piece by piece, to UTF-8.

    A line that is not valid UTF-8 is in the code page. ASCII is passed on at once; the rest of a
    line, from its first other byte on, is held until the line ends.
    """

    def __init__(self, encoding: str) -> None:
        self._code_page = None if encoding == AUTO else encoding
        self._held = b""
        self._at_start = True
        """True at the start of a line, where the encoding may change."""
        self._wide: codecs.IncrementalDecoder | None = None
        """The decoder of UTF-16, while lines are written in it."""

    def add(self, data: bytes) -> bytes:
        """Return the text that is certain now."""
        self._held += data
        return self._decode(final=False)

    def finish(self) -> bytes:
        """Return the rest of the text; the stream has ended."""
        return self._decode(final=True)

    def _decode(self, *, final: bool) -> bytes:
        text = bytearray()
        while self._held:
            if self._at_start and not self._begin_line(final=final):
                break
            before = len(self._held)
            text += self._decode_wide(final=final) if self._wide else self._decode_line(final=final)
            if len(self._held) == before:
                break
        return bytes(text)

    def _begin_line(self, *, final: bool) -> bool:
        """Choose the encoding of the line that begins; return False if more bytes are needed."""
        held = self._held
        for mark in (_UTF8, _UTF16):
            if held.startswith(mark):
                self._held = held[len(mark) :]
                self._set_wide(on=mark is _UTF16)
                self._at_start = False
                return True
            if mark.startswith(held) and not final:
                return False
        known = _stays_wide if self._wide is not None else _is_wide
        if (wide := known(held, final=final)) is None:
            return False
        self._set_wide(on=wide)
        self._at_start = False
        return True

    def _set_wide(self, *, on: bool) -> None:
        if not on:
            self._wide = None
        elif self._wide is None:
            self._wide = codecs.getincrementaldecoder("utf-16-le")("replace")

    def _decode_wide(self, *, final: bool) -> bytes:
        """Decode UTF-16 to the end of the line, or of the held bytes."""
        assert self._wide is not None, "it decodes UTF-16"
        end = self._held.find(b"\n\0")
        while end % 2 and end >= 0:
            end = self._held.find(b"\n\0", end + 1)
        size = end + 2 if end >= 0 else len(self._held) // 2 * 2
        size = len(self._held) if final and end < 0 else size
        piece, self._held = self._held[:size], self._held[size:]
        self._at_start = end >= 0
        return self._wide.decode(piece, final and not self._held).encode()

    def _decode_line(self, *, final: bool) -> bytes:
        """Decode a line, or the part of it that is certain."""
        found = _ASCII.match(self._held)
        if found is not None:
            self._held = self._held[found.end() :]
            self._at_start = found[0].endswith(b"\n")
            return found[0]
        end = self._held.find(b"\n", 0, LINE_BYTES_MAX) + 1
        if not (end or final or len(self._held) >= LINE_BYTES_MAX):
            return b""
        line = self._held[: end or LINE_BYTES_MAX]
        whole = bool(end) or (final and len(line) == len(self._held))
        text, left = self._decode_segment(line, whole=whole)
        self._held = left + self._held[len(line) :]
        self._at_start = bool(end)
        return text

    def _decode_segment(self, line: bytes, *, whole: bool) -> tuple[bytes, bytes]:
        """Return the text of a part of a line, and the begun character at its end."""
        try:
            _, used = codecs.utf_8_decode(line, "strict", whole)
        except UnicodeDecodeError:
            if self._code_page is None:
                return line, b""
            decoder = codecs.getincrementaldecoder(self._code_page)("replace")
            text = decoder.decode(line, whole)
            return text.encode(), decoder.getstate()[0]
        return line[:used], line[used:]


def _is_wide(held: bytes, *, final: bool) -> bool | None:
    """Return True if a line in UTF-16 begins; None if unknown yet.

    Such a line begins with two ASCII characters. Or it begins with another character, also after a
    blank line, and has an ASCII character, such as CR, before its end. A line that begins with two
    bytes of ASCII is not held for that, although they may be one character, such as U+4E2D.
    """
    begins = _is_wide_ascii(held[:4], final=final)
    if begins is not False:
        return begins
    line = held.removeprefix(b"\n\0")
    if len(line) < 2 and not final:
        return None
    if line[:2].isascii() and 0 not in line[:2]:
        return False
    return _has_wide_end(line, final=final)


def _is_wide_ascii(held: bytes, *, final: bool) -> bool | None:
    """Return True if these four bytes are two ASCII characters in UTF-16; None if unknown yet."""
    for at, byte in enumerate(held):
        if at % 2 and byte != 0:
            return False
        if not at % 2 and byte not in b"\t\r\n" and not 0x20 <= byte < 0x7F:
            return False
    if len(held) >= 4:
        return True
    return len(held) > 1 if final else None


def _has_wide_end(held: bytes, *, final: bool) -> bool | None:
    """Return True if a line in UTF-16 has ASCII before its end; None if unknown yet."""
    end = held.find(b"\n", 0, PROBE_BYTES)
    if end < 0 and len(held) < PROBE_BYTES and not final:
        return None
    line = held[:end] if end >= 0 else held[:PROBE_BYTES]
    return (end < 0 or end % 2 == 0) and 0 in line[1::2]


def _stays_wide(held: bytes, *, final: bool) -> bool | None:
    """Return False if lines in UTF-16 are over with this one; None if unknown yet.

    A line in UTF-16 has a zero byte in its end. Without one before the first byte 0A, this is a
    line in UTF-8 or a code page, or 0A is a half of a character, such as U+4E0A.
    """
    end = held.find(b"\n", 0, PROBE_BYTES)
    line = held[:end] if end >= 0 else held[:PROBE_BYTES]
    if b"\0" in line:
        return True
    if end < 0 and len(held) < PROBE_BYTES and not final:
        return None
    if not line or (end >= 0 and line.endswith(b"\r")):
        return not line
    try:
        codecs.utf_8_decode(line, "strict", end >= 0 or final)
    except UnicodeDecodeError:
        return True
    return False
