"""Requests to stop a run, and the points at which a run can be interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto


class StopReason(Enum):
    """The reasons to stop a run before it ends on its own."""

    CANCEL = auto()
    DEADLINE = auto()
    ACTION_TIMEOUT = auto()
    WORKER_STOPS = auto()
    OWNERSHIP_LOST = auto()
    """Another worker owns the run now."""


AGAIN_SECONDS = 5.0
"""Seconds that a run may take to stop before its task is cancelled again."""

DETACHING = frozenset({StopReason.WORKER_STOPS, StopReason.OWNERSHIP_LOST})
"""Reasons for this worker to leave the run, which continues without it."""

_ENDING = frozenset({StopReason.CANCEL, StopReason.DEADLINE})


class Interrupted(Exception):
    """A stop was requested, and the run can stop at this point."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Detached(Interrupted):
    """A durable command continues without this worker; its end is not recorded here."""


class StopSignal:
    """Accepts requests to stop one run and carries them out where the run can be interrupted."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._task: asyncio.Task[None] | None = None
        self._in_interruptible = False
        self._ignored: StopReason | None = None
        self._pending: StopReason | None = None
        self._cancels = 0
        self._again: asyncio.TimerHandle | None = None

    def bind(self) -> None:
        """Make the current task the one to interrupt."""
        self._task = asyncio.current_task()

    def request(self, reason: StopReason) -> None:
        """Request a stop at the next point where the run can be interrupted.

        The first reason is kept, except that the loss of the run overrides all others. While an
        attempt is stopped for its own timeout, a request to end the run is kept until that stop is
        complete.
        """
        if self.reason is StopReason.ACTION_TIMEOUT and self._pending is None and reason in _ENDING:
            self._pending = reason
        if (
            self.reason is None
            or reason is StopReason.OWNERSHIP_LOST
            or (reason in DETACHING and self.reason is self._ignored)
        ):
            self.reason = reason
        if self._in_interruptible and self._task is not None and self.reason is not self._ignored:
            self._in_interruptible = (
                False  # one cancel at a time: the code it interrupts may have cleanup to do
            )
            self._cancel(self._task)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        # A cancel is lost if it arrives in the instant in which the awaited operation completes:
        # `asyncio.wait_for` of Python 3.11, which the connection pool uses, then continues as if
        # there had been no cancel. So the cancel is repeated while the task is inside the block.
        self._cancels += 1
        task.cancel()
        self._again = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._cancel, task)

    def clear(self, reason: StopReason) -> None:
        """Clear a reason that was carried out, so that it stops nothing later.

        A request that arrived meanwhile takes its place.
        """
        if self.reason is reason:
            self.reason, self._pending = self._pending, None

    @contextmanager
    def interruptible(self, *, except_for: StopReason | None = None) -> Iterator[None]:
        """Raise Interrupted at once on a request; outside, requests wait for the next such block.

        `except_for`: the reason that is being carried out; then only reasons that make this worker
        leave the run interrupt.
        """
        if self.reason is not None and self.reason is not except_for:
            raise Interrupted(self.reason)
        self._in_interruptible, self._ignored = True, except_for
        try:
            yield
        except asyncio.CancelledError:
            if self.reason is None or self.reason is except_for or self._task is None:
                raise
            raise Interrupted(self.reason) from None
        finally:
            self._in_interruptible, self._ignored = False, None
            if self._again is not None:
                self._again.cancel()
                self._again = None
            while self._cancels and self._task is not None:
                self._task.uncancel()
                self._cancels -= 1
