"""Set up claimed runs: read their data for many runs at once.

Data that cannot be read ends only the runs that need it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opsjobs.clock import Clock
from opsjobs.engine.compiled_spec import CompiledSpec, compile_spec
from opsjobs.engine.credential_scopes import CredentialScopes, Purpose
from opsjobs.engine.loading import K, V, load_each
from opsjobs.engine.run_credentials import MaskFactory, credential_ids, hide_secrets
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.cancellation import StopReason
from opsjobs.engine.runs.run_journal import RunJournal
from opsjobs.engine.runs.run_state import login_purpose
from opsjobs.integrations.targets import Targets
from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.model.masking import Mask
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.store.envelope import KeyMissing, Tampered
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed, Progress, Spec
from opsjobs.store.vault.credentials import Vault
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

SPECS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Prepared:
    """All the data and credentials that one run needs."""

    claimed: Claimed
    compiled_spec: CompiledSpec
    endpoint: Endpoint | None
    """None: the target was removed from the inventory."""
    progress: Sequence[Progress]
    opened: Mapping[str, Credential]
    mask: Mask


@dataclass(frozen=True, slots=True)
class SetupRefused:
    """A run that cannot be set up, and the reason."""

    claimed: Claimed
    reason: str
    progress: Sequence[Progress] | None = None
    """The recorded progress; None: even that could not be read."""
    action: str = "step-1"
    """The action to report, if none has started."""


@dataclass(slots=True)
class _SetupReads:
    """Data read for one claim, and the faults found, by execution, target or run."""

    logins: dict[int, set[str]] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    opened: dict[str, Credential] = field(default_factory=dict)
    scopes: CredentialScopes = field(default_factory=CredentialScopes)
    progress: dict[int, list[Progress]] = field(default_factory=dict)
    bad_executions: dict[int, Exception] = field(default_factory=dict)
    bad_targets: dict[str, Exception] = field(default_factory=dict)
    bad_logins: dict[str, Exception] = field(default_factory=dict)
    bad_progress: dict[int, Exception] = field(default_factory=dict)

    def fault(self, run: Claimed) -> Exception | None:
        """Return the reason why this run cannot start; None if it can."""
        logins = (self.bad_logins.get(login) for login in self.logins.get(run.execution_id, ()))
        found = (
            self.bad_executions.get(run.execution_id),
            self.bad_targets.get(run.target_id),
            self.bad_progress.get(run.id),
            *logins,
        )
        return next((fault for fault in found if fault is not None), None)


class RunSetup:
    """Sets up the runs of a claim. Compiled specs are cached for an execution's later runs."""

    def __init__(
        self, ledger: Ledger, targets: Targets, vault: Vault, clock: Clock, metrics: Metrics
    ) -> None:
        self._ledger = ledger
        self._targets = targets
        self._vault = vault
        self._metrics = metrics
        self._masks = MaskFactory(clock)
        self._specs: dict[int, CompiledSpec] = {}

    async def prepare(
        self, claimed: Sequence[Claimed], resumed: Collection[int]
    ) -> list[Prepared | SetupRefused]:
        """Return the data of each run, or the reason why it cannot be set up.

        `resumed`: runs that may have recorded progress. Raises Unavailable.
        """
        executions = {run.execution_id for run in claimed}
        loaded = _SetupReads()
        loaded.bad_executions = await self._load_specs(executions)
        for execution in executions - loaded.bad_executions.keys():
            self._collect_credentials(execution, loaded)
        targets = sorted({run.target_id for run in claimed})
        loaded.endpoints, loaded.bad_targets = await self._load_each(
            targets, self._targets.endpoints
        )
        wanted = sorted(set().union(*loaded.logins.values()))
        if wanted:
            loaded.opened, loaded.bad_logins = await self._load_each(wanted, self._vault.open_many)
        await self._load_scopes(loaded)
        if resumed:
            loaded.progress, loaded.bad_progress = await self._load_each(
                sorted(resumed), self._ledger.load_progress
            )
        return [self._prepare_or_refuse(run, loaded) for run in claimed]

    def _prepare_or_refuse(self, run: Claimed, loaded: _SetupReads) -> Prepared | SetupRefused:
        progress: Sequence[Progress] | None = loaded.progress.get(run.id, ())
        compiled_spec = self._specs.get(run.execution_id)
        action = (
            next(iter(compiled_spec.actions), "step-1") if compiled_spec is not None else "step-1"
        )
        fault = loaded.fault(run)
        if fault is None and compiled_spec is not None:
            try:
                return self._prepare_run(run, compiled_spec, loaded)
            except Exception as bug:  # noqa: BLE001  a bug ends this run, recorded, and no other
                self._report(bug, run=run.id)
                fault = bug
        if run.id in loaded.bad_progress:
            progress = None
        kind = type(fault).__name__ if fault is not None else "its execution is gone"
        return SetupRefused(
            run, f"a fault of opsjobs: the run could not be prepared ({kind})", progress, action
        )

    def _prepare_run(
        self, run: Claimed, compiled_spec: CompiledSpec, loaded: _SetupReads
    ) -> Prepared:
        endpoint, opened = loaded.endpoints.get(run.target_id), loaded.opened
        purpose = Purpose(compiled_spec.spec.job_id, compiled_spec.spec.job_name)
        endpoint = (
            loaded.scopes.apply_to_endpoint(endpoint, purpose) if endpoint is not None else None
        )
        return Prepared(
            run,
            compiled_spec,
            endpoint.for_(login_purpose(run)) if endpoint is not None else None,
            loaded.progress.get(run.id, ()),
            loaded.scopes.apply(opened, endpoint.target, purpose) if endpoint is not None else {},
            self._masks.mask_for(compiled_spec, endpoint, opened),
        )

    # Specs of executions.

    async def _load_specs(self, executions: Collection[int]) -> dict[int, Exception]:
        missing = sorted(set(executions) - self._specs.keys())
        specs, bad = (
            await self._load_each(missing, self._ledger.load_specs) if missing else ({}, {})
        )
        for key, spec in specs.items():
            try:
                self._specs[key] = self._compile(spec)
            except Exception as bug:  # noqa: BLE001  one unreadable execution must not block others
                self._report(bug, execution=key)
                bad[key] = bug
        while len(self._specs) > SPECS_KEPT + len(executions):
            del self._specs[next(e for e in self._specs if e not in executions)]
        return bad

    def _compile(self, spec: Spec) -> CompiledSpec:
        if not spec.parameters:
            return compile_spec(spec, {})
        try:
            parameters = self._vault.open_parameters(spec.execution_uuid, spec.parameters)
        except (KeyMissing, Tampered) as refused:
            return compile_spec(spec, {}, fault=f"the execution's secrets do not open: {refused}")
        forms = hide_secrets(value for value in parameters.values() if isinstance(value, Secret))
        return compile_spec(spec, parameters, forms=forms)

    def _collect_credentials(self, execution: int, loaded: _SetupReads) -> None:
        compiled_spec = self._specs.get(execution)
        if compiled_spec is None:
            return
        try:
            loaded.logins[execution] = credential_ids(compiled_spec)
        except Exception as bug:  # noqa: BLE001  as above
            self._report(bug, execution=execution)
            loaded.bad_executions[execution] = bug

    # Scopes of credentials.

    async def _load_scopes(self, loaded: _SetupReads) -> None:
        async def load(targets: Sequence[str]) -> dict[str, CredentialScopes]:
            endpoints = [loaded.endpoints[target] for target in targets]
            scopes = await CredentialScopes.load(self._vault, endpoints, loaded.opened)
            return dict.fromkeys(targets, scopes)

        scopes, bad = await self._load_each([*loaded.endpoints], load)
        loaded.scopes = CredentialScopes(
            frozenset().union(*(one.outside for one in {*scopes.values()}))
        )
        loaded.bad_targets |= bad

    async def _load_each(
        self, keys: Iterable[K], load: Callable[[list[K]], Awaitable[Mapping[K, V]]]
    ) -> tuple[dict[K, V], dict[K, Exception]]:
        """Load all at once; if that fails, one by one.

        Returns the values found, and the exceptions of the other keys.
        """
        return await load_each(keys, load, lambda key, bug: self._report(bug, key=key))

    def _report(self, bug: Exception, **of: object) -> None:
        self._metrics.bugs.labels("run_setup").inc()
        log.error("run_not_prepared", exc_info=bug, **of)


class RefusedRun:
    """A claimed run that can only be ended: as failed, or as lost if it may have started.

    It has the interface of TargetRunner, so that a session treats both in the same way.
    """

    job_type = "unknown"
    """Its actions could not be read."""

    def __init__(
        self, journal: RunJournal, refused: SetupRefused, clock: Clock, *, inherited: bool
    ) -> None:
        self.claimed = journal.claimed
        self.journal = journal
        self.began = time.monotonic()
        self._refused = refused
        self._clock = clock
        self._inherited = inherited

    def interrupt(self, why: StopReason) -> None:
        """Do nothing: there is nothing to stop."""

    def drain(self) -> None:
        """Do nothing: the run ends at once."""

    async def perform(self) -> None:
        """Record the end of the run.

        Open attempts are recorded as lost, and looked up later if they are in a spool.
        """
        now, record, progress = self._clock.now(), self.journal, self._refused.progress
        running = [attempt for attempt in progress or () if attempt.status is RunStatus.RUNNING]
        begun = bool(running) or self._inherited
        code = ErrorCode.LOST if begun else ErrorCode.INTERNAL
        end = outcomes.from_failure(RemoteFailure(code, self._refused.reason))
        for attempt in running:
            entry = record.begin(
                attempt.action,
                attempt.attempt,
                attempt.started_at,
                progress=attempt,
                uses_spool=False,
            )
            entry.end(end, now)
        if (
            progress is not None
            and not running
            and self._refused.action not in {attempt.action for attempt in progress}
        ):
            record.begin(self._refused.action, 1, None, uses_spool=begun).end(end, now)
        sweep = any(attempt.identity is not None and not attempt.direct for attempt in running)
        record.finish(end, sweep=sweep)
