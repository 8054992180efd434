"""Build the program that an action starts on its machine, with the run's values filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from opsjobs.engine.run_credentials import resolve_job_secrets
from opsjobs.engine.runs.run_state import RunState
from opsjobs.model.action import CommandAction
from opsjobs.model.action_base import FrozenAction, FrozenRunningAction
from opsjobs.model.capabilities import POSIX
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.quoting import Unquotable
from opsjobs.model.credential import Credential
from opsjobs.model.template import TemplateFault

A = TypeVar("A", bound=FrozenAction)


def render_action(state: RunState, action: A, attempt: int) -> A:
    """Return the action with its values filled in, for this attempt.

    Raises RemoteFailure(INTERNAL) if a value cannot be filled in.
    """
    if state.compiled_spec.fault is not None:
        raise RemoteFailure(ErrorCode.INTERNAL, state.compiled_spec.fault)
    rendering = state.compiled_spec.renderings.get(action.key)
    if rendering is None:
        return action
    state.check_heard(action.key)
    capabilities = state.endpoint.target.capabilities if state.endpoint is not None else POSIX
    try:
        rendered = rendering.render(state.values(action.key, attempt), capabilities.quoting)
    except (TemplateFault, Unquotable) as error:
        raise RemoteFailure(ErrorCode.INTERNAL, f"a value cannot be filled in: {error}") from None
    assert isinstance(rendered, type(action)), "rendering keeps the type"
    return rendered


def is_plain_command(state: RunState, action: FrozenRunningAction) -> bool:
    """Return True for a plain command line with variables, which does not depend on the run."""
    spec = state.compiled_spec
    return (
        isinstance(action, CommandAction)
        and action.cwd is None
        and action.stdin is None
        and not (spec.secrets or spec.job_secrets or action.env or action.key in spec.renderings)
    )


def rendered_command(state: RunState, action: FrozenRunningAction) -> str | None:
    """Return the rendered command line; None if it equals the one in the definition."""
    written = state.compiled_spec.actions[action.key]
    assert isinstance(written, FrozenRunningAction), "rendering keeps the type"
    return None if action.line == written.line else action.line


def build_program(
    state: RunState, action: FrozenRunningAction, attempt: int, opened: Mapping[str, Credential]
) -> Program:
    """Return the program to start.

    `opened`: the credentials that hold job secrets. Raises RemoteFailure: INTERNAL for a program
    that no machine accepts, CREDENTIAL_MISSING if a secret has a fault.
    """
    spec = state.compiled_spec
    inputs: dict[str, Any] = {
        "env": build_environment(state, action, attempt),
        "cwd": action.cwd,
        "stdin": None if action.stdin is None else action.stdin.encode(),
        "secrets": {**spec.secrets, **resolve_job_secrets(spec.job_secrets, opened)},
    }
    try:
        return action.program(**inputs)
    except ValueError as error:
        raise RemoteFailure(ErrorCode.INTERNAL, f"this cannot be started: {error}") from None


def build_environment(state: RunState, action: FrozenRunningAction, attempt: int) -> dict[str, str]:
    """Return the variables common to every program of the run, and the action's own."""
    target = state.endpoint.target if state.endpoint is not None else None
    return {
        **action.env,
        **state.compiled_spec.environment,
        "OPSJOBS_TARGET": state.target_name,
        "OPSJOBS_HOST": target.host if target is not None else "",
        "OPSJOBS_ATTEMPT": str(attempt),
    }
