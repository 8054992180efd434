"""Read the principals of a Kerberos keytab.

Only as much of the format as is needed to check that it holds a key of a principal.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator

# The file begins with two bytes: 5, and the version of the format. Version 1 (in the byte order of
# its writer) went out with Kerberos 5 beta.
_MAGIC = b"\x05\x02"


def decoded(text: str) -> bytes:
    """Return the bytes of a keytab in base64. Raises ValueError with a message for the user."""
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("The keytab is not in base64: give the output of `base64 FILE`.") from None
    if not content.startswith(_MAGIC):
        raise ValueError(
            "The keytab is no file as ktutil or ktpass write it: it does not begin with the bytes 5 and 2."
        )
    return content


def principals(content: bytes) -> list[str]:
    """Return the principals, `name/instance@REALM`, each once. Raises ValueError if cut short."""
    try:
        return list(dict.fromkeys(_principal(entry) for entry in _entries(content)))
    except (struct.error, IndexError):
        raise ValueError("The keytab is cut short.") from None


def _entries(content: bytes) -> Iterator[bytes]:
    """Yield the bytes of each key. A negative length is a hole, left by a deleted key."""
    at = len(_MAGIC)
    while at < len(content):
        (length,) = struct.unpack_from(">i", content, at)
        at += 4
        if length > 0:
            if at + length > len(content):
                raise IndexError
            yield content[at : at + length]
        at += abs(length)
        if length == 0:
            return


def _principal(entry: bytes) -> str:
    (components,) = struct.unpack_from(">H", entry)
    texts, at = [], 2
    for _ in range(components + 1):  # the realm comes first
        (length,) = struct.unpack_from(">H", entry, at)
        at += 2 + length
        if at > len(entry):
            raise IndexError
        texts.append(entry[at - length : at].decode(errors="replace"))
    return f"{'/'.join(texts[1:])}@{texts[0]}"
