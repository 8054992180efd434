"""The one spelling of a host key: type and base64, as in known_hosts, without comment."""

from __future__ import annotations

import base64
import binascii

from opsjobs.model.target import REVOKED

_TYPES = ("ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")


def host_key_line(text: str) -> str:
    """`ssh-ed25519 AAAA… root@web-1` -> `ssh-ed25519 AAAA…`, after `@revoked ` where that is said; ValueError where it is no key.

    The blob repeats the type (RFC 4253 §6.6), so a line that was cut or mixed up is found here and not at 3 in the morning.
    """
    if text.startswith(REVOKED):
        return REVOKED + host_key_line(text.removeprefix(REVOKED))
    kind, _, rest = text.strip().partition(" ")
    blob = rest.split(" ", 1)[0]
    try:
        raw = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    length = int.from_bytes(raw[:4], "big")
    if not kind.startswith(_TYPES) or raw[4 : 4 + length] != kind.encode() or len(raw) <= 4 + length:
        raise ValueError(f"{text[:40]!r} is not a host key: give its type and base64, such as `ssh-ed25519 AAAA…`")
    return f"{kind} {blob}"
