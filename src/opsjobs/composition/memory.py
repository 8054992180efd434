"""Memory of a long-lived process: pace of garbage collection, return of free memory."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Mapping

# A young collection sees at most so many new objects times the second number: some 30 ms. A full one comes after all three
# multiplied. Connections, which live long, leave no cycles (remote/ssh/release.py), so that it has little to do.
THRESHOLDS = (10_000, 5, 200)
GIVE_BACK_SECONDS = 60.0


def spare_the_collector() -> None:
    """Freeze all loaded objects, so that the garbage collector does not traverse them.

    Its default pace was 15 % of a worker's time, in pauses of up to 150 ms (measured).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


async def give_back() -> Mapping[str, int]:
    """Return free pages of the heap to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        await asyncio.to_thread(trim, 0)
    return {}
