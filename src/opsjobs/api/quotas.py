"""What one caller may have at a time: open executions, and bytes in files. The refusals name the limit and the way out."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from opsjobs.api.auth import principal_of
from opsjobs.clock import Clock
from opsjobs.model.access import Principal
from opsjobs.model.errors import Conflict, TooMany
from opsjobs.model.units import format_size
from opsjobs.store.executions import Executions
from opsjobs.store.files import Files

KNOWN_SECONDS = 10.0
"""How long a count is taken for true, with what was launched here since: the database is not asked at each launch."""
CALLERS_MAX = 10_000
RETRY_AFTER_SECONDS = 10


@dataclass
class _Count:
    open: int
    at: float


class OpenExecutions:
    """The open executions of each caller, counted by this process. `most` 0: no limit."""

    def __init__(self, most: int, executions: Executions, clock: Clock) -> None:
        self._most = most
        self._executions = executions
        self._clock = clock
        self._known: dict[tuple[str, str], _Count] = {}

    async def check(self, caller: Principal) -> None:
        """Count one more launch of the caller. Raises TooMany."""
        if not self._most:
            return
        key, now = (caller.name, caller.kind), self._clock.monotonic()
        known = self._known.get(key)
        if known is None or known.open >= self._most or now >= known.at + KNOWN_SECONDS:
            counted = await self._executions.count_open(caller.name, caller.kind, at_most=self._most)
            if len(self._known) >= CALLERS_MAX:
                self._known.clear()
            known = self._known[key] = _Count(counted, now)
        if known.open >= self._most:
            detail = (
                f"{caller.name} has {self._most} executions that have not ended (OPSJOBS_OPEN_EXECUTIONS_PER_CALLER): "
                "wait for some of them, or cancel them."
            )
            raise TooMany("too_many_executions", detail, retry_after_seconds=RETRY_AFTER_SECONDS)
        known.open += 1


async def check_open(request: Request) -> None:
    """Judge a launch by the number of the caller's open executions. Raises TooMany."""
    await request.app.state.open_executions.check(principal_of(request))


@dataclass(frozen=True, slots=True)
class FileQuota:
    """How many bytes all files may have together, and those of one caller; 0: no limit."""

    all_bytes: int = 0
    caller_bytes: int = 0

    async def room(self, files: Files, caller: Principal) -> int | None:
        """Return how many bytes the caller may still upload; None: there is no limit. Raises Conflict if it is none."""
        if not self.all_bytes and not self.caller_bytes:
            return None
        used = await files.used(caller.name, caller.kind)
        room = None
        if self.caller_bytes:
            room = self.caller_bytes - used.caller_bytes
            if room <= 0:
                raise self._full(f"The files of {caller.name} have", self.caller_bytes, "OPSJOBS_FILES_PER_CALLER_BYTES")
        if self.all_bytes:
            left = self.all_bytes - used.all_bytes
            if left <= 0:
                raise self._full("All files together have", self.all_bytes, "OPSJOBS_FILES_LIMIT_BYTES")
            room = left if room is None else min(room, left)
        return room

    def too_large(self, room: int) -> Conflict:
        """Describe an upload that is larger than the room that is left."""
        detail = (
            f"The file is larger than the {format_size(room)} that are left (OPSJOBS_FILES_PER_CALLER_BYTES, "
            "OPSJOBS_FILES_LIMIT_BYTES): delete files that are not needed any more (opsjobs files rm), or have the limit raised."
        )
        return Conflict("files_full", detail)

    def _full(self, whose: str, limit: int, setting: str) -> Conflict:
        detail = (
            f"{whose} {format_size(limit)} or more, which is the limit ({setting}): delete files that are not needed any more "
            "(opsjobs files rm), or have the limit raised."
        )
        return Conflict("files_full", detail)
