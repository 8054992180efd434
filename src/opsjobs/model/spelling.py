"""How a secret may be spelt in what a machine prints: as it is, quoted for shells, JSON and URLs, in hex, in base64.

Every spelling is bytes without line breaks: who looks for them passes over the breaks in the text (wrapped base64, a key).
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

SECRET_BYTES_MIN = 4
"""Shorter ones are not looked for: they would be found in every other word, and whoever sees the stars knows them."""
ENCODED_BYTES_MIN = 6
"""Shorter ones are not looked for in hex and base64: of four characters anything is made."""
LINE_BYTES_MIN = 8
"""A line of a longer secret is looked for by itself from this length on; what is shorter only together with its neighbours."""
ENCODED_BYTES_MAX = 64 << 10
"""So much of all secrets together, the shortest first, is looked for in other spellings than their lines as they are."""

_ARMOUR = re.compile(r"-----[A-Z0-9 ]+-----")
_BREAKS = re.compile(r"[\r\n]+")
_HEX_OF_URL = re.compile(r"%[0-9A-F]{2}")
_TOLD_TO_SHELL = re.compile(r"([^\w@%+=:,./-])", re.ASCII)
_IN_DOUBLE_QUOTES = re.compile(r'(["$`\\])')


def spellings(secrets: Iterable[str]) -> set[bytes]:
    """All of them for these secrets; spaces and line breaks around a secret are not looked for."""
    found: set[bytes] = set()
    room = ENCODED_BYTES_MAX
    for secret in sorted({secret.strip() for secret in secrets}, key=len):
        size = len(_bytes(secret))
        if size < SECRET_BYTES_MIN:
            continue
        room -= size
        found.update(_of(secret, size, plainly=room < 0))
    return found


def _of(secret: str, size: int, *, plainly: bool) -> Iterator[bytes]:
    lines = [line.strip() for line in _BREAKS.split(secret)]
    yield _bytes(_BREAKS.sub("", secret))
    for line in lines:
        if len(lines) > 1 and len(_bytes(line)) >= LINE_BYTES_MIN and not _ARMOUR.fullmatch(line):
            yield from [_bytes(line)] if plainly else _written(line)
    if plainly:
        return
    yield from _written(secret)
    if size >= ENCODED_BYTES_MIN:
        yield from _encoded(_bytes(secret))


def _written(text: str) -> set[bytes]:
    """As it stands in source text of one kind or another."""
    written = {
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        html.escape(text),
        text.replace("'", "'\\''"),
        text.replace("'", "'\"'\"'"),
        _IN_DOUBLE_QUOTES.sub(r"\\\1", text),
        _TOLD_TO_SHELL.sub(r"\\\1", text),
    }
    in_bytes = {_bytes(_BREAKS.sub("", form)) for form in written}
    return in_bytes | _in_urls(text)


def _in_urls(text: str) -> set[bytes]:
    raw = _bytes(text)
    upper = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    lower = {_HEX_OF_URL.sub(lambda found: found[0].lower(), form) for form in upper}
    return {form.encode() for form in upper | lower}


def _encoded(raw: bytes) -> Iterator[bytes]:
    for whole in (raw, raw + b"\n"):
        yield whole.hex().encode()
        yield whole.hex().upper().encode()
        for before in range(3):
            spelt = base64.b64encode(b"\0" * before + whole)
            start = (before * 8 + 5) // 6
            # Whatever follows: the characters that do not depend on it. Where nothing does: to the end.
            for form in (spelt[start : (before + len(whole)) * 8 // 6], spelt[start:].rstrip(b"=")):
                yield form
                yield form.translate(_URL_SAFE)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
