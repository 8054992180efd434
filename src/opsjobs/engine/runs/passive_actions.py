"""Actions that do nothing on the target: waits, approvals, other jobs."""

from __future__ import annotations

from opsjobs.engine.runs.cancellation import Interrupted, StopReason
from opsjobs.engine.runs.run_journal import ActionEnd
from opsjobs.engine.runs.run_state import INLINE_WAIT_SECONDS, AttemptContext, Deferred
from opsjobs.model.action import FrozenApproval, FrozenJob, FrozenWait
from opsjobs.model.approval import Approval, ApprovalStatus
from opsjobs.model.errors import Conflict, Forbidden, Invalid, NotFound, RemoteFailure, Unavailable
from opsjobs.model.execution import (
    ErrorCode,
    ExecutionStatus,
    RunError,
    RunStatus,
    WaitingFor,
)
from opsjobs.model.run_views import Execution

RETRY_SECONDS = 0.5
_OF_CHILD = {
    ExecutionStatus.CANCELLED: (RunStatus.CANCELLED, ErrorCode.CANCELLED),
    ExecutionStatus.REJECTED: (RunStatus.CANCELLED, ErrorCode.CANCELLED),
    ExecutionStatus.TIMEOUT: (RunStatus.TIMEOUT, ErrorCode.COMMAND_TIMEOUT),
}
_OF_REFUSAL = {
    "safety_blocked": ErrorCode.SAFETY_BLOCKED,
    "target_changed": ErrorCode.TARGET_CHANGED,
}


async def wait(context: AttemptContext, action: FrozenWait) -> ActionEnd | Deferred:
    """Wait for the duration of the action, inline if it is short. Raises Interrupted."""
    clock, progress = context.state.tools.clock, context.progress
    left = action.duration - (progress.age_seconds if progress is not None else 0.0)
    deferred = Deferred(WaitingFor.TIMER, clock.monotonic() + left)
    try:
        # A stop ends the wait, even a long one.
        with context.stop_signal.interruptible():
            if 0 < left <= INLINE_WAIT_SECONDS:
                await clock.sleep(left)
    except Interrupted as stopped:
        if stopped.reason is StopReason.WORKER_STOPS:
            return deferred
        raise
    return deferred if left > INLINE_WAIT_SECONDS else ActionEnd(RunStatus.SUCCEEDED)


async def await_approval(context: AttemptContext, action: FrozenApproval) -> ActionEnd | Deferred:
    """Request the approval on the first call; return its outcome. Raises Interrupted."""
    asked = await _request_approval(context, action)
    match asked.status:
        case ApprovalStatus.APPROVED:
            return ActionEnd(RunStatus.SUCCEEDED)
        case ApprovalStatus.PENDING:
            return Deferred(WaitingFor.APPROVAL, awaits=action.key)
    who = f" by {asked.decided_by}" if asked.decided_by else ""
    why = f": {asked.reason}" if asked.reason else ""
    message = f"the approval {action.key!r} was {asked.status.value}{who}{why}"
    return ActionEnd(RunStatus.CANCELLED, error=RunError(ErrorCode.CANCELLED, message))


async def await_child(context: AttemptContext, action: FrozenJob) -> ActionEnd | Deferred:
    """Launch the job on the first call; return the result of its execution.

    Raises Interrupted, and RemoteFailure if it cannot be launched.
    """
    state = context.state
    while True:
        with context.stop_signal.interruptible():
            pass
        try:
            rendered = state.render(action, context.number)
            child = await state.tools.child_executions.launch_or_get(
                state.compiled_spec.spec, state.journal.claimed, rendered, context.number
            )
        except (NotFound, Invalid, Conflict, Forbidden) as refused:
            message = f"the job {action.job!r} cannot be launched: {refused}"
            raise RemoteFailure(
                _OF_REFUSAL.get(refused.code, ErrorCode.INTERNAL), message
            ) from None
        except Unavailable:
            with context.stop_signal.interruptible():
                await state.tools.clock.sleep(RETRY_SECONDS)
        else:
            return (
                Deferred(WaitingFor.CHILD, awaits=child.uuid)
                if child.finished_at is None
                else _child_end(child)
            )


def _child_end(child: Execution) -> ActionEnd:
    outputs = {"execution_id": child.id, "status": child.status.value}
    if child.status is ExecutionStatus.COMPLETED:
        return ActionEnd(RunStatus.SUCCEEDED, outputs=outputs)
    message = f"execution {child.id} of the job {child.job_name} ended {child.status.value}"
    status, code = _OF_CHILD.get(child.status, (RunStatus.FAILED, ErrorCode.NONZERO_EXIT))
    return ActionEnd(status, error=RunError(code, message), outputs=outputs)


async def _request_approval(context: AttemptContext, action: FrozenApproval) -> Approval:
    tools = context.state.tools
    while True:
        with context.stop_signal.interruptible():
            pass
        try:
            return await tools.approvals.ask(context.state.journal.claimed.execution_id, action)
        except Unavailable:
            with context.stop_signal.interruptible():
                await tools.clock.sleep(RETRY_SECONDS)
