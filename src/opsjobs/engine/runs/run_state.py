"""The state that a run's actions share: journal, connections, progress and results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.run_credentials import hide_secrets
from opsjobs.engine.runs.cancellation import Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.run_connection import RunConnection, RunConnections, wait_out
from opsjobs.engine.runs.run_journal import ActionEnd, RunJournal
from opsjobs.engine.runs.run_tools import RunTools
from opsjobs.model.action_base import FrozenAction
from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode, RunStatus, WaitingFor, moment
from opsjobs.model.quoting import Unquotable
from opsjobs.model.target import POSIX, Endpoint
from opsjobs.model.template import TemplateFault
from opsjobs.remote.session import ContactLost
from opsjobs.store.ledger.claim import Claimed, Progress
from opsjobs.store.restores import RECORD_KEPT

A = TypeVar("A", bound=FrozenAction)

# Longer waits are recorded in the ledger and hold no slot.
INLINE_WAIT_SECONDS = 5.0
LEASE_PAUSE_SECONDS = 0.5


def login_purpose(claimed: Claimed) -> str:
    """Return the purpose of a run's logins, as it appears in certificates."""
    return f"execution {claimed.execution_id} run {claimed.id}"


@dataclass(frozen=True, slots=True)
class Deferred:
    """An action that waits for a time, an event, or both."""

    waiting_for: WaitingFor
    at: float | None = None
    """When to continue, in monotonic seconds; None: when the run is woken."""
    awaits: str | None = None
    """The name of the approval or execution that it waits for (see RunMove)."""
    attempt: int | None = None


RELEASE_BYTES = 1024 * 1024
"""Output larger than this is removed from the target once stored, not a day later."""


@dataclass(slots=True)
class RunState:
    """The state of a running run. TargetRunner creates it; actions read and write it."""

    journal: RunJournal
    """Receives all records of the run."""
    compiled_spec: CompiledSpec
    """The spec of the execution, shared by all of its runs."""
    endpoint: Endpoint | None
    """The machine and its jump hosts; None: the target was removed after the launch."""
    history: RunHistory
    """The progress recorded before this worker took the run; never written to."""
    tools: RunTools
    """The services of the worker, shared by all of its runs."""
    connections: RunConnections
    """Connections to the machine; each attempt acquires one and releases it."""
    opened: Mapping[str, Credential]
    """The credentials that actions need, by id, with their passwords; read by attempts."""
    lost_reason: str | None
    """The error message for direct commands that another worker may have started."""
    inherited: bool
    """True if another worker had the run before and may have started unrecorded actions."""
    earliest_start: float
    """No part of the run was started before this (monotonic); read by durable commands."""
    direct: bool
    """True if its commands run without a spool; set by the attempt that detects this."""
    in_spool: bool
    """True if a spool on the machine may hold data of the run; set by attempts."""
    draining: bool = False
    """True if nothing more may be started; set by a stop of the worker, or a handover."""
    sweep: bool = False
    """True if the outcome of some action has to be looked up later; set by actions."""
    attempt: int = 1
    """The highest attempt number so far, of any action; recorded at the end of the run."""
    dead_actions: set[str] = field(default_factory=set)
    """Actions whose attempts are used up, or that end as dead letters when lost (`on_lost`)."""
    ends: dict[str, ActionEnd] = field(default_factory=dict)
    """The final ends of actions, by key; read by conditions and templates."""
    stdouts: dict[str, str] = field(default_factory=dict)
    """The head of stdout of actions that others read, by key; written by attempts."""
    forgotten: dict[str, str] = field(default_factory=dict)
    """Errors for actions that read such stdout after it was deleted, by key."""
    redacted: set[Credential] = field(default_factory=set)
    """Credentials fetched from an external store or refreshed, which are redacted since then."""
    attempt_numbers: dict[str, int] = field(default_factory=dict)
    """The number of the attempt that ended each action, by key; read by templates."""
    target_checked: bool = False
    """True once the machine was compared with its approved or checked state."""
    target_refusal: str | None = None
    """The reason why nothing may be started on the machine; set by `check_target`."""

    @property
    def releases_output(self) -> bool:
        """True if the target should soon drop the run's output: it got secrets, or wrote much."""
        if self.compiled_spec.secrets or self.compiled_spec.job_secrets:
            return True
        return sum(sum(end.written) for end in self.ends.values()) > RELEASE_BYTES

    def redact(self, credentials: Iterable[Credential]) -> None:
        """Redact the secrets of these newly fetched credentials from all further output."""
        for credential in credentials:
            if credential not in self.redacted:
                self.redacted.add(credential)
                self.journal.mask = self.journal.mask.also(hide_secrets(credential.secrets))

    async def check_target(self) -> None:
        """Raise RemoteFailure(TARGET_CHANGED) if the machine is not the one that was approved.

        Waits out an outage of the database: call it inside `StopSignal.interruptible()`.
        """
        endpoint = self.endpoint
        if not self.target_checked and endpoint is not None:
            position = self.journal.claimed.position
            self.target_refusal = await wait_out(
                lambda: self.tools.pin_check.find_refusal(
                    self.compiled_spec.spec, self.compiled_spec.parameters, position, endpoint
                ),
                self.tools.clock,
            )
            self.target_checked = True
        if self.target_refusal is not None:
            raise RemoteFailure(ErrorCode.TARGET_CHANGED, self.target_refusal)

    def check_restored(self, *, durable: bool) -> None:
        """Raise ContactLost if a start may be the second one, in a database that was restored.

        The target refuses the second start of a `durable` command as long as it has the record of
        the first one. Nothing refuses that of a direct command.
        """
        backup_at = self.compiled_spec.spec.restored_from
        if backup_at is None or (durable and self.tools.clock.now() - backup_at < RECORD_KEPT):
            return
        reason = "the target may have removed its record" if durable else "no target keeps a record"
        raise ContactLost(
            f"the database was restored from a backup of {moment(backup_at)}: whether the command "
            f"ran after that is unknown, because {reason}; it was not started again"
        )

    def check_heard(self, key: str) -> None:
        """Raise RemoteFailure(INTERNAL) if an action reads stdout that has been deleted.

        Such stdout must not be treated as empty.
        """
        for other in sorted(self.compiled_spec.hears.get(key, ())):
            if (words := self.forgotten.get(other)) is not None:
                raise RemoteFailure(ErrorCode.INTERNAL, words)

    async def wait_until_startable(
        self, stop_signal: StopSignal, connection: RunConnection
    ) -> None:
        """Connect to the machine, and check that the action may be started now.

        Called before anything of the action is recorded. Raises RemoteFailure, and Interrupted if
        it must not be started.
        """
        with stop_signal.interruptible():
            await connection.session()
        with stop_signal.interruptible():
            while self.inherited and not (self.draining or self.tools.may_start()):
                await self.tools.clock.sleep(LEASE_PAUSE_SECONDS)
        if self.draining or not self.tools.may_start():
            raise Interrupted(StopReason.WORKER_STOPS)

    def render(self, action: A, attempt: int) -> A:
        """Return the action with its values filled in, for this attempt.

        Raises RemoteFailure(INTERNAL) if a value cannot be filled in.
        """
        if self.compiled_spec.fault is not None:
            raise RemoteFailure(ErrorCode.INTERNAL, self.compiled_spec.fault)
        rendering = self.compiled_spec.renderings.get(action.key)
        if rendering is None:
            return action
        self.check_heard(action.key)
        capabilities = self.endpoint.target.capabilities if self.endpoint is not None else POSIX
        try:
            rendered = rendering.render(self.values(action.key, attempt), capabilities.quoting)
        except (TemplateFault, Unquotable) as error:
            message = f"a value cannot be filled in: {error}"
            raise RemoteFailure(ErrorCode.INTERNAL, message) from None
        assert isinstance(rendered, type(action)), "rendering keeps the type"
        return rendered

    @property
    def target_name(self) -> str:
        """The target's name at launch."""
        return self.journal.claimed.target_name

    def values(self, key: str, number: int = 1) -> dict[str, Any]:
        """Return the values that an action's condition and templates may read, at this attempt.

        `run.attempt` is the highest attempt of this action and of all that must end before it: of
        actions in parallel with it, a successor worker may see another state.
        """
        before = self.compiled_spec.workflow.before(key)
        attempt = max(
            [number, *(n for other, n in self.attempt_numbers.items() if other in before)]
        )
        spec, endpoint, claimed = self.compiled_spec.spec, self.endpoint, self.journal.claimed
        target = endpoint.target if endpoint is not None else None
        return {
            "parameters": self.compiled_spec.parameters,
            "target": {
                "name": claimed.target_name,
                "host": target.host if target is not None else None,
                "platform": target.platform if target is not None else None,
                "labels": target.labels if target is not None else {},
            },
            "execution": {"id": spec.execution_id, "number": spec.number},
            "job": {"name": spec.job_name},
            "run": {"attempt": attempt},
            "actions": {key: self._result(key, end) for key, end in self.ends.items()},
        }

    def _result(self, key: str, end: ActionEnd) -> dict[str, Any]:
        return {
            "status": end.status.value,
            "exit_code": end.exit_code,
            "stdout": self.stdouts.get(key),
            "outputs": end.outputs,
        }

    def note_end(self, key: str, end: ActionEnd, number: int) -> None:
        """Record the final end of an action, with the number of its last attempt."""
        self.ends[key], self.attempt_numbers[key] = end, number
        if end.status is RunStatus.LOST and self.compiled_spec.on_lost == "dead_letter":
            self.dead_actions.add(key)


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """The circumstances of one attempt at an action, of any type."""

    state: RunState
    number: int
    stop_signal: StopSignal
    progress: Progress | None
    """The recorded progress of the attempt, if there is any."""
    may_have_started: bool
    """True if an earlier worker may have started it, recorded or not."""


@dataclass(frozen=True, slots=True)
class ActionHistory:
    """The recorded progress of one action.

    `end` is set if it has ended for good, `open` if an attempt is still running. If neither is set,
    `attempt` is the number of the next attempt, due in `again_seconds`.
    """

    attempt: int = 1
    tries: int = 0
    """Attempts that count towards the limit."""
    end: Progress | None = None
    open: Progress | None = None
    again_seconds: float = 0.0
    skipped: bool = False
    """True if its condition was false."""


NO_HISTORY = ActionHistory()


class RunHistory:
    """The recorded progress of a run, by action; read once."""

    def __init__(self, claimed: Claimed, progress: Sequence[Progress]) -> None:
        by_action: dict[str, list[Progress]] = {}
        for attempt in progress:
            by_action.setdefault(attempt.action, []).append(attempt)
        # The run's own attempt number: templates must render it identically after a takeover.
        self.attempt = max(
            (attempt.attempt for attempt in progress if attempt.inherited_from is None), default=1
        )
        self._of: Mapping[str, ActionHistory] = {
            key: _summarize(claimed, attempts) for key, attempts in by_action.items()
        }

    def of_action(self, key: str) -> ActionHistory:
        """Return the recorded progress of an action."""
        return self._of.get(key, NO_HISTORY)

    def final_results(self) -> Iterable[Progress]:
        """Return the final ends of actions."""
        return [before.end for before in self._of.values() if before.end is not None]

    def open_actions(self) -> Iterable[str]:
        """Return the keys of the actions that have started and not ended."""
        return [key for key, before in self._of.items() if before.open is not None]


def _summarize(claimed: Claimed, attempts: Sequence[Progress]) -> ActionHistory:
    last = max(attempts, key=lambda progress: progress.attempt)
    tries = sum(not progress.voided and progress.status.final for progress in attempts)
    if last.status is RunStatus.RUNNING:
        return ActionHistory(last.attempt, tries, open=last)
    if last.status is RunStatus.SKIPPED and not last.voided:
        return ActionHistory(last.attempt, tries, skipped=True)
    if last.voided or last.again_seconds is not None or _lost_before(claimed, last):
        return ActionHistory(
            last.attempt + 1, tries, again_seconds=max(last.again_seconds or 0.0, 0.0)
        )
    return ActionHistory(last.attempt, tries, end=last)


def _lost_before(claimed: Claimed, last: Progress) -> bool:
    """True if the attempt was lost before the run's current one, and no spool is recorded."""
    ours = last.identity is not None or last.direct
    return last.status is RunStatus.LOST and last.attempt < claimed.attempt and not ours
