"""What asyncssh sends that our ciphers have no need of."""

from __future__ import annotations

from typing import Any

_IGNORE = 2  # SSH_MSG_IGNORE, RFC 4253 11.2


def without_ignored(wire: Any) -> None:
    """From now on no more empty packets between the others on this connection of asyncssh's.

    It sends one before each of its own, which both sides encrypt, send, decrypt and throw away: for ciphers in CBC mode, of which
    whoever sees a packet knows how the next one begins (RFC 4251 9.3.1). We offer none: GCM, ChaCha20 and CTR count instead.
    There is no option for it, and no other place that all packets pass.
    """
    send = wire.send_packet

    def lean(kind: int, *parts: bytes, **more: Any) -> None:
        if kind != _IGNORE:
            send(kind, *parts, **more)

    wire.send_packet = lean
