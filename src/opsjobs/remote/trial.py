"""`targets test`: one fresh connection, each step timed, told in words whatever the machine does."""

from __future__ import annotations

import time

from opsjobs.model.failures import RemoteFailure
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Exit, Output, Step
from opsjobs.remote.ssh.connect import Connector, Timing
from opsjobs.remote.ssh.connection import Connection

_WORD = "opsjobs-test"


async def try_out(connector: Connector, endpoint: Endpoint, through: Connection | None) -> list[Step]:
    """The steps connect (name, TCP, keys), auth and shell; ends with the first that fails."""
    timing = Timing()
    try:
        connection = await connector.connect(endpoint, through, timing)
    except RemoteFailure as failure:
        return _failed(timing, failure)
    finished = timing.finished or time.monotonic()
    exchanged = timing.exchanged or finished
    steps = [Step("connect", True, _ms(timing.started, exchanged)), Step("auth", True, _ms(exchanged, finished))]
    try:
        return [*steps, await _shell(connection)]
    finally:
        connection.close()


def _failed(timing: Timing, failure: RemoteFailure) -> list[Step]:
    now = time.monotonic()
    if timing.exchanged is None:
        return [Step("connect", False, _ms(timing.started, now), failure.message)]
    connected = Step("connect", True, _ms(timing.started, timing.exchanged))
    return [connected, Step("auth", False, _ms(timing.exchanged, now), failure.message)]


async def _shell(connection: Connection) -> Step:
    started = time.monotonic()
    try:
        process = await connection.start(f"echo {_WORD}")
        pieces = [piece async for piece in process]
    except RemoteFailure as failure:
        return Step("shell", False, _ms(started, time.monotonic()), failure.message)
    heard = b"".join(piece.data for piece in pieces if isinstance(piece, Output))
    ended = pieces[-1]
    good = _WORD.encode() in heard and isinstance(ended, Exit)
    error = None if good else f"`echo {_WORD}` did not print it, but: {heard[:200].decode(errors='replace')!r}"
    return Step("shell", good, _ms(started, time.monotonic()), error)


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)
