"""Remote cleanup: remove leftovers of ended runs from machines, and look up late outcomes.

A late outcome is one that could not be determined when the run ended.
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
from opsjobs.engine.loop import Counts
from opsjobs.engine.run_credentials import (
    become_credential_ids,
    fetch_become_password,
    resolve_become,
)
from opsjobs.engine.runs.outcomes import from_exit
from opsjobs.integrations.targets import Targets
from opsjobs.model.action import parse_frozen
from opsjobs.model.action_base import FrozenBecome, FrozenRunningAction
from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus, moment
from opsjobs.model.program import Become, RunKey
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import (
    CancelOutcome,
    Durable,
    Fetch,
    Sessions,
    SpoolUnavailable,
    refuse_external,
)
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.remote_cleanup import Folder, LateLookup
from opsjobs.store.vault.credentials import Vault
from opsjobs.telemetry.logs import log

T = TypeVar("T")
Visit = tuple[int, Coroutine[Any, Any, int]]
"""The number of runs that a visit handles, and the visit itself, not yet started."""

AT_ONCE = 8
# Runs that are leased ahead of their visits: all must be handled before the lease ends.
FOLDERS_AHEAD = 500
LOOKUPS_AHEAD = 50
REFILL_SECONDS = 10.0
"""Interval at which to look for runs that have become due while visits are running."""
VISIT_SECONDS = 90.0
"""Time limit of the visit to one machine; unfinished work is retried later."""


class RemoteCleanup:
    """Visit machines of one zone, a few at a time, each at most once in a while.

    Lookups and cleaning have semaphores of their own, and take new work as visits end: a machine
    that hangs blocks only one slot.
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
        self._lookup_slots = asyncio.Semaphore(AT_ONCE)
        self._clean_slots = asyncio.Semaphore(AT_ONCE)

    async def run_once(self) -> Counts:
        """Do all that is due: late lookups, then cleanup.

        Return the number of runs whose outcome was found, and of runs that were cleaned up.
        """
        return {**await self.look_up_once(), **await self.clean_once()}

    async def look_up_once(self) -> Counts:
        """Look up late outcomes until none is due; return how many were found."""
        return {"settled_late": await _visit_all(self._due_lookups, LOOKUPS_AHEAD)}

    async def clean_once(self) -> Counts:
        """Clean up until nothing is due; return the number of runs that were cleaned up."""
        return {"cleaned": await _visit_all(self._due_cleaning, FOLDERS_AHEAD)}

    async def _due_cleaning(self, at_most: int) -> list[Visit]:
        due = sorted(
            await self._ledger.lease_cleanups(self._zone, at_most),
            key=lambda folder: folder.target_id,
        )
        visits = [
            (target_id, list(folders))
            for target_id, folders in groupby(due, key=lambda folder: folder.target_id)
        ]
        endpoints, unread = await self._load_endpoints([target_id for target_id, _ in visits])
        requests = [request for folder in due for request in folder.becomes.values()]
        opened = await self._open_credentials(requests)
        return [
            (
                len(folders),
                self._clean_one(endpoints.get(target), folders, opened, unread=target in unread),
            )
            for target, folders in visits
        ]

    async def _clean_one(
        self,
        endpoint: Endpoint | None,
        folders: Sequence[Folder],
        opened: Mapping[str, Credential],
        *,
        unread: bool,
    ) -> int:
        runs = {folder.run_id for folder in folders}
        # A target that is not in the inventory is unreachable for good; one that cannot be read is
        # unreachable for now.
        left: set[int] | None = None if unread else set()
        if endpoint is not None:
            left = await self._visit(
                endpoint, self._clean_slots, lambda durable: _clean(durable, folders, opened)
            )
        is_refused = left is not None
        left = runs if left is None else left
        await self._ledger.postpone_cleanup(sorted(left), refused=is_refused)
        await self._ledger.mark_cleaned(sorted(runs - left))
        return len(runs - left)

    async def _due_lookups(self, at_most: int) -> list[Visit]:
        due = await self._ledger.lease_late_lookups(self._zone, at_most)
        # A machine that was unreachable is tried even if its circuit is open: a command may still
        # be running there.
        endpoints, _ = await self._load_endpoints(sorted({lookup.target_id for lookup in due}))
        insisting = {key: replace(endpoint, insist=True) for key, endpoint in endpoints.items()}
        return [(1, self._look_up_one(insisting.get(lookup.target_id), lookup)) for lookup in due]

    async def _look_up_one(self, endpoint: Endpoint | None, lookup: LateLookup) -> int:
        action = await self._find_action(lookup)
        opened = await self._open_credentials([action.become] if action.become is not None else [])
        found: CancelOutcome | None = None
        if endpoint is not None:
            found = await self._visit(
                endpoint,
                self._lookup_slots,
                lambda durable: self._find_outcome(durable, lookup, action.become, opened),
            )
        if found is None:
            await self._ledger.postpone_late_lookup([lookup.run_id])
            return 0
        result = _late_result(found, action.expected_exit_codes)
        await self._ledger.record_late_result(lookup, {**result, "at": moment(self._clock.now())})
        return 1

    async def _find_action(self, lookup: LateLookup) -> FrozenRunningAction:
        spec = (await self._ledger.load_specs([lookup.execution_id]))[lookup.execution_id]
        stored = next(stored for stored in spec.actions if stored["key"] == lookup.key.action)
        action = parse_frozen(stored)
        assert isinstance(action, FrozenRunningAction), "only programs are started in a spool"
        return action

    async def _find_outcome(
        self,
        durable: Durable,
        lookup: LateLookup,
        requested: FrozenBecome | None,
        opened: Mapping[str, Credential],
    ) -> CancelOutcome | None:
        user = resolve_become(requested, opened)
        here = await durable.identity(user)
        if here.store != lookup.identity.store:
            return None  # another spool: it proves nothing about this run
        if lookup.kill:
            found: CancelOutcome | None = await durable.cancel(
                lookup.key, self._grace_seconds, user
            )
        else:
            found = await durable.look(lookup.key, user)
        if (
            found is not None
            and found.proof is CancelProof.NEVER_STARTED
            and here != lookup.identity
        ):
            return None  # a reboot may have lost the record of the start
        return None if found is None or found.proof is CancelProof.UNREACHABLE else found

    async def _open_credentials(self, requests: Sequence[FrozenBecome]) -> Mapping[str, Credential]:
        credential_ids = sorted(become_credential_ids(requests))
        opened: Mapping[str, Credential] = {}
        if credential_ids:
            opened, _ = await load_each(credential_ids, self._vault.open_many, _log_unreadable)
        for request in requests:
            opened = await fetch_become_password(request, opened, self._fetch, "cleanup")
        return opened

    async def _load_endpoints(
        self, target_ids: Sequence[str]
    ) -> tuple[dict[str, Endpoint], Mapping[str, Exception]]:
        """Return the endpoints of these targets, and the targets that cannot be read."""
        if not target_ids:
            return {}, {}
        return await load_each(target_ids, self._targets.endpoints, _log_unreadable)

    async def _visit(
        self, endpoint: Endpoint, slots: asyncio.Semaphore, work: Callable[[Durable], Awaitable[T]]
    ) -> T | None:
        """Do the work on the machine, and return its result.

        None if the machine cannot be reached now, cannot keep durable runs, or takes too long.
        """
        try:
            async with (
                slots,
                asyncio.timeout(VISIT_SECONDS),
                self._sessions.session(endpoint) as session,
            ):
                durable = session.durable()
                return await work(durable) if durable is not None else None
        except (RemoteFailure, SpoolUnavailable, TimeoutError):
            return None


def _log_unreadable(key: str, bug: Exception) -> None:
    log.error("cleanup_cannot_read", key=key, exc_info=bug)


async def _visit_all(due: Callable[[int], Awaitable[list[Visit]]], ahead: int) -> int:
    """Make the visits that are due, until none is left; return the sum of their results.

    Visits that become due meanwhile are included. `ahead`: the maximum number of runs that are
    leased before their visits. If a visit fails, no more are started, and its exception is raised
    once the running ones have ended.
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


async def _clean(
    durable: Durable, folders: Sequence[Folder], opened: Mapping[str, Credential]
) -> set[int]:
    """Remove these files; return the runs whose files remain.

    They remain if opsjobs can no longer become the user of the run, or if the machine says so.
    Raises RemoteFailure for all other failures.
    """
    left: set[int] = set()
    keys: dict[tuple[Become | None, bool], list[tuple[int, RunKey]]] = {}
    for folder, key in ((found, key) for found in folders for key in found.keys):
        try:
            user = resolve_become(folder.becomes.get(key.action), opened)
        except RemoteFailure:
            left.add(folder.run_id)
        else:
            keys.setdefault((user, folder.early), []).append((folder.run_id, key))
    for (user, early), run_keys in keys.items():
        try:
            kept = await durable.clean([key for _, key in run_keys], user, output_only=early)
            left |= {run_id for run_id, key in run_keys if key in kept}
        except RemoteFailure as failure:
            if failure.code is not ErrorCode.BECOME_FAILED:
                raise
            left |= {run_id for run_id, _ in run_keys}
    return left


def _late_result(found: CancelOutcome, expected: Sequence[int]) -> dict[str, str | int | None]:
    """Return the `late_result` without its time.

    It holds the status and exit code with which the run would have ended.
    """
    if found.proof is CancelProof.NEVER_STARTED:
        return {"status": RunStatus.SKIPPED.value, "exit_code": None}
    if found.proof is CancelProof.KILLED or found.exit is None:
        return {"status": RunStatus.CANCELLED.value, "exit_code": None}
    end = from_exit(found.exit, expected, 0.0)
    return {"status": end.status.value, "exit_code": end.exit_code}
