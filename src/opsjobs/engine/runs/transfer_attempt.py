"""One attempt at a file transfer, with the interface of Attempt."""

from __future__ import annotations

from dataclasses import replace

from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.output import Capture
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.engine.runs.run_state import AttemptContext
from opsjobs.engine.runs.transfer import Transfer, TransferOrder
from opsjobs.model.action import FrozenTransfer
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.session import Output
from opsjobs.telemetry import tracing


class TransferAttempt:
    """One attempt at a file transfer; it uses no spool on the target.

    It is always direct, never `gone`, and never runs a direct command: every owner of the run
    continues where the last one, itself or another worker, stopped.
    """

    gone = False
    direct = True
    runs_direct_command = False

    def __init__(self, context: AttemptContext, action: FrozenTransfer) -> None:
        self._state = context.state
        self._action = action
        self._progress = context.progress
        self._stop_signal = context.stop_signal
        self.number = context.number
        self.entry: AttemptEntry | None = None

    async def perform(self) -> ActionEnd:
        """Perform the transfer; the journal entry stays open.

        Raises RemoteFailure if nothing was started, Interrupted and Detached.
        """
        state = self._state
        if state.endpoint is None:
            text = f"target {state.target_name} was removed from the inventory after the launch"
            raise RemoteFailure(ErrorCode.INTERNAL, text)
        with self._stop_signal.interruptible():
            await state.check_target()
        connection = state.connections.acquire()
        try:
            await state.wait_until_startable(self._stop_signal, connection)
            return await self._perform_on(connection)
        finally:
            state.connections.release(connection)

    async def _perform_on(self, connection: RunConnection) -> ActionEnd:
        state, progress = self._state, self._progress
        started_at = progress.started_at if progress is not None else state.tools.clock.now()
        entry = self.entry = state.journal.begin(
            self._action.key, self.number, started_at, progress=progress, uses_spool=False
        )
        entry.logged_in = connection.take_login_times()
        capture = Capture(entry, state.tools.limits.output_bytes, entry.stored)
        with tracing.span("transfer", direction=self._action.direction) as span:
            try:
                end = await Transfer(
                    self._build_order(capture, entry), connection, state.tools.transfers
                ).perform()
            except RemoteFailure as failure:
                end = outcomes.from_failure(failure)
            outcomes.mark_span(span, end)
        return replace(end, written=capture.finish())

    def _build_order(self, capture: Capture, entry: AttemptEntry) -> TransferOrder:
        state, progress, limits = self._state, self._progress, self._state.tools.limits
        timeout, spec = self._action.timeout, state.compiled_spec.spec
        written = state.compiled_spec.actions[self._action.key]
        named_by_parameter = isinstance(written, FrozenTransfer) and "${" in written.source
        return TransferOrder(
            self._action,
            state.journal.claimed,
            str(spec.execution_uuid),
            self.number,
            write_line=lambda text: capture.add(Output("stdout", text.encode())),
            note_contact=lambda there: (
                entry.regain_contact() if there else entry.lose_contact(state.tools.clock.now())
            ),
            stop_signal=self._stop_signal,
            clock=state.tools.clock,
            gone_seconds=progress.age_seconds if progress is not None else 0.0,
            timeout_seconds=limits.command_seconds if timeout is None else timeout,
            window_seconds=limits.reattach_seconds,
            requested_by=spec.requested_by if named_by_parameter else None,
        )
