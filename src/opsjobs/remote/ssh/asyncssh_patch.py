"""Suppress packets of asyncssh that our ciphers do not need."""

from __future__ import annotations

from typing import Any

_IGNORE = 2  # SSH_MSG_IGNORE, RFC 4253 11.2


def without_ignored(wire: Any) -> None:
    """Stop sending SSH_MSG_IGNORE packets on this asyncssh connection.

    asyncssh sends one before each packet of its own, which both sides encrypt, send, decrypt and
    discard. This protects ciphers in CBC mode, for which an observer of a packet knows how the next
    one begins (RFC 4251 9.3.1). We offer none: GCM, ChaCha20 and CTR use counters. asyncssh has no
    option for it, and no other place that all packets pass.
    """
    send = wire.send_packet

    def lean(kind: int, *parts: bytes, **more: Any) -> None:
        if kind != _IGNORE:
            send(kind, *parts, **more)

    wire.send_packet = lean
