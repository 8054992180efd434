"""The timed steps of a connection test (`targets test`) that every transport has."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from opsjobs.model.errors import RemoteFailure
from opsjobs.remote.session import Output, RemoteExit, RemoteProcess, SessionStep

_WORD = "opsjobs-test"


def login_steps(started: float, connected: float, finished: float) -> list[SessionStep]:
    """Return the steps of a login that succeeded, from its moments (monotonic)."""
    return [
        SessionStep("connect", True, elapsed_ms(started, connected)),
        SessionStep("auth", True, elapsed_ms(connected, finished)),
    ]


def failed_steps(
    started: float, connected: float | None, failure: RemoteFailure
) -> list[SessionStep]:
    """Return the steps of a login that failed; `connected` is None if it did not connect."""
    now = time.monotonic()
    if connected is None:
        return [SessionStep("connect", False, elapsed_ms(started, now), failure.message)]
    return [
        SessionStep("connect", True, elapsed_ms(started, connected)),
        SessionStep("auth", False, elapsed_ms(connected, now), failure.message),
    ]


async def try_shell(
    start: Callable[[str], Awaitable[RemoteProcess]], *, exit_code: int | None
) -> SessionStep:
    """Test whether a command runs and its output comes back; None: any exit code is right."""
    started = time.monotonic()
    try:
        process = await start(f"echo {_WORD}")
        pieces = [piece async for piece in process]
    except RemoteFailure as failure:
        return SessionStep("shell", False, elapsed_ms(started), failure.message)
    output = b"".join(piece.data for piece in pieces if isinstance(piece, Output))
    ended = pieces[-1]
    good = _WORD.encode() in output and isinstance(ended, RemoteExit)
    if exit_code is not None:
        good = good and isinstance(ended, RemoteExit) and ended.code == exit_code
    error = f"`echo {_WORD}` did not print it, but: {output[:200].decode(errors='replace')!r}"
    return SessionStep("shell", good, elapsed_ms(started), None if good else error)


def elapsed_ms(start: float, end: float | None = None) -> float:
    """Return the milliseconds between two moments; without an end, until now."""
    return round(((time.monotonic() if end is None else end) - start) * 1000, 1)
