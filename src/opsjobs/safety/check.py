"""The safety check of one text of one interpreter: its trace and its findings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from opsjobs.model.safety_verdict import Finding
from opsjobs.safety import command_prompt, perl_node, posix, powershell, python, system_files
from opsjobs.safety.budget import TEXT_BYTES_MAX, Budget, Spent
from opsjobs.safety.command_dispatch import settle
from opsjobs.safety.inputs import UNKNOWN_INPUTS, ProgramInputs
from opsjobs.safety.interpreters import language_of
from opsjobs.safety.matching import Matcher, findings
from opsjobs.safety.question import Context
from opsjobs.safety.rulebook import rulebook
from opsjobs.safety.symbolic_words import cleared
from opsjobs.safety.trace import Reader, SourcePosition, Trace, excerpt_of

_READERS: Mapping[str, Reader] = {
    "bash": posix.read,
    "python": python.read,
    "powershell": powershell.read,
    "powershell-line": powershell.read_line,
    "cmd": command_prompt.read,
    "cmd-line": command_prompt.read_line,
    "perl": perl_node.perl,
    "node": perl_node.node,
    "other": perl_node.other,
    "crontab": system_files.crontab,
    "system-crontab": system_files.system_crontab,
    "unit": system_files.unit,
    "start": system_files.start,
    "make": system_files.makefile,
}

INTERPRETERS = ("bash", "sh", "python", "powershell", "pwsh", "cmd", "perl", "node")
"""Interpreters that have a reader; of a path the last part counts."""


def check_text(
    interpreter: str,
    text: str,
    *,
    context: Context | None = None,
    given: ProgramInputs = UNKNOWN_INPUTS,
) -> tuple[Finding, ...]:
    """Return the findings for this text; none if nothing dangerous is found in it.

    `interpreter`: bash, sh, python, powershell, pwsh, cmd, perl, node, or a path of one of these on
    the target; sh for a command line.
    `given`: the arguments and variables of the program, as far as they are known.
    A text that cannot be read, or costs more than 64 KiB and some 50 ms, is itself a finding
    (`needs_approval`), beside those that were found until then. Raises only MemoryError.
    """
    matcher, context = _matcher(), context or Context()
    trace, unreadable = _new_trace(), ("unreadable", SourcePosition(excerpt_of(text)))
    try:
        _read(trace, interpreter, text, given)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  a reader's mistake neither refuses a text nor hides anything
        trace.events.append(unreadable)
    try:
        return findings(trace, matcher, context)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  some of what a call has is read only by the rules
        return findings(Trace(Budget(), _READERS, events=[unreadable]), matcher, context)


def too_large(context: Context) -> tuple[Finding, ...]:
    """Return the findings for a text that is too large to be read."""
    trace = Trace(Budget(), _READERS)
    trace.events.append(("too_large", SourcePosition()))
    return findings(trace, _matcher(), context)


def traced(interpreter: str, text: str, given: ProgramInputs = UNKNOWN_INPUTS) -> Trace:
    """Return the trace of this text; exceeded bounds and unreadable parts are events in it."""
    trace = _new_trace()
    _read(trace, interpreter, text, given)
    return trace


def _new_trace() -> Trace:
    return Trace(Budget(), _READERS, _matcher().names)


def _read(trace: Trace, interpreter: str, text: str, given: ProgramInputs) -> None:
    if len(text.encode(errors="replace")) > TEXT_BYTES_MAX:
        trace.events.append(("too_large", SourcePosition()))
        return
    try:
        trace.read(_language(interpreter), cleared(text), SourcePosition(given=given))
        settle(trace)
    except (Spent, RecursionError):
        trace.events.append(("too_much", SourcePosition(excerpt_of(text))))


@cache
def _matcher() -> Matcher:
    return Matcher(rulebook())


def _language(interpreter: str) -> str:
    name = interpreter.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".exe")
    return language_of(name) or "other"
