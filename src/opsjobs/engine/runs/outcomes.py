"""How an action ended, from what was seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opsjobs.engine.runs.cancellation import StopReason
from opsjobs.engine.runs.run_journal import ActionEnd
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus
from opsjobs.model.units import format_duration
from opsjobs.remote.session import RemoteExit
from opsjobs.store.ledger import Progress

# No code of its own: a folder that is missing is, like an interpreter, something that the target lacks.
_UNSTARTED = {
    "interpreter": (ErrorCode.INTERPRETER_MISSING, "its interpreter is not on the target"),
    "folder": (ErrorCode.INTERPRETER_MISSING, "its working directory is not on the target"),
    "storage": (ErrorCode.TRANSFER, "the target could not store what it needs (is its disk full?)"),
}


def failed(failure: RemoteFailure) -> ActionEnd:
    """Ended by what a machine did or did not do."""
    return ActionEnd(failure.code.run_status, error=RunError(failure.code, failure.message))


def recorded(seen: Progress) -> ActionEnd:
    """Ended before this worker had the run."""
    return ActionEnd(seen.status, seen.exit_code, seen.error, seen.cancel_proof, seen.stored, outputs=seen.outputs)


def judged(exited: RemoteExit, expected: Sequence[int], seconds: float) -> ActionEnd:
    """Ended by itself, or by the watchdog on the target (`seconds`: the action's timeout)."""
    if exited.cause == "disk_full":
        return _incomplete(exited)
    if exited.cause is not None:
        return _caused(exited, seconds)
    if exited.code is None and exited.signal is None:
        # Network devices close the channel without a word on success: all that can be known is that the command ended.
        return ActionEnd(RunStatus.SUCCEEDED)
    if exited.code is None:
        how, code = f"ended by signal {exited.signal}", None
    else:
        how, code = f"exit status {exited.code}", _int32(exited.code)
        if exited.code in expected:
            return ActionEnd(RunStatus.SUCCEEDED, code)
    return ActionEnd(RunStatus.FAILED, code, RunError(ErrorCode.NONZERO_EXIT, how))


def _incomplete(exited: RemoteExit) -> ActionEnd:
    """Failed whatever its status: some of its output is probably lost."""
    how = f"signal {exited.signal}" if exited.code is None else f"exit status {exited.code}"
    words = f"the target's disk is full: output may be incomplete ({how}). Free space in the login's home or in /var/tmp."
    code = None if exited.code is None else _int32(exited.code)
    return ActionEnd(RunStatus.FAILED, code, RunError(ErrorCode.DISK_FULL, words))


def _caused(exited: RemoteExit, seconds: float) -> ActionEnd:
    """Ended, or kept from beginning, by somebody else than the program: an exit status would not be its own, so there is none."""
    match exited.cause:
        case "timeout":
            return replace(killed(StopReason.ACTION_TIMEOUT, seconds), cancel_proof=CancelProof.KILLED)
        case "output_limit":
            words = "killed: its output grew over what the target may keep of it (OPSJOBS_SPOOL_LIMIT_BYTES)"
            return ActionEnd(RunStatus.FAILED, error=RunError(ErrorCode.OUTPUT_LIMIT, words), cancel_proof=CancelProof.KILLED)
        case "cancel":  # by a worker who died of it, or was heard no more
            return replace(killed(StopReason.CANCEL, seconds), cancel_proof=CancelProof.KILLED)
        case cause:
            assert cause is not None
            code, words = _UNSTARTED[cause]
            return ActionEnd(RunStatus.FAILED, error=RunError(code, f"not started: {exited.words or words}"))


def _int32(code: int) -> int:
    """As SSH and Windows mean it: 0xC000013A does not fit into the column, -1073741510 does."""
    return (code + (1 << 31)) % (1 << 32) - (1 << 31)


def killed(why: StopReason, seconds: float) -> ActionEnd:
    """Killed by us while it ran."""
    if why is StopReason.CANCEL:
        return ActionEnd(RunStatus.CANCELLED, error=RunError(ErrorCode.CANCELLED, "cancelled: the command was killed"))
    limit = (
        f"the action's timeout of {format_duration(seconds)}" if why is StopReason.ACTION_TIMEOUT else "the execution's timeout"
    )
    return ActionEnd(RunStatus.TIMEOUT, error=RunError(ErrorCode.COMMAND_TIMEOUT, f"killed: {limit} has passed"))


def unstarted(why: StopReason) -> ActionEnd:
    """Ended before anything of it was started."""
    if why is StopReason.CANCEL:
        error = RunError(ErrorCode.CANCELLED, "cancelled before it was started")
        return ActionEnd(RunStatus.CANCELLED, error=error, cancel_proof=CancelProof.NEVER_STARTED)
    error = RunError(ErrorCode.COMMAND_TIMEOUT, "the execution's timeout passed before it was started")
    return ActionEnd(RunStatus.TIMEOUT, error=error, cancel_proof=CancelProof.NEVER_STARTED)


def settled(proof: CancelProof, exited: RemoteExit | None, why: StopReason, expected: Sequence[int], seconds: float) -> ActionEnd:
    """Ended by a kill of ours, as its proof says."""
    if proof is CancelProof.ALREADY_FINISHED and exited is not None and exited.cause == "cancel":
        proof = CancelProof.KILLED  # by a kill of ours whose answer nobody heard
    match proof:
        case CancelProof.ALREADY_FINISHED if exited is not None:
            end = judged(exited, expected, seconds)
        case CancelProof.KILLED:
            end = killed(why, seconds)
        case CancelProof.NEVER_STARTED:
            end = unstarted(why)
        case _:
            words = "contact was lost while killing the command: it is perhaps still running"
            end = failed(RemoteFailure(ErrorCode.LOST, words))
    return replace(end, cancel_proof=proof)
