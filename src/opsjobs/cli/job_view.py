"""Display of a job: parameters, steps with their commands, non-default policy."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from opsjobs.cli.messages import plain

# Defaults, which are not shown.
_POLICY_DEFAULTS: Mapping[str, Any] = {
    "order": "inventory",
    "priority": 5,
    "on_lost": "ask",
    "durable": "auto",
    "hold_offline": "0s",
}
_STEP_DEFAULTS: Mapping[str, Any] = {
    "on_failure": "stop",
    "scope": "target",
    "durable": "auto",
    "expected_exit_codes": [0],
    "outputs": "none",
}
_RULES = (
    "pattern",
    "min",
    "max",
    "min_length",
    "max_length",
    "choices",
    "choices_by",
    "choices_url",
)
_OF_THE_HEAD = frozenset({"key", "type", "command", "script", "script_base64", "interpreter"})


def lines(job: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of `jobs show`."""
    yield (
        f"{plain(job['name'])}: {plain(job.get('status'))}, version {job.get('version')}, id "
        f"{job.get('id')}"
    )
    if job.get("description"):
        yield f"  {plain(job['description'])}"
    if job.get("tags"):
        yield f"tags: {plain(', '.join(job['tags']))}"
    yield f"targets: {_targets(job.get('targets') or {})}"
    if parameters := job.get("parameters"):
        yield "parameters:"
        for parameter in parameters:
            yield from _parameter(parameter)
    yield "steps:"
    for number, action in enumerate(job.get("actions") or (), start=1):
        yield from _step(number, action)
    if policy := drop_defaults(job.get("policy") or {}, _POLICY_DEFAULTS):
        yield "policy:"
        yield from (f"  {name}: {_value(value)}" for name, value in policy.items())
    if job.get("verdict") not in (None, "allow"):
        yield f"safety check: {plain(job['verdict'])}"
        yield from (
            f"  {plain(one.get('rule'))}: {plain(one.get('reason'))}"
            for one in job.get("findings") or ()
        )


def drop_defaults(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value which is not the default."""
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        shown = drop_defaults(value, {}) if isinstance(value, Mapping) else value
        if shown not in (None, False, "", [], {}) and shown != defaults.get(name):
            kept[name] = shown
    return kept


def _targets(targets: Mapping[str, Any]) -> str:
    parts = [f"{name} {_value(value)}" for name, value in drop_defaults(targets, {}).items()]
    return ", ".join(parts) or "none"


def _parameter(parameter: Mapping[str, Any]) -> Iterator[str]:
    kind = "secret" if parameter.get("secret") else str(parameter.get("type"))
    words = [kind]
    if parameter.get("from_credential"):
        words.append(f"from the credential {parameter['from_credential']}")
    elif parameter.get("default") is not None:
        words.append(f"default {_value(parameter['default'])}")
    else:
        words.append("required" if parameter.get("required") else "optional")
    words += [
        f"{name} {_value(parameter[name])}" for name in _RULES if parameter.get(name) is not None
    ]
    about = parameter.get("label") or parameter.get("description")
    yield (
        f"  {plain(parameter['name'])}: "
        f"{plain(', '.join(words))}{' - ' + plain(about) if about else ''}"
    )


def _step(number: int, action: Mapping[str, Any]) -> Iterator[str]:
    interpreter = f" ({plain(action['interpreter'])})" if action.get("interpreter") else ""
    yield f"  {number}. {plain(action.get('key'))}: {plain(action.get('type'))}{interpreter}"
    rest = drop_defaults(
        {name: value for name, value in action.items() if name not in _OF_THE_HEAD}, _STEP_DEFAULTS
    )
    yield from (f"       {name}: {_value(value)}" for name, value in rest.items())
    if (text := _program(action)) is not None:
        yield from (f"       | {plain(line)}" for line in text.rstrip("\n").split("\n"))


def _program(action: Mapping[str, Any]) -> str | None:
    if action.get("script_base64") is not None:
        return f"<{len(base64.b64decode(action['script_base64']))} bytes that are no text>"
    text = action.get("command") if action.get("command") is not None else action.get("script")
    return None if text is None else str(text)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{plain(name)} {_value(one)}" for name, one in value.items())
        case list():
            return ", ".join(_value(one) for one in value)
        case _:
            return plain(value)
