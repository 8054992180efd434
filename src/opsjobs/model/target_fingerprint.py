"""The fingerprint of an approved target: its version, and a digest of its properties.

The digest covers the properties that identify the target and decide the work that runs there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from opsjobs.model.target import REVOKED, Endpoint, HostKeyPolicy, Target

PIN_BYTES = 32
VERSION_BYTES = 4


@dataclass(frozen=True, slots=True)
class Hop:
    """A machine or a jump host, and its login user (None: it has no credential)."""

    target: Target
    login: str | None = None


def pin(way: Sequence[Hop]) -> bytes:
    """Return the 32-byte digest of a target and its jump hosts, the nearest one first.

    It covers the address and transport, the login, the host keys, and the labels, which are values
    of commands. It does not cover the name (a run keeps the one of its launch), groups, zone,
    slots, durability, and secrets, which are rotated."""
    machine, *jumps = way
    described = [_hop(machine), dict(machine.target.labels), [_hop(jump) for jump in jumps]]
    return hashlib.sha256(
        json.dumps(described, sort_keys=True, ensure_ascii=True).encode()
    ).digest()


def way_of(endpoint: Endpoint) -> list[Hop]:
    """Return a target and its jump hosts for `pin`."""
    hops = (endpoint, *endpoint.jumps)
    return [
        Hop(hop.target, (hop.credential.username or None) if hop.credential is not None else None)
        for hop in hops
    ]


def holds(pinned: bytes, way: Sequence[Hop]) -> bool:
    """Return True if the target is unchanged.

    A first host key that was added meanwhile under the policy accept_new is not a change."""
    return any(
        pin(hops) == pinned for hops in product(*([hop, *_before_its_key(hop)] for hop in way))
    )


def _hop(hop: Hop) -> list[Any]:
    target = hop.target
    where = [target.id, target.host, target.port, target.transport.value, target.platform]
    trust: list[Any] = [target.host_key_policy.value, sorted(set(target.host_keys))]
    if target.winrm is not None:
        trust.append(target.winrm.model_dump(mode="json"))
    return [*where, target.credential, hop.login, *trust]


def _before_its_key(hop: Hop) -> Iterator[Hop]:
    if hop.target.host_key_policy is HostKeyPolicy.ACCEPT_NEW:
        revoked = [key for key in hop.target.host_keys if key.startswith(REVOKED)]
        yield replace(hop, target=replace(hop.target, host_keys=revoked))


@dataclass(frozen=True, slots=True)
class Pins:
    """The checked version and the approved digest of each target, by its position from 1.

    They are packed bytes, so that ten thousand are one value to store. None: not recorded; digests
    exist only if there was an approval."""

    versions: bytes | None = None
    digests: bytes | None = None

    @classmethod
    def from_targets(cls, targets: Sequence[Target], digests: bytes | None = None) -> Pins:
        """Return the pins of targets; `digests`: the digest of each, if they need an approval."""
        return cls(b"".join(target.version.to_bytes(VERSION_BYTES) for target in targets), digests)

    def version(self, position: int) -> int | None:
        """Return the version of the target at this position; None if it was not recorded."""
        if self.versions is None:
            return None
        return int.from_bytes(
            self.versions[(position - 1) * VERSION_BYTES : position * VERSION_BYTES]
        )

    def digest(self, position: int) -> bytes | None:
        """Return the digest of the target at this position; None if there was no approval."""
        return (
            None
            if self.digests is None
            else self.digests[(position - 1) * PIN_BYTES : position * PIN_BYTES]
        )


NO_PINS = Pins()
