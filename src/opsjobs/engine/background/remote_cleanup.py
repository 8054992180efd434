"""Remote cleanup: remove what ended runs left on machines, and look up late outcomes.

A late outcome is one that could not be found out when the run ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, TypeVar

from opsjobs.clock import Clock
from opsjobs.engine.loading import load_each
from opsjobs.engine.run_credentials import (
    become_credential_ids,
    fetch_become_password,
    resolve_become,
)
from opsjobs.engine.runs.outcomes import from_exit
from opsjobs.engine.service import Counts
from opsjobs.integrations.targets import Targets
from opsjobs.model.action import parse_frozen
from opsjobs.model.action_base import FrozenBecome, FrozenRunningAction
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus, moment
from opsjobs.model.secret import Credential
from opsjobs.model.spool_identity import Become, RunKey
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import (
    CancelOutcome,
    Durable,
    Fetch,
    Sessions,
    SpoolUnavailable,
    refuse_external,
)
from opsjobs.store.ledger import Folder, LateLookup, Ledger
from opsjobs.store.vault import Vault
from opsjobs.telemetry import log

T = TypeVar("T")
Visit = tuple[int, Coroutine[Any, Any, int]]
"""For how many runs a visit is, and the visit itself, not yet started."""

AT_ONCE = 8
# Runs that are leased ahead of their visits: all must be handled before the lease ends.
FOLDERS_AHEAD = 500
SWEEPS_AHEAD = 50
REFILL_SECONDS = 10.0
"""Interval at which to look for runs that have become due while visits are under way."""
VISIT_SECONDS = 90.0
"""Time limit of the visit to one machine; what is not done by then is retried later."""


class RemoteCleanup:
    """Visit machines of one zone, a few at a time, each at most once in a while.

    Sweeps and cleaning have semaphores of their own, and take new work as visits end: a machine
    that hangs holds up one slot only.
    """

    def __init__(
        self,
        ledger: Ledger,
        targets: Targets,
        vault: Vault,
        sessions: Sessions,
        clock: Clock,
        *,
        zone: str,
        grace_seconds: float = 5.0,
        fetch: Fetch = refuse_external,
    ) -> None:
        self._ledger = ledger
        self._targets = targets
        self._vault = vault
        self._sessions = sessions
        self._clock = clock
        self._zone = zone
        self._grace_seconds = grace_seconds
        self._fetch = fetch
        self._sweep_doors = asyncio.Semaphore(AT_ONCE)
        self._clean_doors = asyncio.Semaphore(AT_ONCE)

    async def run_once(self) -> Counts:
        """Do all that is due.

        Return how many runs were cleaned up after, and of how many the outcome was found out.
        """
        return {**await self.sweep_once(), **await self.clean_once()}

    async def sweep_once(self) -> Counts:
        """Look up late outcomes until none is due; return how many were found."""
        return {"settled_late": await _all(self._due_sweeps, SWEEPS_AHEAD)}

    async def clean_once(self) -> Counts:
        """Clean up until nothing is due; return the number of runs cleaned up after."""
        return {"cleaned": await _all(self._due_cleaning, FOLDERS_AHEAD)}

    async def _due_cleaning(self, at_most: int) -> list[Visit]:
        due = sorted(
            await self._ledger.lease_cleanups(self._zone, at_most),
            key=lambda folder: folder.target_id,
        )
        visits = [
            (target_id, list(folders))
            for target_id, folders in groupby(due, key=lambda folder: folder.target_id)
        ]
        ways, unread = await self._ways([target_id for target_id, _ in visits])
        opened = await self._opened([wish for folder in due for wish in folder.becomes.values()])
        return [
            (
                len(folders),
                self._clean_one(ways.get(target), folders, opened, unread=target in unread),
            )
            for target, folders in visits
        ]

    async def _clean_one(
        self,
        way: Endpoint | None,
        folders: Sequence[Folder],
        opened: Mapping[str, Credential],
        *,
        unread: bool,
    ) -> int:
        runs = {folder.run_id for folder in folders}
        # A target that is not in the inventory is unreachable for good; one that cannot be read is
        # unreachable for now.
        left: set[int] | None = None if unread else set()
        if way is not None:
            left = await self._visit(
                way, self._clean_doors, lambda durable: _not_cleaned(durable, folders, opened)
            )
        refused = left is not None
        left = runs if left is None else left
        await self._ledger.postpone_cleanup(sorted(left), refused=refused)
        await self._ledger.mark_cleaned(sorted(runs - left))
        return len(runs - left)

    async def _due_sweeps(self, at_most: int) -> list[Visit]:
        due = await self._ledger.lease_late_lookups(self._zone, at_most)
        # A machine that was away is tried even if its circuit is open: a command may still be
        # running there.
        ways, _ = await self._ways(sorted({sweep.target_id for sweep in due}))
        insisting = {target: replace(way, insist=True) for target, way in ways.items()}
        return [(1, self._sweep_one(insisting.get(sweep.target_id), sweep)) for sweep in due]

    async def _sweep_one(self, way: Endpoint | None, sweep: LateLookup) -> int:
        action = await self._find_action(sweep)
        opened = await self._opened([action.become] if action.become is not None else [])
        found: CancelOutcome | None = None
        if way is not None:
            found = await self._visit(
                way,
                self._sweep_doors,
                lambda durable: self._settled(durable, sweep, action.become, opened),
            )
        if found is None:
            await self._ledger.postpone_late_lookup([sweep.run_id])
            return 0
        told = {
            **_told(found, action.expected_exit_codes),
            "at": moment(self._clock.now()),
        }
        await self._ledger.record_late_result(sweep, told)
        return 1

    async def _find_action(self, sweep: LateLookup) -> FrozenRunningAction:
        spec = (await self._ledger.load_specs([sweep.execution_id]))[sweep.execution_id]
        stored = next(stored for stored in spec.actions if stored["key"] == sweep.key.action)
        action = parse_frozen(stored)
        assert isinstance(action, FrozenRunningAction), "only programs are started in a spool"
        return action

    async def _settled(
        self,
        durable: Durable,
        sweep: LateLookup,
        requested: FrozenBecome | None,
        opened: Mapping[str, Credential],
    ) -> CancelOutcome | None:
        who = resolve_become(requested, opened)
        here = await durable.identity(who)
        if here.store != sweep.identity.store:
            return None  # another spool: it proves nothing about this run
        if sweep.kill:
            found: CancelOutcome | None = await durable.cancel(sweep.key, self._grace_seconds, who)
        else:
            found = await durable.look(sweep.key, who)
        if (
            found is not None
            and found.proof is CancelProof.NEVER_STARTED
            and here != sweep.identity
        ):
            return None  # a reboot may have lost the record of the start
        return None if found is None or found.proof is CancelProof.UNREACHABLE else found

    async def _opened(self, wishes: Sequence[FrozenBecome]) -> Mapping[str, Credential]:
        known = sorted(become_credential_ids(wishes))
        opened: Mapping[str, Credential] = (
            (await load_each(known, self._vault.open_many, _tell))[0] if known else {}
        )
        for wish in wishes:
            opened = await fetch_become_password(wish, opened, self._fetch, "aftercare")
        return opened

    async def _ways(
        self, target_ids: Sequence[str]
    ) -> tuple[dict[str, Endpoint], Mapping[str, Exception]]:
        """Return the endpoints of these targets, and the targets that cannot be read."""
        return (
            await load_each(target_ids, self._targets.endpoints, _tell) if target_ids else ({}, {})
        )

    async def _visit(
        self, way: Endpoint, doors: asyncio.Semaphore, errand: Callable[[Durable], Awaitable[T]]
    ) -> T | None:
        """Return the answer of the errand.

        None if the machine cannot be reached now, cannot keep durable runs, or takes too long.
        """
        try:
            async with (
                doors,
                asyncio.timeout(VISIT_SECONDS),
                self._sessions.session(way) as session,
            ):
                durable = session.durable()
                return await errand(durable) if durable is not None else None
        except (RemoteFailure, SpoolUnavailable, TimeoutError):
            return None


def _tell(key: str, bug: Exception) -> None:
    log.error("aftercare_cannot_read", key=key, exc_info=bug)


async def _all(due: Callable[[int], Awaitable[list[Visit]]], ahead: int) -> int:
    """Make the visits that are due, until none is left; return the sum of their answers.

    Visits that become due meanwhile are included. `ahead`: how many runs are leased at most before
    their visits. The first exception of a visit is raised at the end, after all visits that are
    under way; no more are begun.
    """
    under_way: dict[asyncio.Task[int], int] = {}
    done, failure = 0, None
    more, looked_at = True, time.monotonic()
    try:
        while True:
            room = ahead - sum(under_way.values())
            again = more or time.monotonic() - looked_at >= REFILL_SECONDS
            if failure is None and (not under_way or (again and room >= ahead // 2)):
                visits = await due(room)
                more, looked_at = sum(runs for runs, _ in visits) >= room, time.monotonic()
                under_way |= {asyncio.ensure_future(visit): runs for runs, visit in visits}
            if not under_way:
                break
            ended, _ = await asyncio.wait(
                under_way, timeout=REFILL_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            for visit in ended:
                del under_way[visit]
                failure = failure or visit.exception()
                done += 0 if visit.exception() is not None else visit.result()
    finally:
        for visit in under_way:
            visit.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    if failure is not None:
        raise failure
    return done


async def _not_cleaned(
    durable: Durable, folders: Sequence[Folder], opened: Mapping[str, Credential]
) -> set[int]:
    """Return the runs whose files remain because we can no longer become their user.

    Raises RemoteFailure for all other failures.
    """
    left: set[int] = set()
    keys: dict[tuple[Become | None, bool], list[tuple[int, RunKey]]] = {}
    for folder, key in ((found, key) for found in folders for key in found.keys):
        try:
            who = resolve_become(folder.becomes.get(key.action), opened)
        except RemoteFailure:
            left.add(folder.run_id)
        else:
            keys.setdefault((who, folder.early), []).append((folder.run_id, key))
    for (who, early), theirs in keys.items():
        try:
            await durable.clean([key for _, key in theirs], who, output_only=early)
        except RemoteFailure as failure:
            if failure.code is not ErrorCode.BECOME_FAILED:
                raise
            left |= {run_id for run_id, _ in theirs}
    return left


def _told(found: CancelOutcome, expected: Sequence[int]) -> dict[str, str | int | None]:
    """Return the `late_result` without its time.

    It holds the status and exit code with which the run would have ended.
    """
    if found.proof is CancelProof.NEVER_STARTED:
        return {"status": RunStatus.SKIPPED.value, "exit_code": None}
    if found.proof is CancelProof.KILLED or found.exit is None:
        return {"status": RunStatus.CANCELLED.value, "exit_code": None}
    end = from_exit(found.exit, expected, 0.0)
    return {"status": end.status.value, "exit_code": end.exit_code}
