"""Warnings about probable mistakes in a job: undeclared names and unused parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain, islice
from typing import Any

from opsjobs.model.action import Action, CommandAction, ScriptAction
from opsjobs.model.errors import FieldError
from opsjobs.model.job import JobDraft
from opsjobs.model.parameter import ParameterDraft, variable_of

_HOLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_LABEL = re.compile(r"\$\{target\.labels\.([A-Za-z0-9_./-]+)\}")
# Names that have a value in a shell: the script assigns them, or they look like environment
# variables. Texts are sent by callers and scanned within requests: each is scanned once, in
# time linear in its length.
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_ASSIGNS = re.compile(r"(?:\[[^\]\n]{0,200}\])?\+?=")
_DECLARES = re.compile(r"(?:for|read|local|export|declare|readonly|select)\b([^;\n]*)")
_NAME_CHARACTERS_MAX = 64
DOUBTS_MAX = 100
"""The maximum number of warnings for one job."""


def doubts(draft: JobDraft, labels: Collection[str] | None) -> list[FieldError]:
    """Return the warnings for a job. `labels`: those of all of its targets; None: unknown."""
    actions = [(f"/actions/{position}", action) for position, action in enumerate(draft.actions)]
    if draft.policy.gate is not None and draft.policy.gate.check is not None:
        actions.append(("/policy/gate/check", draft.policy.gate.check))
    each = (_warnings_of(pointer, action, draft.parameters, labels) for pointer, action in actions)
    found = chain(chain.from_iterable(each), _unused(draft, [action for _, action in actions]))
    return list(islice(found, DOUBTS_MAX))


def _warnings_of(
    pointer: str, action: Action, declared: Sequence[ParameterDraft], labels: Collection[str] | None
) -> Iterator[FieldError]:
    yield from _names(pointer, action, declared)
    yield from _labels(pointer, action, labels)


def _names(
    pointer: str, action: Action, declared: Sequence[ParameterDraft]
) -> Iterator[FieldError]:
    """Yield warnings for names in braces that are not parameters.

    The shell expands them, mostly to an empty text."""
    known = {parameter.name for parameter in declared}
    if isinstance(action, ScriptAction):
        text = action.script or ""
        read = known & set(_HOLE.findall(text))
        for name in sorted(read - _assigned(text)) if read else ():
            words = (
                f"a script is not a template: ${{{name}}} is read by its interpreter. Read "
                f"${variable_of(name)} instead"
            )
            yield FieldError(f"{pointer}/script", words, "unreplaced_name")
    for field, text in _templates(action):
        assigned = _assigned(text) if isinstance(action, CommandAction) and "${" in text else set()
        for name in dict.fromkeys(_HOLE.findall(text)):
            if (
                name in known
                or name.isupper()
                or name in getattr(action, "env", {})
                or name in assigned
            ):
                continue
            close = get_close_matches(name, known, 1)
            meant = f" Did you mean {close[0]}?" if close else ""
            words = f"no parameter is called {name}; the shell will read ${{{name}}}.{meant}"
            yield FieldError(f"{pointer}/{field}", words, "undeclared_name")


def _labels(pointer: str, action: Action, labels: Collection[str] | None) -> Iterator[FieldError]:
    for field, text in _templates(action):
        for name in dict.fromkeys(_LABEL.findall(text)):
            if labels is not None and name not in labels:
                words = (
                    f"no target of this job has the label {name}: ${{target.labels.{name}}} is "
                    "empty"
                )
                yield FieldError(f"{pointer}/{field}", words, "unknown_label")


def _templates(action: Action) -> Iterator[tuple[str, str]]:
    """Yield the texts of an action in which values are replaced, with their paths."""
    body: Mapping[str, Any] = action.model_dump(mode="json")
    for field in ("command", "cwd", "source", "destination"):
        if isinstance(body.get(field), str):
            yield field, body[field]
    for position, text in enumerate(body.get("args") or ()):
        yield f"args/{position}", str(text)
    for name, text in (body.get("env") or {}).items():
        yield f"env/{name}", str(text)


def _assigned(text: str) -> set[str]:
    """Return the names that the text assigns."""
    found: set[str] = set()
    for word in _WORD.finditer(text):
        before = text[word.start() - 1] if word.start() else ""
        if before != "$" and _ASSIGNS.match(text, word.end()):
            found |= _endings(word[0])
    for declared in _DECLARES.finditer(text):
        for word in _WORD.finditer(declared[1]):
            found |= _endings(word[0]) | set(re.findall(r"\w+", word[0]))
    return found


def _endings(word: str) -> set[str]:
    """Return the names that a word may end with.

    A name may contain a hyphen, and a hyphen may also precede it."""
    end = word[-_NAME_CHARACTERS_MAX:]
    return {end, *(end[at + 1 :] for at, character in enumerate(end) if character == "-")}


def _unused(draft: JobDraft, actions: Sequence[Action]) -> Iterator[FieldError]:
    text = json.dumps([action.model_dump(mode="json") for action in actions], ensure_ascii=False)
    if any(isinstance(action, ScriptAction) and action.script is None for action in actions):
        return  # an encoded script cannot be searched
    chosen_by = {
        parameter.choices_by.parameter
        for parameter in draft.parameters
        if parameter.choices_by is not None
    }
    for position, parameter in enumerate(draft.parameters):
        name = parameter.name
        marks = (
            f"${{{name}}}",
            f"parameters.{name}",
            f"parameters['{name}']",
            variable_of(name),
            "OPSJOBS_PARAM_$",
        )
        secret = parameter.secret and "OPSJOBS_SECRETS" in text
        if name not in chosen_by and not secret and not any(mark in text for mark in marks):
            yield FieldError(
                f"/parameters/{position}", f"the parameter {name} is never used", "unused_parameter"
            )
