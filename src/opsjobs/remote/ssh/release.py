"""Release of closed connections: what asyncssh's connection refers to itself by is cut, so that it is freed at once.

A connection that has been open for a while is in the oldest generation of the garbage collector. Left in cycles it would stay,
28 KB each, until a collection of everything, which stops the loop for seconds when it comes.
"""

from __future__ import annotations

from typing import Any


def release(wire: Any) -> None:
    """Cut the references of a closed connection to itself; nothing is received or sent over it any more."""
    held = vars(wire)
    held.pop("send_packet", None)  # ours: see sending.py
    for name, value in list(held.items()):
        if getattr(value, "__self__", None) is wire:  # a handler
            held[name] = _over
        elif _refers(value, wire):  # a key exchange that came to no end
            held[name] = None


def _refers(value: object, wire: Any) -> bool:
    return any(part is wire for part in getattr(value, "__dict__", {}).values())


def _over(*_: Any, **__: Any) -> bool:
    """Take the place of a handler after the end."""
    return False


def forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of those behind it: their frames hold the connection, which holds the error."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
