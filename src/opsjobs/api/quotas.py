"""Quotas per caller: open executions, and bytes in files.

The refusals name the limit and the remedy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request

from opsjobs.api.request import principal_of
from opsjobs.clock import Clock
from opsjobs.model.access import Principal
from opsjobs.model.errors import Conflict, TooMany
from opsjobs.model.identity import Identity
from opsjobs.model.units import describe_size
from opsjobs.store.executions import Executions
from opsjobs.store.files import NO_LIMITS, FileLimits, Files

KNOWN_SECONDS = 10.0
"""Maximum age of a count from the database, which is not queried at each launch."""
CALLERS_MAX = 10_000
RETRY_AFTER_SECONDS = 10
_REMEDY = (
    "Delete files that are no longer needed (opsjobs files rm), or have the limit raised. "
    "Aborted uploads and deleted files count for up to an hour."
)
LOOK_AGAIN_BYTES = 64 << 20
"""Bytes of an upload after which the quota is checked again: others upload meanwhile."""


SHARES = 8
"""A process launches this part of what is left of a limit before it counts again.

So as many processes together do not exceed it."""


@dataclass
class _Count:
    left: int
    """Launches that this process may make before it counts again."""
    at: float


class OpenExecutions:
    """Open executions of each caller, over all API processes. `most` 0: no limit.

    They are counted in the database; with much room left only once in a while, close to the limit
    at each launch. Launches that are not committed at the count are not in it.
    """

    def __init__(self, most: int, executions: Executions, clock: Clock) -> None:
        self._most = most
        self._executions = executions
        self._clock = clock
        self._counts: dict[Identity, _Count] = {}

    async def check(self, caller: Principal) -> None:
        """Count one more launch of the caller. Raises TooMany."""
        await self.take(caller, 1)

    async def take(self, caller: Principal, most: int) -> int:
        """Count up to `most` more launches of the caller, and return their number.

        Raises TooMany if no launch is left.
        """
        if not self._most:
            return most
        now = self._clock.monotonic()
        count = self._counts.get(caller.identity)
        if count is not None and most <= count.left and now < count.at + KNOWN_SECONDS:
            count.left -= most
            return most
        counted = await self._executions.count_open(caller.identity, at_most=self._most)
        room = self._most - counted
        taken = min(most, room)
        if len(self._counts) >= CALLERS_MAX:
            self._counts.clear()
        self._counts[caller.identity] = _Count(max(room // SHARES - taken, 0), now)
        if taken <= 0:
            detail = (
                f"{caller.name} has {self._most} executions that have not ended: the limit "
                "(OPSJOBS_OPEN_EXECUTIONS_PER_CALLER). Wait for some of them, or cancel them."
            )
            raise TooMany("too_many_executions", detail, retry_after_seconds=RETRY_AFTER_SECONDS)
        return taken

    def give_back(self, caller: Principal, count: int) -> None:
        """Subtract launches that were counted but not made."""
        stored = self._counts.get(caller.identity)
        if stored is not None:
            stored.left += count


async def check_open(request: Request) -> None:
    """Check a launch against the caller's limit of open executions. Raises TooMany."""
    await request.app.state.open_executions.check(principal_of(request))


@dataclass(frozen=True, slots=True)
class FileQuota:
    """Check of uploads against the bytes of stored files and of uploads in progress."""

    limits: FileLimits = NO_LIMITS

    async def room(self, files: Files, caller: Principal) -> int | None:
        """Return the number of bytes that the caller may still upload; None: no limit.

        Raises Conflict if no bytes are left.
        """
        if self.limits == NO_LIMITS:
            return None
        room = self.limits.room(await files.used(caller.identity))
        if room is not None and room <= 0:
            raise self.full(caller)
        return room

    async def watched(
        self, pieces: AsyncIterator[bytes], files: Files, caller: Principal
    ) -> AsyncIterator[bytes]:
        """Yield the pieces of an upload, and check the quota again every LOOK_AGAIN_BYTES.

        Raises Conflict if other uploads have used it up.
        """
        unseen = 0
        async for piece in pieces:
            unseen += len(piece)
            if unseen >= LOOK_AGAIN_BYTES:
                unseen = 0
                await self.room(files, caller)
            yield piece

    def too_large(self, room: int) -> Conflict:
        """Return the error for an upload that is larger than the remaining quota."""
        detail = (
            f"The file is larger than the {describe_size(room)} that are left "
            f"(OPSJOBS_FILES_PER_CALLER_BYTES, OPSJOBS_FILES_LIMIT_BYTES). {_REMEDY}"
        )
        return Conflict("files_full", detail)

    def full(self, caller: Principal) -> Conflict:
        """Return the error if files, or uploads of the last hour, have used up the quota."""
        limits = [
            (
                f"the files of {caller.name}",
                self.limits.caller_bytes,
                "OPSJOBS_FILES_PER_CALLER_BYTES",
            ),
            ("all files together", self.limits.all_bytes, "OPSJOBS_FILES_LIMIT_BYTES"),
        ]
        words = " and ".join(
            f"{whose} may have {describe_size(limit)} ({setting})"
            for whose, limit, setting in limits
            if limit
        )
        return Conflict("files_full", f"The quota of files is used up: {words}. {_REMEDY}")
