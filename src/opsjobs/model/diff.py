"""The differences of two job definitions, and a definition without its defaults."""

from __future__ import annotations

from typing import Any

from opsjobs.model.job import JobDraft


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Return JSON Pointers to what differs; of a list whose length changed, only the list.

    >>> differences({"a": [1, 2], "b": 3}, {"a": [1, 5], "c": 3})
    ['/a/1', '/b', '/c']"""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new})
            for found in _differences_at(old, new, key, f"{at}/{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [
            found for position, (a, b) in pairs for found in differences(a, b, f"{at}/{position}")
        ]
    return [] if old == new else [at or "/"]


def _differences_at(old: dict[str, Any], new: dict[str, Any], key: str, at: str) -> list[str]:
    return differences(old[key], new[key], at) if key in old and key in new else [at]


def export_definition(draft: JobDraft) -> dict[str, Any]:
    """Return the body of POST /jobs that creates this job, without defaults.

    People keep it in a file."""
    body = draft.model_dump(mode="json", exclude_defaults=True)
    body["actions"] = [_action(draft, position) for position in range(len(draft.actions))]
    kept = {
        key: value for key, value in body.items() if value not in ({}, []) and key != "job_type"
    }
    # The type follows from the actions, unless the caller chose another one.
    same = JobDraft.model_validate(kept, context={"stored": True}).job_type is draft.job_type
    return kept if same else {**kept, "job_type": body["job_type"]}


def _action(draft: JobDraft, position: int) -> dict[str, Any]:
    action = draft.actions[position]
    shown = action.model_dump(mode="json", exclude_defaults=True)
    named = {} if action.key == f"step-{position + 1}" else {"key": action.key}
    return {
        **named,
        "type": action.type,
        **{name: value for name, value in shown.items() if name not in ("key", "type")},
    }
