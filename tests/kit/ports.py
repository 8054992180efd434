"""Ports for servers that are started, killed and restarted."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

# Below the ports that the kernel assigns to connections and to port 0 (32768 and more): while a
# server is down, none of the hundreds of connections that are made meanwhile may get its port.
_FIRST, _LAST = 10_000, 32_000


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port on which nothing listens."""
    chance = random.SystemRandom()
    while True:
        port = chance.randint(_FIRST, _LAST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, port))
            return port
