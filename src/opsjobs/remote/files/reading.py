"""Read a file on a machine as pieces in order, with many requests under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.disk import OpenFile


async def pieces_of(
    file: OpenFile, offset: int, end: int, request_bytes: int, window_bytes: int
) -> AsyncIterator[bytes]:
    """Yield the bytes from `offset` to `end`, or to the end of the file before that.

    Raises RemoteFailure.
    """
    under_way: deque[tuple[int, int, asyncio.Task[bytes]]] = deque()
    asked = offset
    request_bytes = request_size(request_bytes, window_bytes)
    try:
        while asked < end or under_way:
            while asked < end and len(under_way) * request_bytes < window_bytes:
                size = min(request_bytes, end - asked)
                under_way.append((asked, size, asyncio.create_task(file.read(asked, size))))
                asked += size
            at, size, task = under_way[0]
            piece = _checked(await task, size)
            under_way.popleft()
            while (
                piece and len(piece) < size
            ):  # a machine may answer with less than requested, and still have more
                yield piece
                at, size = at + len(piece), size - len(piece)
                piece = _checked(await file.read(at, size), size)
            if not piece:
                return
            yield piece
    finally:
        await let_go([task for _, _, task in under_way])


def request_size(request_bytes: int, window_bytes: int) -> int:
    """Return the size of a request: two fit into the window, so that one is always under way."""
    return min(request_bytes, window_bytes // 2)


async def let_go(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel requests that are not needed any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _checked(piece: bytes, size: int) -> bytes:
    if len(piece) > size:
        raise RemoteFailure(
            ErrorCode.TRANSFER,
            f"The machine answered with {len(piece)} bytes to a request for {size}.",
        )
    return piece
