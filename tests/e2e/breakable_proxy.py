"""Ways to a machine that a test can break."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

from kit.loop_thread import in_thread
from kit.tcp_proxy import Proxy, proxy


def open_proxy(
    host: str, port: int
) -> AbstractContextManager[tuple[Proxy, asyncio.AbstractEventLoop]]:
    """A proxy on a loop of its own; what is done to it is done there."""
    return in_thread(proxy(host, port))
