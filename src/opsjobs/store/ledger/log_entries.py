"""The log's entries for a run's state and for an action's end."""

from __future__ import annotations

from opsjobs.model.execution import RunError, RunStatus, moment
from opsjobs.store.ledger.flush import LogLine, ResultState


def status_line(run_id: int, target_id: str, status: RunStatus, error: RunError | None) -> LogLine:
    """The log's entry for a run's new state."""
    body = {"target_run": run_id, "target": target_id, "status": status.value, "error": _error(error)}
    return LogLine(run_id, "status", body=body)


def result_line(state: ResultState, target_id: str) -> LogLine:
    """The log's entry for an action's end."""
    body = {
        "target_run": state.run_id,
        "target": target_id,
        "action_key": state.action,
        "attempt": state.attempt,
        "status": state.status.value,
        "exit_code": state.exit_code,
        "error": _error(state.error),
        "cancel_proof": state.cancel_proof and state.cancel_proof.value,
        "stdout_bytes": state.written[0],
        "stderr_bytes": state.written[1],
        "started_at": moment(state.started_at),
        "finished_at": moment(state.finished_at),
    }
    return LogLine(state.run_id, "result", state.action, state.attempt, body=body)


def _error(error: RunError | None) -> dict[str, str] | None:
    return {"code": error.code.value, "message": error.message} if error else None
