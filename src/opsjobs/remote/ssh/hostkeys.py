"""Which host keys are good for a target, and which ones a server is asked to show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import asyncssh

from opsjobs.model.execution import ErrorCode
from opsjobs.model.failures import RemoteFailure
from opsjobs.model.target import HostKeyPolicy, Target
from opsjobs.remote.session import HostKey

# One key exchange shows one key, so a scan asks once for each kind.
KEY_KINDS: tuple[tuple[str, ...], ...] = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256",),
    ("ecdsa-sha2-nistp384",),
    ("ecdsa-sha2-nistp521",),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
PLAIN_KEYS: tuple[str, ...] = tuple(algorithm for kind in KEY_KINDS for algorithm in kind)

KnownHosts = tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]


@dataclass(slots=True)
class HostKeyJudge:
    """The host keys that this target may show, by its policy; remembers which one was accepted as new."""

    target: Target
    known: KnownHosts
    accepted: str | None = field(default=None)

    @classmethod
    def of(cls, target: Target) -> HostKeyJudge:
        """Raises RemoteFailure(HOST_KEY) where nothing could ever be good, so nothing need be connected to."""
        if target.host_key_policy is HostKeyPolicy.PINNED and not target.host_keys:
            raise RemoteFailure(
                ErrorCode.HOST_KEY,
                f"{target.name} has no pinned host key: check and pin it with `opsjobs targets trust {target.name}`.",
            )
        return cls(target, (_parse(target), (), ()))

    @property
    def unchecked(self) -> bool:
        """True where any key will do, by an explicit word."""
        return self.target.host_key_policy is HostKeyPolicy.UNCHECKED

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What to offer: the kinds of the known keys first, so that a server with several keys shows one that we know.

        The other kinds follow because a server that has none of the known kinds would only hang up, which looks like
        trouble with the network. Certificates are left out: they would be refused for want of a trusted authority.
        """
        known = [name.decode() for key in self.known[0] for name in key.sig_algorithms]
        return tuple(dict.fromkeys([*known, *PLAIN_KEYS]))

    def accepts(self, key: asyncssh.SSHKey) -> bool:
        """Asked about a key that is not among the known ones."""
        if self.unchecked:
            return True
        if self.target.host_key_policy is not HostKeyPolicy.ACCEPT_NEW or self.target.host_keys:
            return False
        self.accepted = line_of(key)
        return True

    def changed(self, reason: object) -> RemoteFailure:
        """What to raise when the server showed no good key."""
        name = self.target.name
        return RemoteFailure(
            ErrorCode.HOST_KEY,
            f"{name} ({self.target.host}:{self.target.port}) does not show a host key that is pinned for it ({reason}): "
            f"another machine answers there, or it was installed anew. If that is right, compare the fingerprints and "
            f"run `opsjobs targets trust {name}`.",
        )


def line_of(key: asyncssh.SSHKey) -> str:
    """The key as `type base64`."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


def shown(keys: Iterable[asyncssh.SSHKey]) -> list[HostKey]:
    """The keys with their SHA256 fingerprints."""
    return [HostKey(line_of(key), key.get_fingerprint("sha256")) for key in keys]


def _parse(target: Target) -> list[asyncssh.SSHKey]:
    if target.host_key_policy is HostKeyPolicy.UNCHECKED:
        return []
    try:
        return [asyncssh.import_public_key(line) for line in target.host_keys]
    except asyncssh.KeyImportError as error:
        raise RemoteFailure(
            ErrorCode.HOST_KEY,
            f"A pinned host key of {target.name} cannot be read ({error}): run `opsjobs targets trust {target.name}`.",
        ) from None
