"""Host keys of targets: their normal form, and the audit of their changes.

The normal form is type and base64, as in known_hosts, without comment.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from opsjobs.model.target import REVOKED, host_key_fingerprint
from opsjobs.store import audit
from opsjobs.store.transaction import Connection

_TYPES = ("ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")


def host_key_line(text: str) -> str:
    """Return the normal form of a host key. Raises ValueError if it is not a host key.

    `ssh-ed25519 AAAA… root@web-1` becomes `ssh-ed25519 AAAA…`; a leading `@revoked ` stays. The
    blob repeats the type (RFC 4253 §6.6), so a line that was cut or mixed up is detected when it is
    stored.
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
    if (
        not kind.startswith(_TYPES)
        or raw[4 : 4 + length] != kind.encode()
        or len(raw) <= 4 + length
    ):
        raise ValueError(
            f"{text[:40]!r} is not a host key: give its type and base64, such as `ssh-ed25519 "
            f"AAAA…`"
        )
    return f"{kind} {blob}"


def change_of(before: Sequence[str], after: Sequence[str]) -> str | None:
    """Classify a change of host keys: trusted, replaced, revoked, removed; None if equal.

    >>> one, other = ["ssh-rsa A"], ["ssh-rsa B"]
    >>> change_of(one, other), change_of([], one), change_of(one, [])
    ('replaced', 'trusted', 'removed')
    """
    added = {key for key in after if key not in before}
    removed = {key for key in before if key not in after}
    if not added and not removed:
        return None
    if any(not key.startswith(REVOKED) for key in added):
        return "replaced" if any(not key.startswith(REVOKED) for key in removed) else "trusted"
    return "revoked" if added else "removed"


async def record_change(
    connection: Connection, target_id: int, name: str, before: Sequence[str], after: Sequence[str]
) -> None:
    """Record a change of host keys, with fingerprints, in the transaction that makes it."""
    change = change_of(before, after)
    if change is not None:
        fingerprints = [
            {"host_keys": [host_key_fingerprint(key) for key in keys]} for keys in (before, after)
        ]
        await audit.record(
            connection,
            f"target.host_keys_{change}",
            "target",
            target_id,
            name,
            before=fingerprints[0],
            after=fingerprints[1],
        )
