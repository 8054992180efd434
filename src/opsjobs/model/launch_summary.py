"""The line that describes an ad-hoc execution: without it all of them look alike in lists."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence

from opsjobs.model.action import ScriptAction
from opsjobs.model.action_base import ActionDraft

SUMMARY_MAX = 120


def summarize(actions: Sequence[ActionDraft]) -> str:
    """Return the first line of the first action, and how many actions follow it.

    At most SUMMARY_MAX characters. Parameters are shown by name, as they are written, so it has no
    value of a secret.
    """
    line = " ".join(_first_line(actions[0]).split())
    rest = _render_rest(len(actions) - 1)
    room = SUMMARY_MAX - len(rest)
    return (line if len(line) <= room else f"{line[: room - 1]}…") + rest


def _render_rest(more: int) -> str:
    if more == 0:
        return ""
    return f" (+{more} {'action' if more == 1 else 'actions'})"


def _first_line(action: ActionDraft) -> str:
    if isinstance(action, ScriptAction):
        return f"{action.interpreter}: {_first_statement(action)}"
    lines = action.summary().splitlines()
    return next((line for line in lines if line.strip()), "")


def _first_statement(script: ScriptAction) -> str:
    """Return the first line that is neither empty, a comment, nor an option of the shell."""
    for line in _decode(script.body).splitlines():
        if (text := line.strip()) and not text.startswith(("#", "set -")):
            return text
    return f"a script of {len(script.body)} bytes"


def _decode(body: bytes) -> str:
    """Return the text of a script; "" if it has NUL, which the database cannot store.

    A byte order mark tells UTF-16, in which PowerShell scripts may be written.
    """
    is_utf16 = body.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    text = body.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
    return "" if "\0" in text else text
