"""Set-up of claimed runs: all that they need is read for many at once, and what cannot be read ends its own runs alone."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opsjobs.clock import Clock
from opsjobs.engine import become
from opsjobs.engine.compiled_spec import CompiledSpec, compile_spec
from opsjobs.engine.launching import credential_scope, job_secrets
from opsjobs.engine.loading import K, V, load_each
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.cancellation import StopReason
from opsjobs.engine.runs.run_journal import RunJournal
from opsjobs.engine.runs.run_masks import Masks, hidden
from opsjobs.engine.runs.run_state import purpose_of
from opsjobs.integrations.targets import Targets
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.model.masking import Mask
from opsjobs.model.secret import Credential, Secret
from opsjobs.model.target import Endpoint
from opsjobs.store.envelope import KeyMissing, Tampered
from opsjobs.store.ledger import Claimed, Ledger, Progress, Spec
from opsjobs.store.vault import Vault
from opsjobs.telemetry import Metrics, log

COURSES_KEPT = 256


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one run needs."""

    claimed: Claimed
    course: CompiledSpec
    endpoint: Endpoint | None
    """None: the target was removed from the inventory."""
    progress: Sequence[Progress]
    opened: Mapping[str, Credential]
    mask: Mask


@dataclass(frozen=True, slots=True)
class SetupRefused:
    """A run that cannot be prepared, and why."""

    claimed: Claimed
    reason: str
    progress: Sequence[Progress] | None = None
    """What is on record of it; None: not even that could be read."""
    action: str = "step-1"
    """The action that its record names, if nothing of it has begun."""


@dataclass(slots=True)
class _SetupReads:
    """What was read for one claim, and the faults met, by execution, target or run."""

    logins: dict[int, set[str]] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    opened: dict[str, Credential] = field(default_factory=dict)
    held: credential_scope.Held = field(default_factory=lambda: credential_scope.Held(frozenset()))
    progress: dict[int, list[Progress]] = field(default_factory=dict)
    bad_executions: dict[int, Exception] = field(default_factory=dict)
    bad_targets: dict[str, Exception] = field(default_factory=dict)
    bad_logins: dict[str, Exception] = field(default_factory=dict)
    bad_progress: dict[int, Exception] = field(default_factory=dict)

    def fault(self, run: Claimed) -> Exception | None:
        """Why this run cannot begin."""
        logins = (self.bad_logins.get(login) for login in self.logins.get(run.execution_id, ()))
        found = (
            self.bad_executions.get(run.execution_id),
            self.bad_targets.get(run.target_id),
            self.bad_progress.get(run.id),
            *logins,
        )
        return next((fault for fault in found if fault is not None), None)


class RunSetup:
    """Prepares the runs of a claim. What an execution does is kept for its later runs."""

    def __init__(self, ledger: Ledger, targets: Targets, vault: Vault, clock: Clock, metrics: Metrics) -> None:
        self._ledger = ledger
        self._targets = targets
        self._vault = vault
        self._metrics = metrics
        self._masks = Masks(clock)
        self._courses: dict[int, CompiledSpec] = {}

    async def prepare(self, claimed: Sequence[Claimed], again: Collection[int]) -> list[Prepared | SetupRefused]:
        """Return what each run needs, or why it cannot be had. `again`: runs that may have a record. Raises Unavailable."""
        executions = {run.execution_id for run in claimed}
        read = _SetupReads()
        read.bad_executions = await self._learn_courses(executions)
        for execution in executions - read.bad_executions.keys():
            self._note_logins(execution, read)
        targets = sorted({run.target_id for run in claimed})
        read.endpoints, read.bad_targets = await self._each(targets, self._targets.endpoints)
        wanted = sorted(set().union(*read.logins.values()))
        if wanted:
            read.opened, read.bad_logins = await self._each(wanted, self._vault.open_many)
        await self._hold(read)
        if again:
            read.progress, read.bad_progress = await self._each(sorted(again), self._ledger.load_progress)
        return [self._prepared(run, read) for run in claimed]

    def _prepared(self, run: Claimed, read: _SetupReads) -> Prepared | SetupRefused:
        progress: Sequence[Progress] | None = read.progress.get(run.id, ())
        course = self._courses.get(run.execution_id)
        action = next(iter(course.actions), "step-1") if course is not None else "step-1"
        fault = read.fault(run)
        if fault is None and course is not None:
            try:
                return self._ready(run, course, read)
            except Exception as bug:  # noqa: BLE001  a bug ends this run, on record, and no other
                self._report(bug, run=run.id)
                fault = bug
        if run.id in read.bad_progress:
            progress = None
        kind = type(fault).__name__ if fault is not None else "its execution is gone"
        return SetupRefused(run, f"a fault of opsjobs: the run could not be prepared ({kind})", progress, action)

    def _ready(self, run: Claimed, course: CompiledSpec, read: _SetupReads) -> Prepared:
        endpoint, opened = read.endpoints.get(run.target_id), read.opened
        purpose = credential_scope.Purpose(course.spec.job_id, course.spec.job_name)
        endpoint = read.held.endpoint(endpoint, purpose) if endpoint is not None else None
        return Prepared(
            run,
            course,
            endpoint.for_(purpose_of(run)) if endpoint is not None else None,
            read.progress.get(run.id, ()),
            read.held.opened(opened, endpoint.target, purpose) if endpoint is not None else {},
            self._masks.of(course, endpoint, opened),
        )

    # What executions do.

    async def _learn_courses(self, executions: Collection[int]) -> dict[int, Exception]:
        missing = sorted(set(executions) - self._courses.keys())
        specs, bad = await self._each(missing, self._ledger.load_specs) if missing else ({}, {})
        for key, spec in specs.items():
            try:
                self._courses[key] = self._course(spec)
            except Exception as bug:  # noqa: BLE001  an execution that cannot be read keeps no other one from beginning
                self._report(bug, execution=key)
                bad[key] = bug
        while len(self._courses) > COURSES_KEPT + len(executions):
            del self._courses[next(e for e in self._courses if e not in executions)]
        return bad

    def _course(self, spec: Spec) -> CompiledSpec:
        if not spec.parameters:
            return compile_spec(spec, {})
        try:
            parameters = self._vault.open_parameters(spec.execution_uuid, spec.parameters)
        except (KeyMissing, Tampered) as refused:
            return compile_spec(spec, {}, fault=f"the execution's secrets do not open: {refused}")
        forms = hidden(value for value in parameters.values() if isinstance(value, Secret))
        return compile_spec(spec, parameters, forms=forms)

    def _note_logins(self, execution: int, read: _SetupReads) -> None:
        course = self._courses.get(execution)
        if course is None:
            return
        try:
            read.logins[execution] = become.credentials(become.wishes([course.spec])) | job_secrets.credentials([course])
        except Exception as bug:  # noqa: BLE001  as above
            self._report(bug, execution=execution)
            read.bad_executions[execution] = bug

    # Where credentials may be used.

    async def _hold(self, read: _SetupReads) -> None:
        async def outside(targets: Sequence[str]) -> dict[str, credential_scope.Held]:
            held = await credential_scope.Held.of(self._vault, [read.endpoints[target] for target in targets], read.opened)
            return dict.fromkeys(targets, held)

        held, bad = await self._each([*read.endpoints], outside)
        read.held = credential_scope.Held(frozenset().union(*(one.outside for one in {*held.values()})))
        read.bad_targets |= bad

    async def _each(
        self, keys: Iterable[K], load: Callable[[list[K]], Awaitable[Mapping[K, V]]]
    ) -> tuple[dict[K, V], dict[K, Exception]]:
        return await load_each(keys, load, lambda key, bug: self._report(bug, key=key))

    def _report(self, bug: Exception, **of: object) -> None:
        self._metrics.bugs.labels("run_setup").inc()
        log.error("run_not_prepared", exc_info=bug, **of)


class RefusedRun:
    """A run that is claimed and can only be ended: failed, or lost if somebody may have begun something of it.

    It has the face of a TargetRun, so that a life treats both alike.
    """

    def __init__(self, record: RunJournal, refused: SetupRefused, clock: Clock, *, inherited: bool) -> None:
        self.claimed = record.claimed
        self.record = record
        self.began = time.monotonic()
        self._refused = refused
        self._clock = clock
        self._inherited = inherited

    def interrupt(self, why: StopReason) -> None:
        """There is nothing to stop."""

    def drain(self) -> None:
        """It ends at once."""

    async def perform(self) -> None:
        """Say how it ended. What was open is lost, and looked for later if it is in a store."""
        now, record, progress = self._clock.now(), self.record, self._refused.progress
        running = [seen for seen in progress or () if seen.status is RunStatus.RUNNING]
        begun = bool(running) or self._inherited
        code = ErrorCode.LOST if begun else ErrorCode.INTERNAL
        end = outcomes.failed(RemoteFailure(code, self._refused.reason))
        for seen in running:
            page = record.begin(seen.action, seen.attempt, seen.started_at, seen=seen, known=False)
            page.end(end, now)
        if progress is not None and not running and self._refused.action not in {seen.action for seen in progress}:
            record.begin(self._refused.action, 1, None, known=begun).end(end, now)
        sweep = any(seen.identity is not None and not seen.direct for seen in running)
        record.finish(end, sweep=sweep)
