"""Requests to stop a run, and the places where a run obeys them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto


class StopReason(Enum):
    """The reasons to stop a run before its own end."""

    CANCEL = auto()
    DEADLINE = auto()
    ACTION_TIMEOUT = auto()
    WORKER_STOPS = auto()
    OWNERSHIP_LOST = auto()
    """Another worker owns the run by now."""


AGAIN_SECONDS = 5.0
"""Time that a run may take to stop before its task is cancelled again."""

DETACHING = frozenset({StopReason.WORKER_STOPS, StopReason.OWNERSHIP_LOST})
"""This worker has to leave the run, which continues."""

_ENDING = frozenset({StopReason.CANCEL, StopReason.DEADLINE})


class Interrupted(Exception):
    """A stop was requested, and the run can stop here."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Detached(Interrupted):
    """A durable command continues without this worker: nothing is recorded of it."""


class StopSignal:
    """Accepts requests to stop one run and carries them out where the run can stop."""

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
        """Stop at the next place where that is possible.

        The first reason stays, but the loss of the run overrules all others. While an attempt is
        stopped for its own timeout, a request to end the run is kept until that is over.
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
                False  # one cancel at a time: what the first one ends may have something to tidy up
            )
            self._cancel(self._task)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        # A cancel is lost if it comes at the moment at which the awaited operation completes:
        # `asyncio.wait_for` of Python 3.11, which the pool of connections uses, then continues as
        # if it had not come. So it is repeated while the task is in there.
        self._cancels += 1
        task.cancel()
        self._again = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._cancel, task)

    def clear(self, reason: StopReason) -> None:
        """Clear a reason that was carried out: it stops nothing that comes later.

        A request that came meanwhile takes its place.
        """
        if self.reason is reason:
            self.reason, self._pending = self._pending, None

    @contextmanager
    def interruptible(self, *, except_for: StopReason | None = None) -> Iterator[None]:
        """Carry out requests at once, as Interrupted; outside, they wait for the next such block.

        `except_for`: the reason that is being carried out; only what takes the run away from this
        worker interrupts then.
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
