"""Actions and policies as an approver reads them.

All fields that do not have their default are shown; scripts are decoded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from opsjobs.model.action import (
    ApprovalAction,
    CommandAction,
    FileTransferAction,
    JobAction,
    ScriptAction,
    WaitAction,
)
from opsjobs.model.policy import Policy

_KINDS: Mapping[str, type[BaseModel]] = {
    "command": CommandAction,
    "script": ScriptAction,
    "file_transfer": FileTransferAction,
    "wait": WaitAction,
    "approval": ApprovalAction,
    "job": JobAction,
}
# Fields in the first line.
_HEADLINE = ("key", "type", "command", "job")
_NOTHING: tuple[object, ...] = (None, "", [], {})


def action_lines(action: Mapping[str, Any]) -> list[str]:
    """Return the lines of one action: its key, what it starts, and each non-default field."""
    kind = str(
        action.get("type")
        or ("script" if "script" in action or "script_base64" in action else "command")
    )
    what = action.get("command") or action.get("job")
    if kind != "command":
        what = f"{kind} {what}" if what else kind
    head = f"{action['key']}: {what}"
    first, *more = head.split("\n")
    defaults = _defaults(_KINDS[kind]) if kind in _KINDS else {}
    fields = {name: value for name, value in action.items() if name not in _HEADLINE}
    # The interpreter is always shown, even the default: it decides what a script does.
    always = {name: None for name in defaults if name != "interpreter"}
    shown = {
        name: value
        for name, value in fields.items()
        if name not in always or value != defaults[name]
    }
    return [first, *(f"  {line}" for line in [*more, *_lines(shown)])]


def policy_lines(policy: Mapping[str, Any]) -> list[str]:
    """Return the lines of the fields of an execution's policy that are not their defaults."""
    defaults = _defaults(Policy)
    return list(
        _lines(
            {
                name: value
                for name, value in policy.items()
                if name not in defaults or value != defaults[name]
            }
        )
    )


def _lines(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if value in _NOTHING:
            continue
        text = _decoded(value) if name == "script_base64" else _render_value(value)
        if "\n" not in text:
            yield f"{name}: {text}"
            continue
        yield f"{name}:"
        yield from (f"  {line}" for line in text.removesuffix("\n").split("\n"))


def _render_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _decoded(text: str) -> str:
    """Return the script behind base64; for binary data, its size and digest."""
    data = base64.b64decode(text)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return (
            f"{len(data)} bytes of binary data, SHA-256 {hashlib.sha256(data).hexdigest()}: "
            "read them with -o json"
        )


@cache
def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the defaults of an action type, as they look in an API response."""
    made = kind.model_construct()
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    return {
        name: value
        for name, value in made.model_dump(mode="json", warnings=False).items()
        if name not in required
    }
