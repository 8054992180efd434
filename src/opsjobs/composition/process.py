"""Limits of a long-lived process: open files, pace of garbage collection, free memory."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
from collections.abc import Mapping

UNLIMITED = 1 << 20
# A young collection sees at most the first number of new objects times the second: some 30 ms. A
# full one comes after all three multiplied. It has little to do: connections, which live long,
# leave no cycles (remote/ssh/release.py).
THRESHOLDS = (10_000, 5, 200)
GIVE_BACK_SECONDS = 60.0


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors, usually 1,024, to the hard one; return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else UNLIMITED


def spare_the_collector() -> None:
    """Freeze all loaded objects, so that the garbage collector does not traverse them.

    Its default pace was 15 % of a worker's time, in pauses of up to 150 ms (measured).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


async def give_back() -> Mapping[str, int]:
    """Return free pages of the heap to the system, if the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        await asyncio.to_thread(trim, 0)
    return {}
