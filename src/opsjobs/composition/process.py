"""A long-lived process: open files, garbage collection, free memory, its schema."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
from collections.abc import Mapping

from opsjobs.clock import Clock
from opsjobs.model.errors import Unavailable
from opsjobs.store.restores import NOT_FINISHED
from opsjobs.store.system_status import HEAD, SystemStatus
from opsjobs.telemetry.logs import log

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


# --- the schema: a process is held back until the database has that of its release


RETRY_SECONDS = 1.0
LOG_SECONDS = 60.0


class SchemaGate:
    """Waits for the schema, and reports what it waits for.

    The release before works on a newer schema, but not the other way round: during an upgrade, new
    processes may start before the migration has ended. A database that a restore has loaded and not
    yet marked would start again what has run since its backup.
    """

    def __init__(self, system_status: SystemStatus, clock: Clock) -> None:
        self._system_status = system_status
        self._clock = clock
        self._log_at = 0.0
        self.reason: str | None = "the schema has not been checked yet"
        """The thing that is waited for; None once the schema is there."""

    async def wait(self) -> None:
        """Return once the schema is there; log what is waited for, once a minute."""
        while (reason := await self._find_reason()) is not None:
            if reason != self.reason or self._clock.monotonic() >= self._log_at:
                self._log_at = self._clock.monotonic() + LOG_SECONDS
                log.warning("waits_for_schema", reason=reason)
            self.reason = reason
            await self._clock.sleep(RETRY_SECONDS)
        self.reason = None

    async def _find_reason(self) -> str | None:
        try:
            schema = await self._system_status.schema()
            # Asked after the schema, which is loaded in one transaction with the table.
            unfinished = await self._system_status.restore_unfinished()
        except Unavailable:
            return "PostgreSQL does not answer"
        if unfinished:
            return NOT_FINISHED
        if schema is None or schema < HEAD:
            return (
                f"the schema is {schema or 'missing'}, {HEAD} is needed: run `opsjobs db upgrade`"
            )
        return None
