"""What is probably a mistake in a job, although it can be run: names that nothing replaces, and parameters that nothing reads."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from opsjobs.model.action import Action, CommandAction, ScriptAction
from opsjobs.model.errors import FieldError
from opsjobs.model.job import JobDraft
from opsjobs.model.parameter import ParameterDraft, variable_of

_HOLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_LABEL = re.compile(r"\$\{target\.labels\.([A-Za-z0-9_./-]+)\}")
# Names that a shell has a value for: it assigns them itself, or they look like variables of the environment.
_ASSIGNED = r"(?<![\w$])(?:{name}(?:\[[^\]]*\])?\+?=|(?:for|read|local|export|declare|readonly|select)\b[^;\n]*\b{name}\b)"


def doubts(draft: JobDraft, labels: Collection[str] | None) -> list[FieldError]:
    """Return the warnings of a job. `labels`: of all of its targets; None: they are not known."""
    actions = [(f"/actions/{position}", action) for position, action in enumerate(draft.actions)]
    if draft.policy.gate is not None and draft.policy.gate.check is not None:
        actions.append(("/policy/gate/check", draft.policy.gate.check))
    found: list[FieldError] = []
    for pointer, action in actions:
        found += _names(pointer, action, draft.parameters)
        found += _labels(pointer, action, labels)
    return [*found, *_unused(draft, [action for _, action in actions])]


def _names(pointer: str, action: Action, declared: Sequence[ParameterDraft]) -> Iterator[FieldError]:
    """Names in braces that are no parameters: the shell reads them, and mostly finds nothing."""
    known = {parameter.name for parameter in declared}
    if isinstance(action, ScriptAction):
        text = action.script or ""
        for name in sorted(known & set(_HOLE.findall(text))):
            if not _is_assigned(name, text):
                words = f"a script is not a template: ${{{name}}} is read by its interpreter. Read ${variable_of(name)} instead"
                yield FieldError(f"{pointer}/script", words, "unreplaced_name")
    for field, text in _templates(action):
        own = text if isinstance(action, CommandAction) else ""
        for name in dict.fromkeys(_HOLE.findall(text)):
            if name in known or name.isupper() or name in getattr(action, "env", {}) or _is_assigned(name, own):
                continue
            close = get_close_matches(name, known, 1)
            meant = f" Did you mean {close[0]}?" if close else ""
            words = f"no parameter is called {name}; the shell will read ${{{name}}}.{meant}"
            yield FieldError(f"{pointer}/{field}", words, "undeclared_name")


def _labels(pointer: str, action: Action, labels: Collection[str] | None) -> Iterator[FieldError]:
    for field, text in _templates(action):
        for name in dict.fromkeys(_LABEL.findall(text)):
            if labels is not None and name not in labels:
                words = f"no target of this job has the label {name}: ${{target.labels.{name}}} is empty"
                yield FieldError(f"{pointer}/{field}", words, "unknown_label")


def _templates(action: Action) -> Iterator[tuple[str, str]]:
    """The texts of an action in which values are replaced, with their places."""
    body: Mapping[str, Any] = action.model_dump(mode="json")
    for field in ("command", "cwd", "source", "destination"):
        if isinstance(body.get(field), str):
            yield field, body[field]
    for position, text in enumerate(body.get("args") or ()):
        yield f"args/{position}", str(text)
    for name, text in (body.get("env") or {}).items():
        yield f"env/{name}", str(text)


def _is_assigned(name: str, text: str) -> bool:
    return re.search(_ASSIGNED.format(name=re.escape(name)), text) is not None


def _unused(draft: JobDraft, actions: Sequence[Action]) -> Iterator[FieldError]:
    text = json.dumps([action.model_dump(mode="json") for action in actions], ensure_ascii=False)
    if any(isinstance(action, ScriptAction) and action.script is None for action in actions):
        return  # nobody can read it
    chosen_by = {parameter.choices_by.parameter for parameter in draft.parameters if parameter.choices_by is not None}
    for position, parameter in enumerate(draft.parameters):
        name = parameter.name
        marks = (f"${{{name}}}", f"parameters.{name}", f"parameters['{name}']", variable_of(name), "OPSJOBS_PARAM_$")
        secret = parameter.secret and "OPSJOBS_SECRETS" in text
        if name not in chosen_by and not secret and not any(mark in text for mark in marks):
            yield FieldError(f"/parameters/{position}", f"the parameter {name} is never used", "unused_parameter")
