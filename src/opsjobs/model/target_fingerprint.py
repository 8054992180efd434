"""What of a machine was approved or judged: its version, and a digest of what decides which machine it is and what runs there."""

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
    """A machine, or a jump host before it, and the user name of its login there (None: it has no credential)."""

    target: Target
    login: str | None = None


def pin(way: Sequence[Hop]) -> bytes:
    """The digest of a machine and of the jump hosts before it, nearest to us first: 32 bytes.

    In it is where it is and how it is reached, with which login and by which host keys, and its labels, which are values of
    commands. Not in it: its name (a run keeps the one that it was launched with), groups, zone, slots, durability, and secrets,
    which are rotated.
    """
    machine, *jumps = way
    said = [_hop(machine), dict(machine.target.labels), [_hop(jump) for jump in jumps]]
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=True).encode()).digest()


def way_of(endpoint: Endpoint) -> list[Hop]:
    """A machine and the jump hosts before it, as `pin` wants them."""
    hops = (endpoint, *endpoint.jumps)
    return [Hop(hop.target, hop.credential.username if hop.credential is not None else None) for hop in hops]


def holds(pinned: bytes, way: Sequence[Hop]) -> bool:
    """Whether the machine is still that one. A first host key that came meanwhile where the policy accepts any is no change."""
    return any(pin(hops) == pinned for hops in product(*([hop, *_before_its_key(hop)] for hop in way)))


def _hop(hop: Hop) -> list[Any]:
    target = hop.target
    where = [target.id, target.host, target.port, target.transport.value, target.platform]
    trust = [target.host_key_policy.value, sorted(set(target.host_keys))]
    return [*where, target.credential, hop.login, *trust]


def _before_its_key(hop: Hop) -> Iterator[Hop]:
    if hop.target.host_key_policy is HostKeyPolicy.ACCEPT_NEW:
        revoked = [key for key in hop.target.host_keys if key.startswith(REVOKED)]
        yield replace(hop, target=replace(hop.target, host_keys=revoked))


@dataclass(frozen=True, slots=True)
class Pins:
    """Of the targets of an execution, by their position from 1: the version that was judged and, where people were asked, the pin.

    Kept as bytes side by side, so that ten thousand are one value to store and nothing to read; None: not kept.
    """

    versions: bytes | None = None
    digests: bytes | None = None

    @classmethod
    def of(cls, targets: Sequence[Target], digests: bytes | None = None) -> Pins:
        """`digests`: the pin of each, where people are asked about them."""
        return cls(b"".join(target.version.to_bytes(VERSION_BYTES) for target in targets), digests)

    def version(self, position: int) -> int | None:
        """Of the target with this position; None where none was kept."""
        if self.versions is None:
            return None
        return int.from_bytes(self.versions[(position - 1) * VERSION_BYTES : position * VERSION_BYTES])

    def digest(self, position: int) -> bytes | None:
        """Of the target with this position; None where nobody was asked about it."""
        return None if self.digests is None else self.digests[(position - 1) * PIN_BYTES : position * PIN_BYTES]


NO_PINS = Pins()
