"""Batch loading in which one item that cannot be loaded does not block the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from opsjobs.model.errors import Unavailable

K = TypeVar("K", int, str)
V = TypeVar("V")


async def load_each(
    keys: Iterable[K],
    load: Callable[[list[K]], Awaitable[Mapping[K, V]]],
    report: Callable[[K, Exception], None],
) -> tuple[dict[K, V], dict[K, Exception]]:
    """Load all keys at once; if that fails, one by one.

    Return the values found, and the exception of each key that failed; `report` is called with
    each of those. Raises Unavailable.
    """
    wanted = list(keys)
    try:
        return dict(await load(wanted)), {}
    except Unavailable:
        raise
    except Exception as bug:  # noqa: BLE001  one bad key must not block the others
        if len(wanted) == 1:
            report(wanted[0], bug)
            return {}, {wanted[0]: bug}
    found: dict[K, V] = {}
    bad: dict[K, Exception] = {}
    for key in wanted:
        more, failed = await load_each([key], load, report)
        found |= more
        bad |= failed
    return found, bad
