"""Orders to stop a run, and the places where a run obeys them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto


class StopReason(Enum):
    """What stops a run before its own end."""

    CANCEL = auto()
    DEADLINE = auto()
    ACTION_TIMEOUT = auto()
    WORKER_STOPS = auto()
    NOT_OURS = auto()


AGAIN_SECONDS = 5.0
"""How long a run may take to stop where it can, before it is told once more."""

LEAVING = frozenset({StopReason.WORKER_STOPS, StopReason.NOT_OURS})
"""This worker has no business with the run any more; the run itself goes on."""

_ENDING = frozenset({StopReason.CANCEL, StopReason.DEADLINE})


class Interrupted(Exception):
    """The run was asked to stop, at a place where it can."""

    def __init__(self, why: StopReason) -> None:
        super().__init__(why.name)
        self.why = why


class Detached(Interrupted):
    """A durable command goes on without this worker; nothing is to be said of it."""


class StopSignal:
    """Takes orders to stop for one run, and carries them out where the run can stop."""

    def __init__(self) -> None:
        self.why: StopReason | None = None
        self._task: asyncio.Task[None] | None = None
        self._obeying = False
        self._set_aside: StopReason | None = None
        self._after: StopReason | None = None
        self._cancels = 0
        self._again: asyncio.TimerHandle | None = None

    def bind(self) -> None:
        """The current task is the run's."""
        self._task = asyncio.current_task()

    def order(self, why: StopReason) -> None:
        """Stop at the next place where that is possible. The first reason stays, but losing the run overrules all.

        While an attempt is stopped for its own time, what would end the run is kept for when that is over.
        """
        if self.why is StopReason.ACTION_TIMEOUT and self._after is None and why in _ENDING:
            self._after = why
        if self.why is None or why is StopReason.NOT_OURS or (why in LEAVING and self.why is self._set_aside):
            self.why = why
        if self._obeying and self._task is not None and self.why is not self._set_aside:
            self._obeying = False  # one cancel at a time: what the first one ends may have something to tidy up
            self._cancel(self._task)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        # A cancel is lost if it comes at the moment at which what the task waits for is done: `asyncio.wait_for` of Python 3.11,
        # which the pool of connections uses, then goes on as if it had not come. So it is repeated while the task is in there.
        self._cancels += 1
        task.cancel()
        self._again = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._cancel, task)

    def over(self, why: StopReason) -> None:
        """This reason has done its work: it stops nothing that comes later. What came meanwhile does."""
        if self.why is why:
            self.why, self._after = self._after, None

    @contextmanager
    def here(self, *, but_for: StopReason | None = None) -> Iterator[None]:
        """Inside, an order takes effect at once, as Interrupted; before and after, it waits for the next such place.

        `but_for`: the reason that is being carried out just now; only what takes the run away from us still interrupts.
        """
        if self.why is not None and self.why is not but_for:
            raise Interrupted(self.why)
        self._obeying, self._set_aside = True, but_for
        try:
            yield
        except asyncio.CancelledError:
            if self.why is None or self.why is but_for or self._task is None:
                raise
            raise Interrupted(self.why) from None
        finally:
            self._obeying, self._set_aside = False, None
            if self._again is not None:
                self._again.cancel()
                self._again = None
            while self._cancels and self._task is not None:
                self._task.uncancel()
                self._cancels -= 1
