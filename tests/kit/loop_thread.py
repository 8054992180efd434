"""Keep something open in an event loop and a thread of its own, for tests without a loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

SECONDS = 60.0

T = TypeVar("T")


@contextmanager
def in_thread(
    context: AbstractAsyncContextManager[T],
) -> Iterator[tuple[T, asyncio.AbstractEventLoop]]:
    """Yield the result of opening it, and the loop in which it runs.

    The loop is closed by `asyncio.run`, so that no task is left in it: the garbage collector would
    end such a task later, in any thread, and Python 3.11 may crash then.
    """
    opened: Future[tuple[T, asyncio.AbstractEventLoop]] = Future()
    ended: Future[None] = Future()
    over = asyncio.Event()

    async def serve() -> None:
        async with context as found:
            opened.set_result((found, asyncio.get_running_loop()))
            await over.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            (ended if opened.done() else opened).set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    found, loop = opened.result(SECONDS)
    try:
        yield found, loop
    finally:
        loop.call_soon_threadsafe(over.set)
        ended.result(SECONDS)
