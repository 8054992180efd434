"""Ways to a machine that a test can break."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.processes import SECONDS
from kit.tcp_proxy import Proxy, proxy


@contextmanager
def open_proxy(host: str, port: int) -> Iterator[tuple[Proxy, asyncio.AbstractEventLoop]]:
    """A proxy on a loop of its own; what is done to it is done there."""
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[Proxy] = []

    async def serve() -> None:
        async with proxy(host, port) as running:
            found.append(running)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield found[0], loop
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(SECONDS)
        loop.close()
