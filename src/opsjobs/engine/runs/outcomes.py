"""Derive the end of an action from the observations of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opsjobs.engine.runs.cancellation import StopReason
from opsjobs.engine.runs.run_journal import ActionEnd
from opsjobs.model.action_base import signed_exit_code
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus
from opsjobs.model.units import format_duration
from opsjobs.remote.session import RemoteExit
from opsjobs.store.ledger.claim import Progress
from opsjobs.telemetry.tracing import TraceSpan

# No code of its own: like an interpreter, the folder is missing on the target.
_UNSTARTED = {
    "interpreter": (ErrorCode.INTERPRETER_MISSING, "its interpreter is not on the target"),
    "folder": (ErrorCode.INTERPRETER_MISSING, "its working directory is not on the target"),
    "storage": (
        ErrorCode.TRANSFER,
        "the target could not store what it needs: check its free disk space",
    ),
}


def from_failure(failure: RemoteFailure) -> ActionEnd:
    """Return the end of an action that was ended by a failure of the machine."""
    return ActionEnd(failure.code.run_status, error=RunError(failure.code, failure.message))


def mark_span(span: TraceSpan, end: ActionEnd) -> None:
    """Annotate a span with the end of its action; error messages may hold secrets."""
    span.annotate(status=end.status.value)
    if end.error is not None:
        span.fail(end.error.code.value)


def from_progress(progress: Progress) -> ActionEnd:
    """Return the end of an action that ended before this worker had the run."""
    return ActionEnd(
        progress.status,
        progress.exit_code,
        progress.error,
        progress.cancel_proof,
        progress.stored,
        outputs=progress.outputs,
    )


def from_exit(exited: RemoteExit, expected: Sequence[int], seconds: float) -> ActionEnd:
    """Return the end of a command that ended by itself, or by the watchdog on the target.

    `seconds`: the action's timeout. If a part of the output may be missing, the error says so, and
    the status follows from the exit code all the same.
    """
    if exited.cause == "disk_full":
        return _incomplete(exited)
    if exited.cause is not None:
        return _caused(exited, seconds)
    if exited.code is None and exited.signal is None:
        # Network devices close the channel without an exit status on success: it is only certain
        # that the command ended.
        return ActionEnd(RunStatus.SUCCEEDED)
    if exited.code is None:
        text, code = f"ended by signal {exited.signal}", None
    else:
        text, code = f"exit status {exited.code}", signed_exit_code(exited.code)
    if exited.detail is not None:
        text = f"{text}; its output may be incomplete: {exited.detail}"
    if code is not None and code in expected:
        doubt = RunError(ErrorCode.OUTPUT_INCOMPLETE, text) if exited.detail is not None else None
        return ActionEnd(RunStatus.SUCCEEDED, code, doubt)
    return ActionEnd(RunStatus.FAILED, code, RunError(ErrorCode.NONZERO_EXIT, text))


def _incomplete(exited: RemoteExit) -> ActionEnd:
    """Return a failure for any exit status: some of the output is probably lost."""
    text = f"signal {exited.signal}" if exited.code is None else f"exit status {exited.code}"
    message = (
        f"the target's disk is full: output may be incomplete ({text}). Free space in the "
        "login's home or in /var/tmp."
    )
    code = None if exited.code is None else signed_exit_code(exited.code)
    return ActionEnd(RunStatus.FAILED, code, RunError(ErrorCode.DISK_FULL, message))


def _caused(exited: RemoteExit, seconds: float) -> ActionEnd:
    """Return the end of a program that was ended, or kept from starting, by something else.

    It has no exit code: that would not be the program's own.
    """
    match exited.cause:
        case "timeout":
            return replace(
                killed(StopReason.ACTION_TIMEOUT, seconds), cancel_proof=CancelProof.KILLED
            )
        case "output_limit":
            message = (
                "killed: its output grew over what the target may keep of it "
                "(OPSJOBS_SPOOL_LIMIT_BYTES)"
            )
            return ActionEnd(
                RunStatus.FAILED,
                error=RunError(ErrorCode.OUTPUT_LIMIT, message),
                cancel_proof=CancelProof.KILLED,
            )
        case "cancel":  # by a worker that died, or lost its connection, before it could record this
            return replace(killed(StopReason.CANCEL, seconds), cancel_proof=CancelProof.KILLED)
        case cause:
            assert cause is not None
            code, message = _UNSTARTED[cause]
            return ActionEnd(
                RunStatus.FAILED, error=RunError(code, f"not started: {exited.detail or message}")
            )


def killed(reason: StopReason, seconds: float) -> ActionEnd:
    """Return the end of a command that was killed by this worker."""
    if reason is StopReason.CANCEL:
        return ActionEnd(
            RunStatus.CANCELLED,
            error=RunError(ErrorCode.CANCELLED, "cancelled: the command was killed"),
        )
    limit = (
        f"the action's timeout of {format_duration(seconds)}"
        if reason is StopReason.ACTION_TIMEOUT
        else "the execution's timeout"
    )
    return ActionEnd(
        RunStatus.TIMEOUT, error=RunError(ErrorCode.COMMAND_TIMEOUT, f"killed: {limit} has passed")
    )


def never_started(reason: StopReason) -> ActionEnd:
    """Return the end of an action that was stopped before it started."""
    if reason is StopReason.CANCEL:
        error = RunError(ErrorCode.CANCELLED, "cancelled before it was started")
        return ActionEnd(RunStatus.CANCELLED, error=error, cancel_proof=CancelProof.NEVER_STARTED)
    error = RunError(
        ErrorCode.COMMAND_TIMEOUT, "the execution's timeout passed before it was started"
    )
    return ActionEnd(RunStatus.TIMEOUT, error=error, cancel_proof=CancelProof.NEVER_STARTED)


def from_kill(
    proof: CancelProof,
    exited: RemoteExit | None,
    reason: StopReason,
    expected: Sequence[int],
    seconds: float,
) -> ActionEnd:
    """Return the end of a command killed by this worker, derived from the proof of the kill."""
    if proof is CancelProof.ALREADY_FINISHED and exited is not None and exited.cause == "cancel":
        proof = CancelProof.KILLED  # by an earlier kill from this worker whose response was lost
    match proof:
        case CancelProof.ALREADY_FINISHED if exited is not None:
            end = from_exit(exited, expected, seconds)
        case CancelProof.KILLED:
            end = killed(reason, seconds)
        case CancelProof.NEVER_STARTED:
            end = never_started(reason)
        case _:
            message = "the connection was lost while killing the command: it may still be running"
            end = from_failure(RemoteFailure(ErrorCode.LOST, message))
    return replace(end, cancel_proof=proof)
