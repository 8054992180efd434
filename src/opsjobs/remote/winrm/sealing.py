"""The encrypted form of a WinRM message: parts with a length and a header.

MS-WSMV, section 2.2.9.1.
"""

from __future__ import annotations

import re
import struct
from typing import Any

SPNEGO = "application/HTTP-SPNEGO-session-encrypted"
KERBEROS = "application/HTTP-Kerberos-session-encrypted"
CREDSSP = "application/HTTP-CredSSP-session-encrypted"
PART_BYTES = 16 * 1024
"""The maximum size of one part with CredSSP, whose TLS records hold no more."""

_BOUNDARY = b"--Encrypted Boundary"
# Some hosts write a blank after the hyphens, or none before a parameter.
_SEPARATOR = re.compile(rb"--\s*Encrypted Boundary")
_LENGTH = re.compile(rb"OriginalContent:[^\r\n]*;\s*Length=(\d+)", re.IGNORECASE)
_OCTETS = re.compile(rb"\s*Content-Type:\s*application/octet-stream\r\n", re.IGNORECASE)


class SealingError(Exception):
    """A message that is not correctly encrypted."""


def is_sealed(content_type: str) -> bool:
    """Return True if the content type is that of an encrypted message."""
    return content_type.lower().startswith(("multipart/encrypted", "multipart/x-multi-encrypted"))


def seal(context: Any, protocol: str, message: bytes) -> tuple[str, bytes]:
    """Return the content type and the encrypted form of a message; `context` is a spnego one."""
    several = protocol == CREDSSP and len(message) > PART_BYTES
    size = PART_BYTES if several else max(len(message), 1)
    body = bytearray()
    for at in range(0, max(len(message), 1), size):
        piece = message[at : at + size]
        header, data, padding = context.wrap_winrm(piece)
        body += (
            b"%b\r\n\tContent-Type: %b\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n"
            b"%b\r\n\tContent-Type: application/octet-stream\r\n"
            % (_BOUNDARY, protocol.encode(), len(piece) + padding, _BOUNDARY)
        )
        body += struct.pack("<i", len(header)) + header + data
    body += _BOUNDARY + b"--\r\n"
    kind = "multipart/x-multi-encrypted" if several else "multipart/encrypted"
    return f'{kind};protocol="{protocol}";boundary="Encrypted Boundary"', bytes(body)


def unseal(context: Any, body: bytes) -> bytes:
    """Return the decrypted message. Raises SealingError, and the exceptions of the context."""
    message, at = bytearray(), 0
    while (start := _SEPARATOR.match(body, at)) and not body.startswith(b"--", start.end()):
        length = _LENGTH.search(body, start.end())
        middle = _SEPARATOR.search(body, start.end())
        if length is None or middle is None or length.start() > middle.start():
            raise SealingError("a part has no length")
        octets = _OCTETS.match(body, middle.end())
        if octets is None:
            raise SealingError("a part has no octet stream")
        piece, at = _unseal_part(context, body, octets.end(), int(length[1]))
        message += piece
    if at == 0:
        raise SealingError("it has no parts")
    return bytes(message)


def _unseal_part(context: Any, body: bytes, start: int, length: int) -> tuple[bytes, int]:
    """Return the decrypted bytes of one part, and the position of the separator after it."""
    if start + 4 > len(body):
        raise SealingError("a part is cut off")
    header_length = struct.unpack_from("<i", body, start)[0]
    begin = start + 4 + header_length
    if header_length < 0 or begin > len(body):
        raise SealingError("the header of a part is longer than the part")
    # No protocol makes a message shorter: the separator cannot come earlier.
    end = _SEPARATOR.search(body, min(begin + length, len(body)))
    if end is None:  # CredSSP counts its TLS header as data
        end = _SEPARATOR.search(body, begin)
    if end is None:
        raise SealingError("a part has no end")
    piece: bytes = context.unwrap_winrm(body[start + 4 : begin], body[begin : end.start()])
    if len(piece) != length:
        raise SealingError(f"a part has {len(piece)} bytes, and should have {length}")
    return piece, end.start()
