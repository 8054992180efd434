"""The forms of a secret in output: plain, quoted for shells, JSON and URLs, hex, base64.

Every form is bytes without line breaks; the search skips the breaks in the text (wrapped base64, a
key)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator

from opsjobs.model.text_encodings import all_of, around_base64, in_urls, usual

SECRET_BYTES_MIN = 4
"""Shorter secrets are not redacted.

They would match in every other word, and the stars would reveal them."""
ENCODED_BYTES_MIN = 6
"""Shorter secrets are not searched in hex and base64: four characters match by chance."""
LINE_BYTES_MIN = 8
"""A line of a longer secret is searched by itself from this length on.

Shorter ones are searched only together with their neighbours."""
ENCODED_BYTES_MAX = 64 << 10
"""The total size of secrets, shortest first, that are searched in other forms than plain."""
RARE_BYTES_MAX = 8 << 10
"""The total size of secrets, shortest first, that are searched in all forms.

Beyond it only the usual forms are searched."""
WHOLE_BYTES_MAX = 256
"""The size up to which a secret of several lines is searched as a whole in all forms."""

_ARMOUR = re.compile(r"-----[A-Z0-9 ]+-----")
_BREAKS = re.compile(r"[\r\n]+")


def spellings(secrets: Iterable[str]) -> set[bytes]:
    """Return all forms of these secrets, without surrounding spaces and line breaks."""
    found: set[bytes] = set()
    size_of_all = 0
    for secret in sorted({secret.strip() for secret in secrets}, key=len):
        size = len(_bytes(secret))
        if size < SECRET_BYTES_MIN:
            continue
        size_of_all += size
        found.update(
            _forms_of(
                secret,
                size,
                plainly=size_of_all > ENCODED_BYTES_MAX,
                rarely=size_of_all <= RARE_BYTES_MAX,
            )
        )
    return found


def has_blanks(secrets: Iterable[str]) -> bool:
    """Return True if a line of a secret has blanks, at which YAML may fold it."""
    lines = (line.strip() for secret in secrets for line in _BREAKS.split(secret))
    return any(" " in line and not _ARMOUR.fullmatch(line) for line in lines)


def _forms_of(secret: str, size: int, *, plainly: bool, rarely: bool) -> Iterator[bytes]:
    lines = [line.strip() for line in _BREAKS.split(secret)]
    yield _bytes(_BREAKS.sub("", secret))
    yield _bytes("".join(lines))
    for line in lines:
        if len(lines) > 1 and len(_bytes(line)) >= LINE_BYTES_MIN and not _ARMOUR.fullmatch(line):
            yield from [_bytes(line)] if plainly else _source_forms(line, rarely=rarely)
    if plainly:
        return
    # Each line of a long secret with many lines is found in every form.
    yield from _source_forms(secret, rarely=rarely and (len(lines) == 1 or size <= WHOLE_BYTES_MAX))
    if size >= ENCODED_BYTES_MIN:
        yield from _encoded(_bytes(secret))


def _source_forms(text: str, *, rarely: bool) -> set[bytes]:
    """Return the forms of a text in source code, configuration and URLs."""
    written = all_of(text) if rarely else usual(text)
    return {_bytes(_BREAKS.sub("", form)) for form in written | in_urls(text)}


def _encoded(raw: bytes) -> Iterator[bytes]:
    for whole in (raw, raw + b"\n"):
        yield whole.hex().encode()
        yield whole.hex().upper().encode()
        for before in range(3):
            spelt = base64.b64encode(b"\0" * before + whole)
            start = (before * 8 + 5) // 6
            # The characters that do not depend on what follows; and all, if nothing follows.
            for form in (spelt[start : (before + len(whole)) * 8 // 6], spelt[start:].rstrip(b"=")):
                yield form.translate(_URL_SAFE)
                yield from (escaped.encode() for escaped in around_base64(form.decode()))


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
