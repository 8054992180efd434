"""Actions that do nothing on the target: waits, approvals, other jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.engine.runs.cancellation import Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.programs import render_action
from opsjobs.engine.runs.run_journal import ActionEnd
from opsjobs.engine.runs.run_state import INLINE_WAIT_SECONDS, Deferred, RunState
from opsjobs.model.approval import Approval, ApprovalStatus
from opsjobs.model.errors import Conflict, Forbidden, Invalid, NotFound, RemoteFailure, Unavailable
from opsjobs.model.execution import (
    ErrorCode,
    Execution,
    ExecutionStatus,
    RunError,
    RunStatus,
    WaitingFor,
)
from opsjobs.model.units import parse_duration
from opsjobs.store.ledger import Progress

PASSIVE_TYPES = frozenset({"wait", "approval", "job"})
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


async def perform(
    state: RunState,
    action: Mapping[str, Any],
    progress: Progress | None,
    stop_signal: StopSignal,
    attempt: int,
) -> ActionEnd | Deferred:
    """Return how the action ended, or what it still waits for.

    Raises Interrupted, RemoteFailure.
    """
    match action["type"]:
        case "wait":
            return await _wait(state, action, progress, stop_signal)
        case "approval":
            return await _await_approval(state, action, stop_signal)
        case _:
            return await _await_child(state, action, attempt, stop_signal)


async def _wait(
    state: RunState, action: Mapping[str, Any], progress: Progress | None, stop_signal: StopSignal
) -> ActionEnd | Deferred:
    clock = state.tools.clock
    left = parse_duration(action["duration"]) - (
        progress.age_seconds if progress is not None else 0.0
    )
    deferred = Deferred(WaitingFor.TIMER, clock.monotonic() + left)
    try:
        # A stop ends the wait, however long it would have been.
        with stop_signal.interruptible():
            if 0 < left <= INLINE_WAIT_SECONDS:
                await clock.sleep(left)
    except Interrupted as stopped:
        if stopped.reason is StopReason.WORKER_STOPS:
            return deferred
        raise
    return deferred if left > INLINE_WAIT_SECONDS else ActionEnd(RunStatus.SUCCEEDED)


async def _await_approval(
    state: RunState, action: Mapping[str, Any], stop_signal: StopSignal
) -> ActionEnd | Deferred:
    asked = await _request_approval(state, action, stop_signal)
    match asked.status:
        case ApprovalStatus.APPROVED:
            return ActionEnd(RunStatus.SUCCEEDED)
        case ApprovalStatus.PENDING:
            return Deferred(WaitingFor.APPROVAL, awaits=action["key"])
    who = f" by {asked.decided_by}" if asked.decided_by else ""
    why = f": {asked.reason}" if asked.reason else ""
    message = f"the approval {action['key']!r} was {asked.status.value}{who}{why}"
    return ActionEnd(RunStatus.CANCELLED, error=RunError(ErrorCode.CANCELLED, message))


async def _await_child(
    state: RunState, action: Mapping[str, Any], attempt: int, stop_signal: StopSignal
) -> ActionEnd | Deferred:
    while True:
        with stop_signal.interruptible():
            pass
        try:
            rendered = render_action(state, action, attempt)
            child = await state.tools.child_executions.launch_or_get(
                state.compiled_spec.spec, state.journal.claimed, rendered, attempt
            )
        except (NotFound, Invalid, Conflict, Forbidden) as refused:
            message = f"the job {action['job']!r} cannot be launched: {refused}"
            raise RemoteFailure(
                _OF_REFUSAL.get(refused.code, ErrorCode.INTERNAL), message
            ) from None
        except Unavailable:
            with stop_signal.interruptible():
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


async def _request_approval(
    state: RunState, action: Mapping[str, Any], stop_signal: StopSignal
) -> Approval:
    while True:
        with stop_signal.interruptible():
            pass
        try:
            return await state.tools.approvals.ask(state.journal.claimed.execution_id, action)
        except Unavailable:
            with stop_signal.interruptible():
                await state.tools.clock.sleep(RETRY_SECONDS)
