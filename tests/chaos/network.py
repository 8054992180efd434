"""The network between the workers and the machines: a proxy in front of each address.

All of them run on a thread of their own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from kit.tcp_proxy import Cut, Faults, Proxy, proxy

SECONDS = 60


class Network:
    """One proxy for each target, by its address; `faults` of each may be set from any thread."""

    def __init__(self, places: Sequence[tuple[str, int]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()
        self.proxies: dict[str, Proxy] = {}
        self._database: Proxy | None = None
        logging.getLogger("asyncio").setLevel(
            logging.CRITICAL
        )  # writes to broken connections are expected here
        self._do(self._open(places))

    async def _open(self, places: Sequence[tuple[str, int]]) -> None:
        for address, port in places:
            self.proxies[address] = await self._stack.enter_async_context(
                proxy(address, port, listen=address)
            )

    def database(self, folder: str) -> Proxy:
        """Run a proxy to PostgreSQL, whose socket is in this folder."""
        if self._database is None:
            self._do(self._open_database(folder))
        assert self._database is not None
        return self._database

    async def _open_database(self, folder: str) -> None:
        self._database = await self._stack.enter_async_context(proxy(folder, 5432))

    def silence(self, way: Proxy, of: bytes = b"", *, new: bool = False) -> int:
        """Pass nothing on over open connections that began with these bytes.

        `new`: nor over new ones. Returns their number. They stay open.
        """

        async def silenced() -> int:
            way.faults.silence = of if new else None
            return way.silence_all(of)

        return int(self._do(silenced()))

    def stall(self, addresses: Sequence[str]) -> None:
        """Hold everything back from now on; it arrives later."""
        self._set(addresses, stall=True)

    def black_hole(self, addresses: Sequence[str]) -> None:
        """Drop everything from now on."""
        self._set(addresses, black_hole=True)

    def refuse(self, addresses: Sequence[str]) -> None:
        """Refuse new connections."""
        self._set(addresses, refuse=True)

    def cut(self, address: str, left_bytes: int, *, answers: bool = False) -> None:
        """Break the connection to this address after so many bytes more."""
        self.proxies[address].faults.cut = Cut(left_bytes, answers)

    def reset(self, addresses: Sequence[str]) -> None:
        """Break open connections."""
        self._each(addresses, Proxy.reset_all)

    def half_close(self, addresses: Sequence[str]) -> None:
        """End the machines' side of the connections."""
        self._each(addresses, Proxy.half_close_all)

    def half_open(self, addresses: Sequence[str]) -> None:
        """Break the machines' side of the connections, unnoticed by the workers."""
        self._each(addresses, Proxy.drop_servers)

    def heal(self) -> None:
        """Remove all faults; connections that have lost bytes are broken."""
        hurt = [address for address, one in self.proxies.items() if one.faults != Faults()]
        torn = [address for address in hurt if self.proxies[address].faults.black_hole]
        for address in hurt:
            self.proxies[address].faults = Faults()
        if self._database is not None:
            self._database.faults = Faults()
        self._each(torn, Proxy.reset_all)

    def close(self) -> None:
        """End the thread."""
        self._do(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def _set(self, addresses: Sequence[str], **faults: Any) -> None:
        for address in addresses:
            self.proxies[address].faults = Faults(**faults)

    def _each(self, addresses: Sequence[str], what: Callable[[Proxy], None]) -> None:
        async def all_of_them() -> None:
            for address in addresses:
                what(self.proxies[address])

        self._do(all_of_them())

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)
