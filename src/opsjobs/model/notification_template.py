"""Templates of notifications: each `${name}` is known, and is replaced by a value once.

The values are data. A value that contains `${name}` is inserted as it is, and a line break in a
value cannot end a header: a subject is one line, whatever is inserted."""

from __future__ import annotations

import re
from collections.abc import Mapping

from opsjobs.model.validation_errors import fault

NAMES = (
    "event",
    "time",
    "summary",
    "details",
    "failures",
    "next_steps",
    "held_back",
    "link",
    "job.name",
    "execution.id",
    "execution.number",
    "execution.status",
    "execution.requested_by",
    "schedule.name",
    "targets.total",
    "targets.failed",
    "reason",
)
"""The names that a template may use."""

SUBJECT_CHARACTERS_MAX = 200
TEXT_CHARACTERS_MAX = 16 << 10

_HOLE = re.compile(r"\$\{([^{}]*)\}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")


def check_template(text: str) -> None:
    """Raise a fault if the text uses an unknown name."""
    for name in _HOLE.findall(text):
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise fault("unknown_name", f"there is no value ${{{name[:60]}}} here: use {known}")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return the template with its values; missing ones are empty.

    >>> fill("${job.name}: ${reason}", {"job.name": "backup", "reason": "${link}"})
    'backup: ${link}'"""
    return _HOLE.sub(lambda hole: values.get(hole[1], ""), text)


def one_line(text: str, characters: int = SUBJECT_CHARACTERS_MAX) -> str:
    r"""Return the text as one line without control characters, cut to a number of characters.

    >>> one_line("backup\r\nBcc: ben@example.org")
    'backup Bcc: ben@example.org'"""
    line = " ".join(_CONTROL.sub(" ", _ESCAPE.sub("", text)).split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"


def plain_text(text: str, characters: int = TEXT_CHARACTERS_MAX) -> str:
    r"""Return lines without escape sequences and control characters, cut to a length.

    >>> plain_text("\x1b[31mred\x1b[0m\r\nnext\x00")
    'red\nnext'"""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    clean = _CONTROL.sub("", _ESCAPE.sub("", lines))
    return clean if len(clean) <= characters else f"{clean[: characters - 1]}…"
