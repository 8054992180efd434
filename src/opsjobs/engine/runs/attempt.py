"""One attempt at an action that runs a program on the target, durably or directly.

The attempt is started here, or was started by an earlier worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opsjobs.engine.run_credentials import (
    check_direct,
    fetch_become_password,
    fetch_logins,
    fetch_secret,
    resolve_become,
    resolve_job_secrets,
    secret_credential_ids,
)
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.cancellation import (
    DETACHING,
    Detached,
    Interrupted,
    StopReason,
)
from opsjobs.engine.runs.commands import DirectCommand, DurableCommand, Work
from opsjobs.engine.runs.output import OUTPUTS_BYTES_MAX, Capture, StdoutCapture
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.engine.runs.run_state import AttemptContext, RunState, login_purpose
from opsjobs.model.action import CommandAction
from opsjobs.model.action_base import FrozenRunningAction
from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus
from opsjobs.model.program import Become, Program, RunKey, StartOrder, durability
from opsjobs.model.target import Capabilities
from opsjobs.remote.session import ContactLost, SpoolUnavailable
from opsjobs.store.ledger.claim import Progress
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import log

# How much of the stdout stored by an earlier worker is read again for outputs.
STDOUT_REREAD_BYTES = 4 << 20


class ProgramAttempt:
    """One attempt to run a program on the target."""

    def __init__(
        self,
        context: AttemptContext,
        action: FrozenRunningAction,
    ) -> None:
        self._state = state = context.state
        self._action = action
        self._progress = progress = context.progress
        self._stop_signal = context.stop_signal
        self.number = context.number
        self.entry: AttemptEntry | None = None
        """The attempt's entry in the journal, once the attempt has started."""
        self.gone = False
        """True if the target shows that the command is not running, but not how it ended."""
        self.runs_direct_command = False
        """True if a command is running that no other worker could follow."""
        requested = self._requested_durability()
        in_spool = progress is not None and progress.identity is not None
        self._required = requested == "required"
        self._durable = requested != "off" and (
            in_spool or not (state.direct or (progress is not None and progress.direct))
        )
        self._may_have_started = context.may_have_started
        self._identity = (
            progress.identity
            if progress is not None and progress.identity is not None
            else state.journal.identity
        )
        self._stdout: StdoutCapture | None = None
        self._opened = state.opened

    @property
    def direct(self) -> bool:
        """True if the command runs outside any spool."""
        return not self._durable

    @property
    def reattaches(self) -> bool:
        """True if an earlier worker may have started it in a spool, which can be queried."""
        return self._may_have_started and self._durable and self._identity is not None

    @property
    def _start_is_implied(self) -> bool:
        """True if a successor worker must assume this start even without a database row.

        True in linear jobs for durable actions, and for the first attempt of the first direct
        action. A later direct action may be in a back-off first, and a transfer may be repeated;
        the run then changes owners without a takeover, and nothing can be inferred.
        """
        first = self.number == 1 and not self._state.ends
        return self._state.compiled_spec.workflow.linear and (self._durable or first)

    def _requested_durability(self) -> str:
        target = self._state.endpoint.target.durable if self._state.endpoint is not None else None
        return durability(
            self._action.durable,
            self._state.compiled_spec.spec.policy.get("durable"),
            target,
        )

    async def perform(self) -> ActionEnd:
        """Run the attempt to its end; the journal entry stays open.

        Raises RemoteFailure if nothing was started, Interrupted and Detached.
        """
        state = self._state
        if not self._durable and self._may_have_started and state.lost_reason is not None:
            raise RemoteFailure(ErrorCode.LOST, state.lost_reason)
        if state.endpoint is None:
            raise self._target_removed()
        if not self.reattaches:
            with self._stop_signal.interruptible():
                await state.check_target()
        connection = state.connections.acquire(insist=self.reattaches)
        try:
            if self.reattaches:
                await self._open_credentials()
                self._program = self._build_unless_plain()
            else:
                with self._stop_signal.interruptible():
                    await self._open_credentials()
                self._program = self._build_unless_plain()
                await self._state.wait_until_startable(self._stop_signal, connection)
            return await self._perform_on(connection)
        finally:
            state.connections.release(connection)

    async def _open_credentials(self) -> None:
        """Fetch secrets from external stores: to become another user, and to redact them.

        Also fetches job secrets and logins. Raises RemoteFailure.
        """
        state, requested = self._state, self._action.become
        fetch, purpose = state.tools.fetch, login_purpose(state.journal.claimed)
        self._opened = await fetch_become_password(requested, state.opened, fetch, purpose)
        for credential_id in secret_credential_ids(state.compiled_spec):
            self._opened = await fetch_secret(credential_id, self._opened, fetch, purpose)
        try:
            got = await fetch_logins(state.endpoint, fetch, purpose)
        except RemoteFailure:
            if not self.reattaches:
                raise
            got = []  # the command is running, and is followed over any connection that exists
        state.redact(
            [
                *got,
                *(
                    one
                    for credential_id, one in self._opened.items()
                    if one is not state.opened.get(credential_id)
                ),
            ]
        )

    def _build_unless_plain(self) -> Program | None:
        """Return the program to start; None for a plain command line. Raises RemoteFailure."""
        if _is_plain_command(self._state, self._action):
            return None
        try:
            return _build_program(self._state, self._action, self.number, self._opened)
        except RemoteFailure as missing:
            if not self.reattaches or missing.code is not ErrorCode.CREDENTIAL_MISSING:
                raise
            raise ContactLost(
                "the command was perhaps started, and what it needs is unavailable: "
                f"{missing.message}"
            ) from None

    def _target_removed(self) -> RemoteFailure:
        if self._may_have_started and self._state.lost_reason is not None:
            return RemoteFailure(ErrorCode.LOST, self._state.lost_reason)
        message = (
            f"target {self._state.target_name} was removed from the inventory after the launch"
        )
        return RemoteFailure(ErrorCode.INTERNAL, message)

    async def _perform_on(self, connection: RunConnection) -> ActionEnd:
        entry = self._open_entry()
        entry.logged_in = connection.take_login_times()
        self._stdout = await self._open_stdout_capture(entry)
        work = self._create_work(entry)
        if self._progress is None and not self._start_is_implied:
            # Only the recorded row shows a successor that the command may have started.
            await self._flush()
        with tracing.span("exec", durable=self._durable, reattached=self.reattaches) as span:
            try:
                end = await (
                    self._perform_durably(connection, work)
                    if self._durable
                    else self._perform_directly(connection, work)
                )
            except RemoteFailure as failure:
                self.gone = (
                    self._durable
                    and failure.code is ErrorCode.LOST
                    and not isinstance(failure, ContactLost)
                )
                end = outcomes.from_failure(failure)
            span.annotate(exit_code=end.exit_code)
            outcomes.mark_span(span, end)
        return self._with_output(end)

    def _with_output(self, end: ActionEnd) -> ActionEnd:
        end = replace(end, written=self._capture.finish())
        if self._stdout is None:
            return end
        self._state.stdouts[self._action.key] = self._stdout.text(self._capture.head_bytes)
        # Redacted again: a secret that was escaped in the JSON is in clear text once parsed.
        return replace(end, outputs=self._state.journal.mask.tree(self._stdout.outputs()))

    def _open_entry(self) -> AttemptEntry:
        state, progress = self._state, self._progress
        started_at = progress.started_at if progress is not None else state.tools.clock.now()
        command = _rendered_command(state, self._action)
        self.entry = state.journal.begin(
            self._action.key,
            self.number,
            started_at,
            progress=progress,
            uses_spool=self._durable,
            command=command,
        )
        self.entry.direct = self.entry.direct or not self._durable
        return self.entry

    def _create_work(self, entry: AttemptEntry) -> Work:
        action, limits = self._action, self._state.tools.limits
        asked = action.output_limit
        limit = limits.output_bytes if asked is None else min(asked, limits.output_bytes)
        heard = self._stdout.add if self._stdout is not None else None
        endpoint = self._state.endpoint
        assert endpoint is not None, "the attempt has a target"
        options = endpoint.target.winrm
        self._capture = Capture(
            entry,
            limit,
            entry.stored,
            listener=heard,
            reread=self._durable,
            encoding=options.encoding if options is not None else None,
        )
        seconds = limits.command_seconds if action.timeout is None else action.timeout
        return Work(
            action,
            self._capture,
            entry,
            self._stop_signal,
            self._state.tools.clock,
            seconds,
            limits.kill_grace_seconds,
        )

    def _direct_command(self, capabilities: Capabilities) -> str | Program:
        """Return the command that is sent over the channel: a program with the run's variables.

        On a machine that starts no programs a plain line stays a line: if it has no environment
        variables, and on any other such machine if the job has no parameters.
        """
        state, program = self._state, self._program
        if program is None:
            if not capabilities.programs and not (
                capabilities.environment and state.compiled_spec.parameters
            ):
                return self._action.line
            return _build_program(state, self._action, self.number, self._opened)
        if not capabilities.environment and program.plain and not self._action.env:
            return program.text
        return program

    async def _open_stdout_capture(self, entry: AttemptEntry) -> StdoutCapture | None:
        wanted = self._action.outputs
        if wanted == "none" and self._action.key not in self._state.compiled_spec.heard:
            return None
        message = StdoutCapture(wanted)
        if self._progress is not None and entry.stored[0]:
            message.add(
                await self._read_stored_stdout(
                    self._progress, OUTPUTS_BYTES_MAX if wanted == "none" else STDOUT_REREAD_BYTES
                )
            )
        return message

    async def _read_stored_stdout(self, progress: Progress, max_bytes: int) -> bytes:
        """Return the stdout that an earlier worker has stored. Raises Detached.

        A request to end the run stops only this read: the command may be running, and is stopped
        next.
        """
        state = self._state
        try:
            with self._stop_signal.interruptible():
                return await state.tools.read_stdout(state.journal.claimed, progress, max_bytes)
        except Interrupted as stopped:
            if stopped.reason in DETACHING:
                raise Detached(stopped.reason) from None
            return b""

    async def _check_start(self) -> None:
        """Raise RemoteFailure if nothing may be started durably on the machine any more."""
        await self._state.check_target()
        self._state.check_restored(durable=True)

    async def _perform_durably(self, connection: RunConnection, work: Work) -> ActionEnd:
        state = self._state
        command = DurableCommand(
            work,
            connection,
            self._build_order(work),
            self._identity,
            reattach=self.reattaches,
            earliest_start=state.earliest_start,
            window_seconds=state.tools.limits.reattach_seconds,
            may_start=state.tools.may_start,
            check_target=self._check_start,
            next_attempt=self._next_attempt,
        )
        state.in_spool = True
        try:
            return await command.perform()
        except SpoolUnavailable as reason:
            check_direct(work.action, f"{state.target_name} cannot keep one: {reason}")
            if self._required:
                message = (
                    f"durable is required, and {state.target_name} cannot keep a durable run: "
                    f"{reason}"
                )
                raise RemoteFailure(ErrorCode.INTERPRETER_MISSING, message) from None
            log.info("no_durable_runs", target=state.target_name, reason=str(reason))
        # Recorded before the start: a successor cannot determine the outcome of a direct command.
        state.direct, self._durable = True, False
        work.entry.record_spool(None)
        await self._flush()
        return await self._perform_directly(connection, work)

    async def _perform_directly(self, connection: RunConnection, work: Work) -> ActionEnd:
        check_direct(
            work.action,
            f"on {self._state.target_name} this run goes directly (durable is off, or cannot be)",
        )
        self._state.check_restored(durable=False)
        # Checked again: the flush may have taken longer than the lease of this worker is valid.
        await self._state.wait_until_startable(self._stop_signal, connection)
        with self._stop_signal.interruptible():
            await self._state.check_target()
        session = await connection.session()
        self.runs_direct_command = True
        try:
            return await DirectCommand(work, self._direct_command(session.capabilities)).perform(
                session
            )
        finally:
            self.runs_direct_command = False

    async def _flush(self) -> None:
        await self._state.journal.flush()
        if self._state.journal.stale:
            raise Detached(StopReason.OWNERSHIP_LOST)

    def _build_order(self, work: Work) -> StartOrder:
        key = RunKey(self._state.journal.claimed.uuid, work.action.key, self.number)
        more: dict[str, Any] = {
            "grace_seconds": work.grace_seconds,
            "limit_bytes": self._state.tools.limits.spool_bytes,
            "become": self._become(),
        }
        if self._program is not None:
            return StartOrder.for_program(key, self._program, work.timeout_seconds, **more)
        variables = _build_environment(self._state, self._action, self.number)
        return StartOrder(
            key, self._action.line, work.timeout_seconds, environment=variables, **more
        )

    def _become(self) -> Become | None:
        try:
            return resolve_become(self._action.become, self._opened)
        except RemoteFailure as missing:
            if not self.reattaches:
                raise
            raise ContactLost(
                "the command was perhaps started, and its become password is missing: "
                f"{missing.message}"
            ) from None

    def _next_attempt(self) -> tuple[StartOrder, Work]:
        """End the voided start as never started, and return the order of the next attempt.

        The next attempt has the next number, and its templates render that number.
        """
        assert self.entry is not None, "a voided start has an entry"
        state, key, now = self._state, self._action.key, self._state.tools.clock.now()
        self.number += 1
        state.attempt = max(state.attempt, self.number)
        rendered = state.render(state.compiled_spec.actions[key], self.number)
        assert isinstance(rendered, FrozenRunningAction), "rendering keeps the type"
        self._action = rendered
        self._program = self._build_unless_plain()
        self.entry.end(ActionEnd(RunStatus.SKIPPED, cancel_proof=CancelProof.NEVER_STARTED), now)
        self.entry = state.journal.begin(
            key, self.number, now, command=_rendered_command(state, self._action)
        )
        work = self._create_work(self.entry)
        return self._build_order(work), work


def _is_plain_command(state: RunState, action: FrozenRunningAction) -> bool:
    """Return True for a plain command line with variables, which does not depend on the run."""
    spec = state.compiled_spec
    return (
        isinstance(action, CommandAction)
        and action.cwd is None
        and action.stdin is None
        and not (spec.secrets or spec.job_secrets or action.env or action.key in spec.renderings)
    )


def _rendered_command(state: RunState, action: FrozenRunningAction) -> str | None:
    """Return the rendered command line; None if it equals the one in the definition."""
    written = state.compiled_spec.actions[action.key]
    assert isinstance(written, FrozenRunningAction), "rendering keeps the type"
    return None if action.line == written.line else action.line


def _build_program(
    state: RunState, action: FrozenRunningAction, attempt: int, opened: Mapping[str, Credential]
) -> Program:
    """Return the program to start.

    `opened`: the credentials that hold job secrets. Raises RemoteFailure: INTERNAL for a program
    that no machine accepts, CREDENTIAL_MISSING if a secret has a fault.
    """
    spec = state.compiled_spec
    inputs: dict[str, Any] = {
        "env": _build_environment(state, action, attempt),
        "cwd": action.cwd,
        "stdin": None if action.stdin is None else action.stdin.encode(),
        "secrets": {**spec.secrets, **resolve_job_secrets(spec.job_secrets, opened)},
    }
    try:
        return action.program(**inputs)
    except ValueError as error:
        raise RemoteFailure(ErrorCode.INTERNAL, f"this cannot be started: {error}") from None


def _build_environment(
    state: RunState, action: FrozenRunningAction, attempt: int
) -> dict[str, str]:
    """Return the variables common to every program of the run, and the action's own."""
    target = state.endpoint.target if state.endpoint is not None else None
    return {
        **action.env,
        **state.compiled_spec.environment,
        "OPSJOBS_TARGET": state.target_name,
        "OPSJOBS_HOST": target.host if target is not None else "",
        "OPSJOBS_ATTEMPT": str(attempt),
    }
