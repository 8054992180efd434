"""Options of the Vault connection: address, login and limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsjobs.model.secret import Secret

ANSWER_BYTES_MAX = 1 << 20
CONNECTIONS_MAX = 16
ATTEMPTS = 3
RETRY_SECONDS_MAX = 2.0
"""The longest pause between two attempts, whatever `Retry-After` asks for."""
KEPT_MAX = 1_000
"""Secrets in memory at a time."""


@dataclass(frozen=True, slots=True)
class VaultOptions:
    """A Vault or OpenBao, with a token or the role id and secret id of an AppRole.

    `keep_seconds`: how long a secret may lie in this process's memory; 0 = for one session.
    """

    url: str
    token: Secret | None = None
    role_id: Secret | None = None
    secret_id: Secret | None = None
    approle_mount: str = "approle"
    namespace: str | None = None
    ca_file: Path | None = None
    timeout_seconds: float = 5.0
    keep_seconds: float = 60.0
