"""Decide which host keys are valid for a target, and which ones to request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import asyncssh

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import REVOKED, HostKeyPolicy, Target
from opsjobs.remote.session import HostKey

# One key exchange shows one key, so a scan connects once for each kind.
KEY_KINDS: tuple[tuple[str, ...], ...] = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256",),
    ("ecdsa-sha2-nistp384",),
    ("ecdsa-sha2-nistp521",),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
PLAIN_KEYS: tuple[str, ...] = tuple(algorithm for kind in KEY_KINDS for algorithm in kind)
CERTIFIED_KEYS: tuple[str, ...] = tuple(
    f"{algorithm}-cert-v01@openssh.com" for algorithm in PLAIN_KEYS
)

KnownHosts = tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]


@dataclass(slots=True)
class HostKeyVerifier:
    """The host keys accepted for this target, by its policy, and the one accepted as new."""

    target: Target
    known: KnownHosts
    accepted: str | None = field(default=None)

    @classmethod
    def for_target(cls, target: Target) -> HostKeyVerifier:
        """Return the verifier of a target.

        Raises RemoteFailure(HOST_KEY) if no key could ever be valid, so that connecting is
        pointless.
        """
        good, revoked = _parse(target)
        if target.host_key_policy is HostKeyPolicy.PINNED and not good:
            raise RemoteFailure(
                ErrorCode.HOST_KEY,
                f"{target.name} has no pinned host key: "
                f"check and pin it with `opsjobs targets trust {target.name}`.",
            )
        if target.host_key_policy is HostKeyPolicy.CA:
            if not good:
                message = (
                    f"{target.name} has the policy `ca` and no CA: "
                    "put its public key into `host_keys`."
                )
                raise RemoteFailure(ErrorCode.HOST_KEY, message)
            return cls(target, ((), good, revoked))
        return cls(target, (good, (), revoked))

    @property
    def unchecked(self) -> bool:
        """True if any key is accepted, by an explicit setting."""
        return self.target.host_key_policy is HostKeyPolicy.UNCHECKED

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Return the algorithms to offer: the kinds of the known keys first.

        A server with several keys then shows a known one. The other kinds follow because a server
        that has none of the known kinds would only disconnect, which looks like a network failure.
        Certificates are left out unless a CA is trusted: they would be rejected for lack of one.
        """
        if self.target.host_key_policy is HostKeyPolicy.CA:
            return (*CERTIFIED_KEYS, *PLAIN_KEYS)
        known = [name.decode() for key in self.known[0] for name in key.sig_algorithms]
        return tuple(dict.fromkeys([*known, *PLAIN_KEYS]))

    def accepts(self, key: asyncssh.SSHKey) -> bool:
        """Return True if a key that is not among the known ones is acceptable."""
        if self.unchecked:
            return True
        if self.target.host_key_policy is not HostKeyPolicy.ACCEPT_NEW or self.known[0]:
            return False
        self.accepted = format_key(key)
        return True

    def mismatch(self, reason: object) -> RemoteFailure:
        """Return the failure for a server that showed no valid key."""
        name = self.target.name
        where = f"{name} ({self.target.host}:{self.target.port})"
        if "revoked" in str(reason):
            message = (
                f"{where} shows a host key that was revoked ({reason}): "
                "anyone with that key can impersonate it. Give it a new one."
            )
        elif self.target.host_key_policy is HostKeyPolicy.CA:
            message = (
                f"{where} does not show a certificate that its CA has signed for "
                f"{self.target.host} ({reason}): another machine answers there, "
                "or its host key was not signed for this name, or not lately."
            )
        else:
            message = (
                f"{where} does not show a host key that is pinned for it ({reason}): "
                "another machine answers there, or it was reinstalled. If that is right, "
                f"compare the fingerprints and run `opsjobs targets trust {name}`."
            )
        return RemoteFailure(ErrorCode.HOST_KEY, message)


def format_key(key: asyncssh.SSHKey) -> str:
    """Return the key as `type base64`."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


def describe(keys: Iterable[asyncssh.SSHKey]) -> list[HostKey]:
    """Return the keys with their SHA256 fingerprints."""
    return [HostKey(format_key(key), key.get_fingerprint("sha256")) for key in keys]


def _parse(target: Target) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    """Return the valid keys and the revoked ones."""
    revoked = [line.removeprefix(REVOKED) for line in target.host_keys if line.startswith(REVOKED)]
    good = [line for line in target.host_keys if not line.startswith(REVOKED)]
    if target.host_key_policy is HostKeyPolicy.UNCHECKED:
        good = []
    try:
        return [asyncssh.import_public_key(line) for line in good], [
            asyncssh.import_public_key(line) for line in revoked
        ]
    except asyncssh.KeyImportError as error:
        raise RemoteFailure(
            ErrorCode.HOST_KEY,
            f"A pinned host key of {target.name} cannot be read ({error}): "
            f"run `opsjobs targets trust {target.name}`.",
        ) from None
