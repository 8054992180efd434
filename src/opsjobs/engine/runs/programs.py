"""Build what an action starts on its machine, with the values of the run filled in."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from opsjobs.engine.run_credentials import resolve_job_secrets
from opsjobs.engine.runs.run_state import RunState
from opsjobs.model.action import line_of
from opsjobs.model.capabilities import POSIX
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.quoting import Unquotable
from opsjobs.model.secret import Credential
from opsjobs.model.template import TemplateFault


def render_action(state: RunState, action: Mapping[str, Any], attempt: int) -> Mapping[str, Any]:
    """Return the action with its values filled in, for this attempt.

    Raises RemoteFailure(INTERNAL) if a value cannot be filled in.
    """
    if state.compiled_spec.fault is not None:
        raise RemoteFailure(ErrorCode.INTERNAL, state.compiled_spec.fault)
    rendering = state.compiled_spec.renderings.get(action["key"])
    if rendering is None:
        return action
    state.check_heard(action["key"])
    capabilities = state.endpoint.target.capabilities if state.endpoint is not None else POSIX
    try:
        return rendering.render(state.values(action["key"], attempt), capabilities.quoting)
    except (TemplateFault, Unquotable) as error:
        raise RemoteFailure(ErrorCode.INTERNAL, f"a value cannot be filled in: {error}") from None


def is_plain_command(state: RunState, action: Mapping[str, Any]) -> bool:
    """Return True for a plain command line with variables: nothing depends on the single run."""
    return bool(
        action["type"] == "command" and action.get("cwd") is None and action.get("stdin") is None
    ) and not (
        state.compiled_spec.secrets
        or state.compiled_spec.job_secrets
        or action.get("env")
        or action["key"] in state.compiled_spec.renderings
    )


def rendered_command(state: RunState, action: Mapping[str, Any]) -> str | None:
    """Return the action's command line with its values; None if the definition has the same."""
    if action["key"] not in state.compiled_spec.renderings:
        return None
    line = line_of(action)
    return None if line == line_of(state.compiled_spec.actions[action["key"]]) else line


def build_program(
    state: RunState, action: Mapping[str, Any], attempt: int, opened: Mapping[str, Credential]
) -> Program:
    """Return the program to start.

    `opened`: the credentials that hold secrets of the job. Raises RemoteFailure: INTERNAL for a
    program that no machine accepts, CREDENTIAL_MISSING for a secret's fault.
    """
    given: dict[str, Any] = {
        "env": build_environment(state, action, attempt),
        "cwd": action.get("cwd"),
        "stdin": None if action.get("stdin") is None else action["stdin"].encode(),
        "secrets": {
            **state.compiled_spec.secrets,
            **resolve_job_secrets(state.compiled_spec.job_secrets, opened),
        },
    }
    try:
        if action["type"] == "command":
            return Program(command=action["command"], **given)
        return Program(
            script=_script(action),
            interpreter=action["interpreter"],
            args=tuple(action["args"]),
            **given,
        )
    except ValueError as error:
        raise RemoteFailure(ErrorCode.INTERNAL, f"this cannot be started: {error}") from None


def build_environment(state: RunState, action: Mapping[str, Any], attempt: int) -> dict[str, str]:
    """Return the variables of every program of the run, and the action's own."""
    target = state.endpoint.target if state.endpoint is not None else None
    return {
        **(action.get("env") or {}),
        **state.compiled_spec.environment,
        "OPSJOBS_TARGET": state.target_name,
        "OPSJOBS_HOST": target.host if target is not None else "",
        "OPSJOBS_ATTEMPT": str(attempt),
    }


def _script(action: Mapping[str, Any]) -> bytes:
    if action.get("script") is not None:
        return str(action["script"]).encode()
    return base64.b64decode(action["script_base64"])
