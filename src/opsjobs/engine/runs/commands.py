"""Commands of a run: durable ones, and those that end with their channel.

Durable commands outlive their worker: they are started at most once, and reattached after
disconnects. They keep running if the worker has to leave. Whether a command was started is decided
on the target; the worker only queries that. Certain outcomes are recorded, uncertain ones are
`lost`.

Commands end with their channel for `durable: off`, and on targets without a spool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from opsjobs import failpoints
from opsjobs.backoff import Backoff
from opsjobs.clock import Clock, Timer
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.cancellation import (
    DETACHING,
    Detached,
    Interrupted,
    StopReason,
    StopSignal,
)
from opsjobs.engine.runs.output import Capture
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.model.action_base import FrozenRunningAction
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program, SpoolIdentity, StartOrder
from opsjobs.model.units import format_duration
from opsjobs.remote.session import (
    CancelOutcome,
    ContactLost,
    Durable,
    NotFollowed,
    NotStarted,
    RemoteExit,
    RemoteProcess,
    Session,
    SpoolChanged,
    SpoolUnavailable,
)

# How long a kill is retried while the machine is unreachable; then the run ends `lost`, and the
# remote cleanup continues.
KILL_SECONDS = 60.0
# The watchdog on the target enforces the timeout. The worker does so this much later, in case the
# watchdog was killed.
WATCHDOG_SECONDS = 15.0
REST_TRIES = 3
LEASE_PAUSE_SECONDS = 0.5
# If a machine's uptime is longer than the age of a start, it was up when the start was sent. The
# margin is needed because clocks run at different rates, and seconds are truncated.
UP_SECONDS, UP_SHARE = 2.0, 1.01
PAUSE_SECONDS = 0.2
PAUSE_SECONDS_MAX = 15.0
# Failures that a retry cannot fix; more login attempts would only lock the account.
_NOT_RETRIED = (
    ErrorCode.AUTH_FAILED,
    ErrorCode.HOST_KEY,
    ErrorCode.CREDENTIAL_MISSING,
    ErrorCode.BECOME_FAILED,
    ErrorCode.SAFETY_BLOCKED,
    ErrorCode.INTERNAL,
)


@dataclass(frozen=True, slots=True)
class Work:
    """One program to run: its action, the destinations of its output, and its limits."""

    action: FrozenRunningAction
    capture: Capture
    entry: AttemptEntry
    stop_signal: StopSignal
    clock: Clock
    timeout_seconds: float
    """The command is killed after this time."""
    grace_seconds: float
    """Seconds between TERM and KILL."""

    async def read(self, process: RemoteProcess) -> RemoteExit:
        """Read all output until the command ends. Raises RemoteFailure(LOST), or ContactLost."""
        async for piece in process:
            if isinstance(piece, RemoteExit):
                return piece
            self.capture.add(piece)
            await self.entry.run.wait_for_room()
        raise RemoteFailure(
            ErrorCode.LOST, "the channel ended without saying how the command ended"
        )


class DurableCommand:
    """One action of a run, performed as a durable command."""

    def __init__(
        self,
        work: Work,
        connection: RunConnection,
        order: StartOrder,
        identity: SpoolIdentity | None,
        *,
        reattach: bool,
        earliest_start: float,
        window_seconds: float,
        may_start: Callable[[], bool],
        check_target: Callable[[], Awaitable[None]],
        next_attempt: Callable[[], tuple[StartOrder, Work]],
    ) -> None:
        """Prepare the command; `perform` runs it.

        `identity`: the spool in which a start may have been sent. `reattach`: an earlier worker may
        have sent it, but not before `earliest_start` (monotonic). `window_seconds`: how long the
        machine may be unreachable. `check_target`: raises if nothing may be started on the machine
        any more.
        """
        self._work = work
        self._connection = connection
        self._order = order
        self._identity = identity
        self._unconfirmed_takeover = reattach
        self._may_have_started = reattach and identity is not None
        self._earliest_start = earliest_start if reattach else work.clock.monotonic()
        self._was_seen = False
        self._window_seconds = window_seconds
        self._may_start = may_start
        self._check_target = check_target
        self._next_attempt = next_attempt
        self._process: RemoteProcess | None = None
        self._lost_since: float | None = None
        self._backoff = Backoff(PAUSE_SECONDS, PAUSE_SECONDS_MAX, immediate=True)

    async def perform(self) -> ActionEnd:
        """Start the command or find it, follow it to its end, and return the end.

        Raises Detached if this worker has to leave: the command continues. Raises SpoolUnavailable
        if the machine cannot keep it and nothing was started, RemoteFailure(LOST) if the target
        shows that it no longer exists, and ContactLost if its outcome cannot be determined.
        """
        work = self._work
        try:
            with work.stop_signal.interruptible():
                exited = await self._follow()
            return outcomes.from_exit(exited, work.action.expected_exit_codes, work.timeout_seconds)
        except Interrupted as stopped:
            return await self._stop(stopped.reason)
        finally:
            work.stop_signal.clear(StopReason.ACTION_TIMEOUT)
            await self._close_process()

    async def _follow(self) -> RemoteExit:
        while True:
            try:
                self._process = await self._open()
                return await self._read(self._process)
            except SpoolChanged as differs:
                await self._trust_spool(differs.seen)
            except NotStarted as absent:
                await self._handle_not_started(absent)
            except SpoolUnavailable as reason:
                if not self._may_have_started:
                    raise
                raise ContactLost(
                    f"the command was started, and its machine cannot report its outcome: {reason}"
                ) from None
            except RemoteFailure as failure:
                self._note_loss(failure)
                await self._close_process()
                await self._connection.drop()
                await self._pause()

    async def _open(self) -> RemoteProcess:
        durable = await self._durable()
        if self._may_have_started and self._identity is not None:
            async with failpoints.at("attach"):
                process = await durable.attach(
                    self._order, self._identity, self._work.capture.wanted
                )
            self._was_seen = True
            self._mark_alive()
            return process
        return await self._start(durable)

    def _mark_alive(self) -> None:
        """Reset the poison counter of a run that was taken over; once only, as it costs a write."""
        if self._unconfirmed_takeover and self._identity is not None:
            self._unconfirmed_takeover = False
            self._work.entry.mark_alive()

    async def _start(self, durable: Durable) -> RemoteProcess:
        process: RemoteProcess | None = None
        # For a command that was to be reattached, and turned out never to have started.
        await self._check_target()
        while not self._may_start():
            # The lease is stale: nothing new starts until it is renewed or lost.
            await self._work.clock.sleep(LEASE_PAUSE_SECONDS)
        self._may_have_started = self._identity is not None  # a first connection starts nothing
        try:
            async with failpoints.at("start"):
                process = await durable.begin(self._order, self._identity)
        except (SpoolChanged, NotStarted, SpoolUnavailable):
            self._may_have_started = False
            raise
        except RemoteFailure as failure:
            if process is not None:
                await process.close()
                raise ContactLost(failure.message) from failure
            self._may_have_started = failure.code is ErrorCode.LOST
            raise
        self._was_seen = True
        return process

    async def _durable(self) -> Durable:
        durable = (await self._connection.session()).durable()
        if durable is None:
            raise SpoolUnavailable("its platform has no durable runs")
        return durable

    async def _read(self, process: RemoteProcess) -> RemoteExit:
        self._lost_since = None
        self._backoff.reset()
        self._work.entry.regain_contact()
        timer = self._start_fallback_watchdog()
        try:
            return await self._work.read(process)
        finally:
            timer.cancel()

    def _start_fallback_watchdog(self) -> Timer:
        work = self._work
        began = work.entry.started_at
        elapsed = (work.clock.now() - began).total_seconds() if began is not None else 0.0
        left = max(work.timeout_seconds - elapsed, 0.0) + work.grace_seconds + WATCHDOG_SECONDS
        return work.clock.later(left, lambda: work.stop_signal.request(StopReason.ACTION_TIMEOUT))

    async def _trust_spool(self, seen: SpoolIdentity) -> None:
        """Record a new spool identity before anything is started in that spool."""
        if self._may_have_started and self._identity is not None:
            message = (
                "its home is another one, or empty, since the command was started there: whether "
                "it ran to its end is unknown"
            )
            raise ContactLost(message)
        self._identity = seen
        self._work.entry.record_spool(seen)
        await self._flush()

    async def _handle_not_started(self, absent: NotStarted) -> None:
        if not self._certainly_never_started(absent):
            message = (
                f"{self._order.key} is not in its machine's records any more (possibly a reboot): "
                "whether it ran to its end is unknown"
            )
            raise RemoteFailure(ErrorCode.LOST, message)
        if not absent.settled:
            self._may_have_started = False
            return
        # The worker that voided this start may have cancelled the run: only the current owner may
        # continue with the next attempt.
        self._order, self._work = self._next_attempt()
        await self._flush()

    def _certainly_never_started(self, absent: NotStarted) -> bool:
        """Return True if it is certain that the command never started."""
        if absent.up_seconds is None:
            # A command that was seen running, or wrote output, had started: its record was removed.
            return absent.settled or not (self._was_seen or any(self._work.capture.written))
        age_seconds = self._work.clock.monotonic() - self._earliest_start
        was_seen = self._was_seen or any(self._work.capture.written)
        return not was_seen and absent.up_seconds > age_seconds * UP_SHARE + UP_SECONDS

    async def _flush(self) -> None:
        await self._work.entry.run.flush()
        if self._work.entry.run.stale:
            raise Detached(StopReason.OWNERSHIP_LOST)

    def _note_loss(self, failure: RemoteFailure) -> None:
        """Return if another attempt to find the command makes sense; raise if not."""
        is_gone = failure.code is ErrorCode.LOST and not isinstance(failure, ContactLost)
        if is_gone or isinstance(failure, NotFollowed) or not self._may_have_started:
            raise failure
        passes = failure.code is ErrorCode.CREDENTIAL_MISSING and failure.offline
        if not passes and (failure.code in _NOT_RETRIED or failure.because in _NOT_RETRIED):
            raise ContactLost(
                f"the command was started, but the host now rejects our login: {failure.message}"
            ) from failure
        self._work.entry.lose_contact(self._work.clock.now())
        now = self._work.clock.monotonic()
        self._lost_since = now if self._lost_since is None else self._lost_since
        if now - self._lost_since > self._window_seconds:
            window = format_duration(self._window_seconds)
            message = (
                f"the connection was lost for more than {window}, and the command may still be "
                f"running: {failure.message}"
            )
            raise ContactLost(message) from failure

    async def _pause(self) -> None:
        seconds = self._backoff.next()
        if seconds:
            await self._work.clock.sleep(seconds)

    async def _close_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.close()

    async def _stop(self, reason: StopReason) -> ActionEnd:
        """Stop the command or make sure it never starts; derive the end from the target's proof."""
        work = self._work
        if reason in DETACHING:
            raise Detached(reason)
        await self._close_process()
        try:
            with work.stop_signal.interruptible(except_for=reason):
                settlement = await self._cancel_until_proven()
                exited = await self._read_rest() if settlement.exit is not None else None
        except Interrupted as stopped:
            raise Detached(stopped.reason) from None
        exited = exited or settlement.exit
        return outcomes.from_kill(
            settlement.proof,
            exited,
            reason,
            work.action.expected_exit_codes,
            work.timeout_seconds,
        )

    async def _cancel_until_proven(self) -> CancelOutcome:
        if not self._may_have_started:
            return CancelOutcome(CancelProof.NEVER_STARTED)
        until = self._work.clock.monotonic() + KILL_SECONDS
        self._backoff.reset()
        while True:
            try:
                durable = await self._durable()
                async with failpoints.at("cancel"):
                    settlement = await self._cancel_once(durable)
            except (RemoteFailure, SpoolUnavailable):
                settlement = CancelOutcome(CancelProof.UNREACHABLE)
            if (
                settlement.proof is not CancelProof.UNREACHABLE
                or self._work.clock.monotonic() > until
            ):
                return settlement
            self._work.entry.lose_contact(self._work.clock.now())
            await self._connection.drop()
            await self._pause()

    async def _cancel_once(self, durable: Durable) -> CancelOutcome:
        settlement = await durable.cancel(
            self._order.key, self._work.grace_seconds, self._order.become
        )
        if (
            settlement.proof is not CancelProof.NEVER_STARTED
            or await durable.identity(self._order.become) == self._identity
        ):
            return settlement
        # This spool has no record of a start in another spool; that other one may, after a reboot.
        return (
            settlement
            if await self._confirm_never_started(durable)
            else CancelOutcome(CancelProof.UNREACHABLE)
        )

    async def _confirm_never_started(self, durable: Durable) -> bool:
        if self._identity is None:
            return True
        try:
            await (
                await durable.attach(self._order, self._identity, self._work.capture.wanted)
            ).close()
        except NotStarted as absent:
            return self._certainly_never_started(absent)
        except SpoolChanged:
            pass
        return False

    async def _read_rest(self) -> RemoteExit | None:
        """Read the command's output to its end: the target still has all of it."""
        if self._identity is None:
            return None
        for _ in range(REST_TRIES):
            try:
                self._process = await (await self._durable()).attach(
                    self._order, self._identity, self._work.capture.wanted
                )
                return await self._work.read(self._process)
            except (RemoteFailure, SpoolUnavailable, SpoolChanged, NotStarted):
                await self._close_process()
                await self._connection.drop()
        return None


class DirectCommand:
    """Starts a command over a session and holds its channel until the command ends."""

    def __init__(self, work: Work, command: str | Program) -> None:
        self._work = work
        self._command = command

    async def perform(self, session: Session) -> ActionEnd:
        """Start the command, read its output, and return the command's end; a stop kills it.

        Raises RemoteFailure.
        """
        # Not interruptible: after an aborted start it is unknown whether the command runs.
        work = self._work
        async with failpoints.at("start"):
            process = await session.start(self._command)
        timer = work.clock.later(
            work.timeout_seconds, lambda: work.stop_signal.request(StopReason.ACTION_TIMEOUT)
        )
        try:
            with work.stop_signal.interruptible():
                exited = await work.read(process)
            return outcomes.from_exit(exited, work.action.expected_exit_codes, work.timeout_seconds)
        except Interrupted as stopped:
            return await self._stop(process, stopped.reason)
        finally:
            timer.cancel()
            work.stop_signal.clear(StopReason.ACTION_TIMEOUT)
            await process.close()

    async def _stop(self, process: RemoteProcess, reason: StopReason) -> ActionEnd:
        """Kill the command, read the rest of its output, and derive its end from the proof."""
        work = self._work
        if reason in DETACHING:
            return outcomes.from_failure(
                RemoteFailure(
                    ErrorCode.LOST, "its worker was stopped while the command was running"
                )
            )
        reader = asyncio.create_task(work.read(process))
        try:
            proof = await process.kill(work.grace_seconds)
        finally:
            exited = await _finish_within(reader, work.grace_seconds)
        return outcomes.from_kill(
            proof, exited, reason, work.action.expected_exit_codes, work.timeout_seconds
        )


async def _finish_within(reader: asyncio.Task[RemoteExit], seconds: float) -> RemoteExit | None:
    await asyncio.wait({reader}, timeout=seconds)
    if not reader.done():
        reader.cancel()
        await asyncio.wait({reader})
    return None if reader.cancelled() or reader.exception() is not None else reader.result()
