"""The judge: one text of one interpreter, and what the rules find in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from opsjobs.model.safety import command_prompt, posix, powershell, python, shallow, tables
from opsjobs.model.safety.budget import TEXT_BYTES_MAX, Budget, Spent
from opsjobs.model.safety.context import Context
from opsjobs.model.safety.environment import NOBODY, Given
from opsjobs.model.safety.interpreters import language_of
from opsjobs.model.safety.matching import Matcher, findings
from opsjobs.model.safety.rulebook import rulebook
from opsjobs.model.safety.running import settle
from opsjobs.model.safety.trace import Place, Reader, Trace, excerpt_of
from opsjobs.model.safety.words import cleared
from opsjobs.model.verdict import Finding

_READERS: Mapping[str, Reader] = {
    "bash": posix.read,
    "python": python.read,
    "powershell": powershell.read,
    "powershell-line": powershell.read_line,
    "cmd": command_prompt.read,
    "cmd-line": command_prompt.read_line,
    "perl": shallow.perl,
    "node": shallow.node,
    "other": shallow.other,
    "crontab": tables.crontab,
    "system-crontab": tables.system_crontab,
    "unit": tables.unit,
    "start": tables.start,
    "make": tables.makefile,
}

INTERPRETERS = ("bash", "sh", "python", "powershell", "pwsh", "cmd", "perl", "node")
"""Those that have a reader; of a path the last part counts."""


def judge(interpreter: str, text: str, *, context: Context | None = None, given: Given = NOBODY) -> tuple[Finding, ...]:
    """What is to be said of this text; nothing where it is harmless as far as that can be seen.

    `interpreter`: bash, sh, python, powershell, pwsh, cmd, perl, node, or the path of one on the target; of a command line: sh.
    `given`: the arguments and variables that it is given, as far as they are known.
    What cannot be read, or costs more than 64 KiB and some 50 ms, is a finding itself (`needs_approval`). Raises MemoryError alone.
    """
    try:
        trace = traced(interpreter, text, given)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 a mistake of a reader is no reason to refuse a text, and none to let it pass
        trace = Trace(Budget(), _READERS)
        trace.events.append(("unreadable", Place(excerpt_of(text))))
    return findings(trace, _matcher(), context or Context())


def too_large(context: Context) -> tuple[Finding, ...]:
    """What is to be said of a text that is not read, as it is too large."""
    trace = Trace(Budget(), _READERS)
    trace.events.append(("too_large", Place()))
    return findings(trace, _matcher(), context)


def traced(interpreter: str, text: str, given: Given = NOBODY) -> Trace:
    """What this text would do; its bounds are events in it, as is what cannot be read."""
    trace = Trace(Budget(), _READERS, _matcher().names)
    if len(text.encode(errors="replace")) > TEXT_BYTES_MAX:
        trace.events.append(("too_large", Place()))
        return trace
    try:
        trace.read(_language(interpreter), cleared(text), Place(given=given))
        settle(trace)
    except (Spent, RecursionError):
        trace.events.append(("too_much", Place(excerpt_of(text))))
    return trace


@cache
def _matcher() -> Matcher:
    return Matcher(rulebook())


def _language(interpreter: str) -> str:
    name = interpreter.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".exe")
    return language_of(name) or "other"
