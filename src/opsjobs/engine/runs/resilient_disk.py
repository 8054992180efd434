"""A machine's files, as long as a transfer takes: opened again, and again, where contact breaks, within a window of time."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack

from opsjobs.clock import Clock
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.model.errors import RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode
from opsjobs.model.units import format_duration
from opsjobs.remote.disk import Disk

_PAUSES_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
# What goes by while a machine, the network or our database is away for a moment.
_PASSING = (
    ErrorCode.CONNECTION_LOST,
    ErrorCode.CONNECT_TIMEOUT,
    ErrorCode.CONNECTION_REFUSED,
    ErrorCode.DNS,
    ErrorCode.CIRCUIT_OPEN,
)


class Contact:
    """The disk over a link. `window_seconds`: how long it may be away; whatever is moved in between begins the count anew.

    `note`: called with whether the machine can be reached; it may be called with the same answer many times.
    """

    def __init__(self, link: RunConnection, clock: Clock, window_seconds: float, note: Callable[[bool], None]) -> None:
        self._link = link
        self._clock = clock
        self._window_seconds = window_seconds
        self._note = note
        self._stack = AsyncExitStack()
        self._disk: Disk | None = None
        self._lost_since: float | None = None
        self._losses = 0

    async def disk(self) -> Disk:
        """The machine's files. Raises RemoteFailure."""
        if self._disk is None:
            session = await self._link.session()
            self._disk = await self._stack.enter_async_context(session.disk())
        return self._disk

    def moved(self) -> None:
        """Bytes went over: it is there."""
        self._lost_since, self._losses = None, 0
        self._note(True)

    async def lost(self, failure: RemoteFailure | Unavailable) -> None:
        """Return when it is worth another try; raises where it is not, what failed or that it took too long."""
        if isinstance(failure, RemoteFailure):
            if failure.code not in _PASSING:
                raise failure
            self._note(False)
            await self.close()
            await self._link.drop()
        now = self._clock.monotonic()
        self._lost_since = now if self._lost_since is None else self._lost_since
        if now - self._lost_since > self._window_seconds:
            words = f"contact was lost for more than {format_duration(self._window_seconds)}: {failure}"
            raise RemoteFailure(ErrorCode.TRANSFER, words) from failure
        pause = _PAUSES_SECONDS[min(self._losses, len(_PAUSES_SECONDS) - 1)]
        self._losses += 1
        await self._clock.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311  jitter, not a secret

    async def close(self) -> None:
        """Let go of the files; the link is the caller's."""
        self._disk = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
