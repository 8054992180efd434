"""Collect the texts of a job that interpreters read, for the safety check.

Each text is collected once, with the values that it will have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from opsjobs.model.action import parse_frozen
from opsjobs.model.action_base import CHECK_KEY, ProgramSource, WrittenFile
from opsjobs.model.quoting import Shell, Unquotable, posix, powershell
from opsjobs.model.safety_verdict import Finding, SafetyVerdict
from opsjobs.model.secret import is_secret
from opsjobs.model.target import Target
from opsjobs.model.template import Template, TemplateFault, TemplateNames, text_lookup
from opsjobs.safety.program import (
    UNKNOWN,
    SafetyProgram,
    fed,
    place_findings,
    place_of,
    variable_findings,
)
from opsjobs.safety.question import ProgramInputs, inputs_from_texts

__all__ = ["TEXTS_MAX", "UNKNOWN", "JobText", "texts_of"]
_INTERPRETER: Mapping[Shell, str] = {"posix": "sh", "cmd": "cmd", "powershell": "powershell"}
_NUMBERS = frozenset({"execution.id", "execution.number", "run.attempt"})
_OF_TARGET = "target."
# Interpreters in a command line that may read a program from standard input.
_COMMENT = re.compile(r"(?m)^[ \t]*#.*$")
_READS_A_PROGRAM = re.compile(
    r"(?<![\w.-])(sh|bash|dash|ksh|zsh|python3?|perl|node|pwsh|powershell)(?![\w.-])"
)
_Value = Callable[[str], str | None]
_Read = TypeVar("_Read", bound=Hashable)
TEXTS_MAX = 400
"""The most different texts of a launch that are checked with their values.

Beyond that, each action is checked once with unknown values.
"""
UNREADABLE = Finding(
    "unreadable",
    SafetyVerdict.NEEDS_APPROVAL,
    "The script is not text, so its effect cannot be read.",
    "",
)
TOO_MANY = Finding(
    "too-many-texts",
    SafetyVerdict.NEEDS_APPROVAL,
    "The text differs on too many targets; not every variant was judged.",
    "",
)


@dataclass(frozen=True, slots=True)
class JobText:
    """One text of a job to check."""

    interpreter: str
    """The program that reads it."""
    text: str
    pointer: str
    """Its place in the job, as a JSON Pointer."""
    become: bool
    targets: Sequence[Target] = ()
    """The targets that it runs on."""
    findings: tuple[Finding, ...] = ()
    """Findings about it that do not depend on the rules for its language."""
    arguments: tuple[str, ...] | None = None
    """Its arguments, if they are not part of the text."""
    variables: tuple[tuple[str, str], ...] = ()
    """Its variables, if they are not part of the text."""

    @property
    def given(self) -> ProgramInputs:
        """The inputs in the form that the check accepts."""
        return inputs_from_texts(self.arguments, dict(self.variables), UNKNOWN)


@dataclass(frozen=True, slots=True)
class _Known:
    """The declared names, the values as a tree, and the maximum of texts for each action."""

    names: TemplateNames
    values: Mapping[str, Any]
    most: int


def texts_of(
    actions: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    targets: Sequence[Target],
    *,
    job_name: str = "",
    declared: Sequence[str] = (),
) -> Iterator[JobText]:
    """Return the texts of these actions, rendered for these targets (none: for any target).

    `parameters`: the values; a name in `declared` without a value is unknown as yet. Raises
    nothing: an action that cannot be rendered does not run.
    """
    secrets = frozenset(name for name, value in parameters.items() if is_secret(value))
    names = TemplateNames(
        frozenset({*parameters, *declared}),
        secrets,
        frozenset(str(action["key"]) for action in actions),
    )
    known = {name: value for name, value in parameters.items() if value is not None}
    # Only actions with values of targets can have many texts; the others do not share the limit.
    most = max(1, TEXTS_MAX // max(sum("${" + _OF_TARGET in str(action) for action in actions), 1))
    asked = _Known(names, {"parameters": known, "job": {"name": job_name}}, most)
    for position, stored in enumerate(actions):
        action = parse_frozen(stored)
        at = "/policy/gate/check" if action.key == CHECK_KEY else f"/actions/{position}"
        only = action.target_ids
        where = targets if only is None else [target for target in targets if target.id in only]
        match action.safety_input():
            case ProgramSource() as program:
                yield from _programs(program, at, where, asked)
            case WrittenFile() as file:
                yield from _uploads(file, at, where, asked)


def _programs(
    source: ProgramSource, at: str, where: Sequence[Target], known: _Known
) -> Iterator[JobText]:
    written, findings = _text_of(source)
    findings += variable_findings(source.env.items())
    become, stdin = source.become, source.stdin
    by_shell: dict[Shell, list[Target]] = {}
    for target in where:
        shell = target.capabilities.quoting if source.interpreter is None else "posix"
        by_shell.setdefault(shell, []).append(target)
    for shell, those in (by_shell or {"posix": []}).items():
        interpreter = source.interpreter or _INTERPRETER[shell]
        program = SafetyProgram(source, written, known.names, shell)
        for read, (of, more) in _rendered(program.render, program.names, those, known).items():
            yield JobText(
                interpreter,
                read.text,
                f"{at}/{source.field}",
                become,
                of,
                findings + more,
                read.arguments,
                read.variables,
            )
            if stdin and program.reads:
                yield JobText(interpreter, fed(read.text, stdin), f"{at}/stdin", become, of)
    if stdin:
        # The input of an interpreter that the reader does not find there is a program, too.
        for interpreter in sorted(
            {found[1] for found in _READS_A_PROGRAM.finditer(_COMMENT.sub("", written))}
        ):
            yield JobText(interpreter, stdin, f"{at}/stdin", become, where)


def _text_of(source: ProgramSource) -> tuple[str, tuple[Finding, ...]]:
    """Return the program as text, and the findings about the text itself."""
    if isinstance(source.text, str):
        return source.text, ()
    try:
        return source.text.decode(), ()
    except UnicodeDecodeError:
        return source.text.decode(errors="replace"), (UNREADABLE,)


def _uploads(
    file: WrittenFile, at: str, where: Sequence[Target], known: _Known
) -> Iterator[JobText]:
    """Return an upload as a command that writes to its destination."""
    try:
        template = Template.plain(file.destination, known.names)
    except TemplateFault:
        template = Template((UNKNOWN,), ())

    windows = [target for target in where if target.capabilities.quoting != "posix"]
    if windows:
        yield from _windows_uploads(template, at, windows, known)
        where = [target for target in where if target not in windows]
        if not where:
            return

    def render(value: _Value, _: Mapping[str, Any]) -> str:
        return place_of(template.render(value))

    for place, (of, more) in _rendered(render, frozenset(template.names), where, known).items():
        path = posix(place.replace("\0", "")).replace(UNKNOWN, "'\"$OPSJOBS_UNKNOWN\"'")
        mode = f"\nchmod {file.mode} {path}" if file.mode else ""
        yield JobText(
            "sh",
            f"tee -- {path} < /tmp/upload{mode}",
            f"{at}/destination",
            False,
            of,
            place_findings(place, UNKNOWN) + more,
        )


def _windows_uploads(
    template: Template, at: str, where: Sequence[Target], known: _Known
) -> Iterator[JobText]:
    """Return an upload to Windows hosts as a command of PowerShell."""

    def render(value: _Value, _: Mapping[str, Any]) -> str:
        return template.render(value)

    for place, (of, more) in _rendered(render, frozenset(template.names), where, known).items():
        path = powershell(place.replace("\0", "")).replace(UNKNOWN, "'+$env:OPSJOBS_UNKNOWN+'")
        findings = place_findings(place, UNKNOWN) if place.startswith(UNKNOWN) else ()
        yield JobText(
            "powershell",
            f"Copy-Item -LiteralPath upload -Destination ({path})",
            f"{at}/destination",
            False,
            of,
            findings + more,
        )


def _rendered(
    render: Callable[[_Value, Mapping[str, Any]], _Read],
    names: frozenset[str],
    targets: Sequence[Target],
    known: _Known,
) -> Mapping[_Read, tuple[Sequence[Target], tuple[Finding, ...]]]:
    """Return the different texts, at least one, each with its targets."""

    def text_for(target: Target | None) -> _Read:
        """Render for a target; a value that the shell cannot receive is unknown, for it alone.

        The rest of the text is still checked.
        """
        for of in (target, None):
            try:
                return render(_value(known.values, of), known.values["parameters"])
            except Unquotable:
                continue
        return render(_value({"parameters": {}}, None), {})

    if not targets or not any(name.startswith(_OF_TARGET) for name in names):
        return {text_for(None): (targets, ())}
    found: dict[_Read, list[Target]] = {}
    for target in targets:
        text = text_for(target)
        if text not in found and len(found) >= known.most:
            return {
                **{text: (of, ()) for text, of in found.items()},
                text_for(None): (targets, (TOO_MANY,)),
            }
        found.setdefault(text, []).append(target)
    return {text: (of, ()) for text, of in found.items()}


def _value(values: Mapping[str, Any], target: Target | None) -> _Value:
    of_target = (
        {}
        if target is None
        else {"name": target.name, "host": target.host, "labels": dict(target.labels)}
    )
    look = text_lookup({**values, "target": of_target})

    def value(name: str) -> str | None:
        if name in _NUMBERS:
            return "1"
        if name.startswith(_OF_TARGET) and target is not None:
            return look(name)
        return look(name) or (UNKNOWN if name not in values["parameters"] else "")

    return value
