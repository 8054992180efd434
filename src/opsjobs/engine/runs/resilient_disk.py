"""A machine's files for the length of a transfer, reopened after lost contact."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from opsjobs.backoff import Backoff
from opsjobs.clock import Clock
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.model.errors import RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode
from opsjobs.model.units import format_duration
from opsjobs.remote.disk import Disk

PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 5.0
# Failures that pass by when the machine, the network or our database is back.
_PASSING = (
    ErrorCode.CONNECTION_LOST,
    ErrorCode.CONNECT_TIMEOUT,
    ErrorCode.CONNECTION_REFUSED,
    ErrorCode.DNS,
    ErrorCode.CIRCUIT_OPEN,
)


class ResilientDisk:
    """The disk over a connection, reopened as needed.

    `window_seconds`: how long it may be away; any progress in between restarts the count.
    """

    def __init__(
        self,
        connection: RunConnection,
        clock: Clock,
        window_seconds: float,
        note: Callable[[bool], None],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._window_seconds = window_seconds
        self._note = note
        self._stack = AsyncExitStack()
        self._disk: Disk | None = None
        self._lost_since: float | None = None
        self._backoff = Backoff(PAUSE_SECONDS, PAUSE_SECONDS_MAX)

    async def open(self) -> Disk:
        """Return the machine's disk, opened if it is not. Raises RemoteFailure."""
        if self._disk is None:
            session = await self._connection.session()
            self._disk = await self._stack.enter_async_context(session.disk())
        return self._disk

    def note_progress(self) -> None:
        """Reset the failure count: bytes were moved, the machine is there."""
        self._lost_since = None
        self._backoff.reset()
        self._note(True)

    async def wait_before_retry(self, failure: RemoteFailure | Unavailable) -> None:
        """Pause before the next try; raise if none is worth it.

        Raises the failure itself if it does not pass, and RemoteFailure(TRANSFER) if it lasted too
        long.
        """
        if isinstance(failure, RemoteFailure):
            if failure.code not in _PASSING:
                raise failure
            self._note(False)
            await self.close()
            await self._connection.drop()
        now = self._clock.monotonic()
        self._lost_since = now if self._lost_since is None else self._lost_since
        if now - self._lost_since > self._window_seconds:
            message = (
                f"contact was lost for more than {format_duration(self._window_seconds)}: {failure}"
            )
            raise RemoteFailure(ErrorCode.TRANSFER, message) from failure
        await self._clock.sleep(self._backoff.next())

    async def close(self) -> None:
        """Close the disk; the connection is the caller's."""
        self._disk = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
