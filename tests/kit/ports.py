"""Ports for servers that are started, killed and started again."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

# Below what the kernel gives to connections and to whoever binds to port 0 (32768 and more): while a server is not up, none of
# the hundreds of connections that are made meanwhile may get its port.
_FIRST, _LAST = 10_000, 32_000


def free_port(address: str = "127.0.0.1") -> int:
    """One on which nobody listens."""
    chance = random.SystemRandom()
    while True:
        port = chance.randint(_FIRST, _LAST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, port))
            return port
