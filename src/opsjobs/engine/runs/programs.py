"""What an action starts on its machine, with the values of the run in their places: its program, variables and secrets."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from opsjobs.engine.launching import job_secrets
from opsjobs.engine.runs.run_state import RunState
from opsjobs.model.action import line_of
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.quoting import Unquotable, shell_of
from opsjobs.model.secret import Credential
from opsjobs.model.template import TemplateFault


def rendered(state: RunState, action: Mapping[str, Any], attempt: int) -> Mapping[str, Any]:
    """The action with its values, as this attempt has them. Raises RemoteFailure(INTERNAL) where one cannot stand in its place."""
    if state.course.fault is not None:
        raise RemoteFailure(ErrorCode.INTERNAL, state.course.fault)
    rendering = state.course.renderings.get(action["key"])
    if rendering is None:
        return action
    state.check_heard(action["key"])
    platform = state.endpoint.target.platform if state.endpoint is not None else "linux"
    try:
        return rendering.of(state.values(action["key"], attempt), shell_of(platform))
    except (TemplateFault, Unquotable) as wrong:
        raise RemoteFailure(ErrorCode.INTERNAL, f"a value cannot be put in its place: {wrong}") from None


def plain(state: RunState, action: Mapping[str, Any]) -> bool:
    """Whether it is a command line with variables, and no more: nothing of it has to be looked at again for each run."""
    return bool(action["type"] == "command" and action.get("cwd") is None and action.get("stdin") is None) and not (
        state.course.secrets or state.course.kept or action.get("env") or action["key"] in state.course.renderings
    )


def as_run(state: RunState, action: Mapping[str, Any]) -> str | None:
    """The line of the action with its values, where the definition says another one."""
    if action["key"] not in state.course.renderings:
        return None
    line = line_of(action)
    return None if line == line_of(state.course.actions[action["key"]]) else line


def program_of(state: RunState, action: Mapping[str, Any], attempt: int, opened: Mapping[str, Credential]) -> Program:
    """What is started. Raises RemoteFailure: INTERNAL for what no machine can be given, CREDENTIAL_MISSING for a secret's fault.

    `opened`: the credentials that hold secrets of the job.
    """
    given: dict[str, Any] = {
        "env": environment(state, action, attempt),
        "cwd": action.get("cwd"),
        "stdin": None if action.get("stdin") is None else action["stdin"].encode(),
        "secrets": {**state.course.secrets, **job_secrets.values(state.course.kept, opened)},
    }
    try:
        if action["type"] == "command":
            return Program(command=action["command"], **given)
        return Program(script=_script(action), interpreter=action["interpreter"], args=tuple(action["args"]), **given)
    except ValueError as wrong:
        raise RemoteFailure(ErrorCode.INTERNAL, f"this cannot be started: {wrong}") from None


def environment(state: RunState, action: Mapping[str, Any], attempt: int) -> dict[str, str]:
    """The variables of every program of the run, and the action's own."""
    target = state.endpoint.target if state.endpoint is not None else None
    return {
        **(action.get("env") or {}),
        **state.course.environment,
        "OPSJOBS_TARGET": state.target_name,
        "OPSJOBS_HOST": target.host if target is not None else "",
        "OPSJOBS_ATTEMPT": str(attempt),
    }


def _script(action: Mapping[str, Any]) -> bytes:
    if action.get("script") is not None:
        return str(action["script"]).encode()
    return base64.b64decode(action["script_base64"])
