"""The limits of an SSH connection, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SshOptions:
    """The deadline of each phase and the limits of buffers."""

    connect_seconds: float = 30.0
    """Name lookup, TCP and key exchange together."""
    auth_seconds: float = 30.0
    """From the key exchange to the accepted login."""
    open_seconds: float = 30.0
    """From the request for a channel to the answer that the command started."""
    keepalive_seconds: float = 15.0
    keepalive_count: int = 3
    """Unanswered keepalives after which the connection counts as lost."""
    window_bytes: int = 256 * 1024
    """The bytes that a machine may send on one channel before we have read them."""
