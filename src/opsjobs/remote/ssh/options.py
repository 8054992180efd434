"""The limits of an SSH connection, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SshOptions:
    """How long each phase may take and how much may wait."""

    connect_seconds: float = 30.0
    """Name lookup, TCP and key exchange together."""
    auth_seconds: float = 30.0
    """From the key exchange to the accepted login."""
    open_seconds: float = 30.0
    """From asking for a channel to the answer that the command started."""
    keepalive_seconds: float = 15.0
    keepalive_count: int = 3
    """Unanswered keepalives after which the connection counts as lost."""
    window_bytes: int = 256 * 1024
    """What a machine may send on one channel before we have read it."""
