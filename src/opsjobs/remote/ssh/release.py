"""Release closed connections: cut asyncssh's reference cycles, so they are freed at once.

A connection that has been open for a while is in the oldest generation of the garbage collector.
Left in cycles it would stay, 28 KB each, until a full collection, which stops the loop for seconds.
"""

from __future__ import annotations

from typing import Any


def release(wire: Any) -> None:
    """Cut the references of a closed connection to itself.

    Nothing is received or sent over it any more.
    """
    held = vars(wire)
    held.pop("send_packet", None)  # ours: see asyncssh_patch.py
    for name, value in list(held.items()):
        if getattr(value, "__self__", None) is wire:  # a handler
            held[name] = _over
        elif _refers(value, wire):  # a key exchange that was not completed
            held[name] = None


def _refers(value: object, wire: Any) -> bool:
    return any(part is wire for part in getattr(value, "__dict__", {}).values())


def _over(*_: Any, **__: Any) -> bool:
    """Replace a handler after the end."""
    return False


def forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an exception and its causes.

    Their frames hold the connection, which holds the exception.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
