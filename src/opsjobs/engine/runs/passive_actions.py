"""Actions that start nothing on the target: a time that passes, people who are asked, another job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.engine.runs.cancellation import Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.programs import rendered
from opsjobs.engine.runs.run_journal import ActionEnd
from opsjobs.engine.runs.run_state import SHORT_SECONDS, Later, RunState
from opsjobs.model.approval import Approval, ApprovalStatus
from opsjobs.model.errors import Conflict, Forbidden, Invalid, NotFound, RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode, Execution, ExecutionStatus, RunError, RunStatus, WaitingFor
from opsjobs.model.units import parse_duration
from opsjobs.store.ledger import Progress

KINDS = frozenset({"wait", "approval", "job"})
AGAIN_SECONDS = 0.5
_OF_CHILD = {
    ExecutionStatus.CANCELLED: (RunStatus.CANCELLED, ErrorCode.CANCELLED),
    ExecutionStatus.REJECTED: (RunStatus.CANCELLED, ErrorCode.CANCELLED),
    ExecutionStatus.TIMEOUT: (RunStatus.TIMEOUT, ErrorCode.COMMAND_TIMEOUT),
}
_OF_REFUSAL = {"safety_blocked": ErrorCode.SAFETY_BLOCKED, "target_changed": ErrorCode.TARGET_CHANGED}


async def waited(
    state: RunState, action: Mapping[str, Any], seen: Progress | None, stops: StopSignal, attempt: int
) -> ActionEnd | Later:
    """Whether it is over. Raises Interrupted, RemoteFailure."""
    match action["type"]:
        case "wait":
            return await _time(state, action, seen, stops)
        case "approval":
            return await _approval(state, action, stops)
        case _:
            return await _child(state, action, attempt, stops)


async def _time(state: RunState, action: Mapping[str, Any], seen: Progress | None, stops: StopSignal) -> ActionEnd | Later:
    clock = state.tools.clock
    left = parse_duration(action["duration"]) - (seen.age_seconds if seen is not None else 0.0)
    later = Later(WaitingFor.TIMER, clock.monotonic() + left)
    try:
        # Who was told to stop waits for nothing any more, however long it would have been.
        with stops.here():
            if 0 < left <= SHORT_SECONDS:
                await clock.sleep(left)
    except Interrupted as stopped:
        if stopped.why is StopReason.WORKER_STOPS:
            return later
        raise
    return later if left > SHORT_SECONDS else ActionEnd(RunStatus.SUCCEEDED)


async def _approval(state: RunState, action: Mapping[str, Any], stops: StopSignal) -> ActionEnd | Later:
    asked = await _asked(state, action, stops)
    match asked.status:
        case ApprovalStatus.APPROVED:
            return ActionEnd(RunStatus.SUCCEEDED)
        case ApprovalStatus.PENDING:
            return Later(WaitingFor.APPROVAL, awaits=action["key"])
    who = f" by {asked.decided_by}" if asked.decided_by else ""
    why = f": {asked.reason}" if asked.reason else ""
    words = f"the approval {action['key']!r} was {asked.status.value}{who}{why}"
    return ActionEnd(RunStatus.CANCELLED, error=RunError(ErrorCode.CANCELLED, words))


async def _child(state: RunState, action: Mapping[str, Any], attempt: int, stops: StopSignal) -> ActionEnd | Later:
    while True:
        with stops.here():
            pass
        try:
            given = rendered(state, action, attempt)
            child = await state.tools.children.child(state.course.spec, state.record.claimed, given, attempt)
        except (NotFound, Invalid, Conflict, Forbidden) as refused:
            words = f"the job {action['job']!r} cannot be launched: {refused}"
            raise RemoteFailure(_OF_REFUSAL.get(refused.code, ErrorCode.INTERNAL), words) from None
        except Unavailable:
            with stops.here():
                await state.tools.clock.sleep(AGAIN_SECONDS)
        else:
            return Later(WaitingFor.CHILD, awaits=child.uuid) if child.finished_at is None else _ended(child)


def _ended(child: Execution) -> ActionEnd:
    outputs = {"execution_id": child.id, "status": child.status.value}
    if child.status is ExecutionStatus.COMPLETED:
        return ActionEnd(RunStatus.SUCCEEDED, outputs=outputs)
    words = f"execution {child.id} of the job {child.job_name} ended {child.status.value}"
    status, code = _OF_CHILD.get(child.status, (RunStatus.FAILED, ErrorCode.NONZERO_EXIT))
    return ActionEnd(status, error=RunError(code, words), outputs=outputs)


async def _asked(state: RunState, action: Mapping[str, Any], stops: StopSignal) -> Approval:
    while True:
        with stops.here():
            pass
        try:
            return await state.tools.approving.ask(state.record.claimed.execution_id, action)
        except Unavailable:
            with stops.here():
                await state.tools.clock.sleep(AGAIN_SECONDS)
