"""The spec of an execution, compiled once for all of its runs.

It consists of the workflow graph, the conditions, the templates and the variables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opsjobs.model.action import JobType, parse_frozen
from opsjobs.model.action_base import FrozenAction
from opsjobs.model.expression import Expression, Fault, NameScope, parse
from opsjobs.model.masking import NO_FORMS, Forms
from opsjobs.model.parameter import text_of
from opsjobs.model.pattern import pattern
from opsjobs.model.rendering import Rendering
from opsjobs.model.retry import RetryPolicy
from opsjobs.model.secret import JobSecret, Secret, is_secret
from opsjobs.model.template import TemplateNames
from opsjobs.model.workflow import Workflow
from opsjobs.store.ledger.claim import Spec

ONCE = RetryPolicy()
"""The policy of a job that does not mention retries."""

_STDOUT = re.compile(r"\$\{actions\.([a-z0-9][a-z0-9_-]*)\.stdout\}")
_SCOPE = NameScope(pattern=lambda text: pattern(text).matches)


@dataclass(frozen=True, slots=True)
class CompiledSpec:
    """A spec with everything that its runs need; mappings by action are keyed by action key."""

    spec: Spec
    workflow: Workflow
    actions: Mapping[str, FrozenAction]
    conditions: Mapping[str, Expression | Fault]
    """Conditions of the actions that have one; a Fault if it cannot be parsed."""
    renderings: Mapping[str, Rendering]
    """Templates of the actions that contain `${name}`."""
    hears: Mapping[str, frozenset[str]]
    """For each action that reads the stdout of other actions: the keys of those actions."""
    retries: Mapping[str, RetryPolicy]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of every program."""
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    """Secret parameters: the files of every program."""
    job_secrets: Mapping[str, JobSecret] = field(default_factory=dict)
    """Secrets held by credentials, by parameter; each run opens them."""
    forms: Forms = NO_FORMS
    """Spellings in which the secrets may appear in output, for redaction."""
    fault: str | None = None
    """The reason why no run of this execution can be started; None if they can."""

    @property
    def heard(self) -> frozenset[str]:
        """Actions whose stdout is read by others."""
        return frozenset[str]().union(*self.hears.values())

    @property
    def job_type(self) -> str:
        """The type that follows from the actions: command, script, file_transfer, composite."""
        return JobType.of_actions([str(action["type"]) for action in self.spec.actions]).value

    @property
    def on_lost(self) -> str:
        """The policy for a command whose outcome is unknown; `ask` by default."""
        return str(self.spec.policy.get("on_lost") or "ask")


def compile_spec(
    spec: Spec, parameters: Mapping[str, Any], *, forms: Forms = NO_FORMS, fault: str | None = None
) -> CompiledSpec:
    """Compile the spec of an execution with these parameters.

    The secrets among them are opened already, and `forms` are the forms of those. `fault`: the
    reason why the secrets are unavailable.
    """
    parsed = [parse_frozen(stored) for stored in spec.actions]
    actions = {action.key: action for action in parsed}
    stored_texts = zip(actions, map(json.dumps, spec.actions), strict=True)
    texts = {key: text for key, text in stored_texts if "${" in text}
    conditions = {
        key: _condition(action.when) for key, action in actions.items() if action.when is not None
    }
    secrets = {name: value for name, value in parameters.items() if isinstance(value, Secret)}
    kept = {name: value for name, value in parameters.items() if isinstance(value, JobSecret)}
    names = TemplateNames(frozenset(parameters), frozenset({*secrets, *kept}), frozenset(actions))
    retry = spec.policy.get("retry")
    usual = ONCE if retry is None else RetryPolicy.model_validate(retry)
    return CompiledSpec(
        spec=spec,
        workflow=Workflow(parsed),
        actions=actions,
        conditions=conditions,
        renderings={key: Rendering(actions[key], names) for key in texts},
        hears=_hears(conditions, texts),
        retries={key: action.retry or usual for key, action in actions.items()},
        parameters=parameters,
        environment=_environment(spec, parameters),
        secrets=secrets,
        job_secrets=kept,
        forms=forms,
        fault=fault,
    )


def _hears(
    conditions: Mapping[str, Expression | Fault], texts: Mapping[str, str]
) -> dict[str, frozenset[str]]:
    found = {key: set(_STDOUT.findall(text)) for key, text in texts.items()}
    for key, condition in conditions.items():
        names = condition.names if isinstance(condition, Expression) else ()
        heard = {name[1] for name in names if name[0] == "actions" and name[2:] == ("stdout",)}
        found.setdefault(key, set()).update(heard)
    return {key: frozenset(heard) for key, heard in found.items() if heard}


def _environment(spec: Spec, parameters: Mapping[str, Any]) -> dict[str, str]:
    known = {name: value for name, value in parameters.items() if not is_secret(value)}
    return {
        "OPSJOBS_EXECUTION": str(spec.execution_id),
        "OPSJOBS_JOB": spec.job_name,
        **{
            f"OPSJOBS_PARAM_{name.upper().replace('-', '_')}": text_of(value)
            for name, value in known.items()
        },
    }


def _condition(text: str) -> Expression | Fault:
    try:
        return parse(text, _SCOPE)
    except Fault as fault:
        return fault
