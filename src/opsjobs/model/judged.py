"""What of a job is read by an interpreter: each text once, with the values that it will have, for the safety check to judge."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.policy import CHECK_KEY
from opsjobs.model.quoting import Shell, Unquotable, quote_for, shell_of
from opsjobs.model.secret import Secret
from opsjobs.model.target import Target
from opsjobs.model.template import Names, Template, TemplateFault, looked_up
from opsjobs.model.verdict import Finding, Verdict

# Stands for a value that nobody knows yet, until the text is whole; then a variable stands there that nobody knows either.
_UNKNOWN = "opsjobs-unknown-value"
_AS_VARIABLE: Mapping[Shell, str] = {
    "posix": '"$OPSJOBS_UNKNOWN"',
    "cmd": '"%OPSJOBS_UNKNOWN%"',
    "powershell": '"$env:OPSJOBS_UNKNOWN"',
}
_INTERPRETER: Mapping[Shell, str] = {"posix": "sh", "cmd": "cmd", "powershell": "powershell"}
_NUMBERS = frozenset({"execution.id", "execution.number", "run.attempt"})
_OF_TARGET = "target."
# What of a command line may read a program from its input.
_READS_A_PROGRAM = re.compile(r"(?<![\w.-])(sh|bash|dash|ksh|zsh|python3?|perl|node|pwsh|powershell)(?![\w.-])")
TEXTS_AT_MOST = 400
"""Different texts of a launch that are judged with their values; of what is more, each action is judged with unknown ones."""
UNREADABLE = Finding("unreadable", Verdict.NEEDS_APPROVAL, "It is no text: nobody can read what it does.", "")
TOO_MANY = Finding(
    "too-many-texts", Verdict.NEEDS_APPROVAL, "It is another text on so many targets that not each of them was judged.", ""
)


@dataclass(frozen=True, slots=True)
class Text:
    """One text: what reads it, where it stands in the job (a JSON Pointer), and on which of the targets it runs.

    `said`: what is to be said of it whatever a judge finds in it.
    """

    interpreter: str
    text: str
    pointer: str
    become: bool
    targets: Sequence[Target] = ()
    said: tuple[Finding, ...] = ()


def texts_of(
    actions: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    targets: Sequence[Target],
    *,
    job_name: str = "",
    declared: Sequence[str] = (),
) -> Iterator[Text]:
    """The texts of these actions, as they are rendered for these targets (none: as for any).

    `parameters`: the values; a name in `declared` without one is not known yet. Raises nothing: what cannot be rendered does not run.
    """
    secrets = frozenset(name for name, value in parameters.items() if isinstance(value, Secret))
    names = Names(frozenset({*parameters, *declared}), secrets, frozenset(str(action["key"]) for action in actions))
    known = {name: value for name, value in parameters.items() if value is not None}
    # Only what names values of targets may be many texts; the others take no part of what may be judged.
    most = max(1, TEXTS_AT_MOST // max(sum("${" + _OF_TARGET in str(action.get("command")) for action in actions), 1))
    for position, action in enumerate(actions):
        at = "/policy/gate/check" if action["key"] == CHECK_KEY else f"/actions/{position}"
        where = [t for t in targets if action.get("target_ids") is None or t.id in action["target_ids"]]
        if action["type"] == "script":
            yield _script(action, at, where)
        elif action["type"] == "command":
            values = {"parameters": known, "job": {"name": job_name}}
            yield from (
                Text(_INTERPRETER[shell], text, f"{at}/command", _become(action), of, said)
                for shell, text, of, said in _commands(action["command"], where, names, values, most)
            )
        if action["type"] in ("command", "script") and action.get("stdin"):
            yield from _stdin(action, at, where)


def _become(action: Mapping[str, Any]) -> bool:
    return action.get("become") is not None


def _script(action: Mapping[str, Any], at: str, where: Sequence[Target]) -> Text:
    if action.get("script") is not None:
        return Text(action["interpreter"], action["script"], f"{at}/script", _become(action), where)
    body = base64.b64decode(action["script_base64"])
    said: tuple[Finding, ...] = ()
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text, said = body.decode(errors="replace"), (UNREADABLE,)
    return Text(action["interpreter"], text, f"{at}/script_base64", _become(action), where, said)


def _stdin(action: Mapping[str, Any], at: str, where: Sequence[Target]) -> Iterator[Text]:
    """What a shell, or the like, is fed with is a program, too."""
    line = action["command"] if action["type"] == "command" else ""
    for interpreter in sorted({found[1] for found in _READS_A_PROGRAM.finditer(line)}):
        yield Text(interpreter, action["stdin"], f"{at}/stdin", _become(action), where)


def _commands(
    command: str, where: Sequence[Target], names: Names, values: Mapping[str, Any], most: int
) -> Iterator[tuple[Shell, str, Sequence[Target], tuple[Finding, ...]]]:
    by_shell: dict[Shell, list[Target]] = {}
    for target in where:
        by_shell.setdefault(shell_of(target.platform), []).append(target)
    for shell, those in (by_shell or {"posix": []}).items():
        try:
            template = Template.command(command, names, shell)
        except TemplateFault:
            # It does not run there. Should it ever, this is what it is, with names that nobody knows.
            yield shell, command, those, ()
            continue
        for text, (of, said) in _rendered(template, shell, those, values, most).items():
            yield shell, text, of, said


def _rendered(
    template: Template, shell: Shell, targets: Sequence[Target], values: Mapping[str, Any], most: int
) -> Mapping[str, tuple[Sequence[Target], tuple[Finding, ...]]]:
    """The different texts, each with the targets that it is for; never none."""

    def with_values(values: Mapping[str, Any], target: Target | None) -> str:
        word = template.render(_value(values, target), quote_for(shell))
        return word.replace(quote_for(shell)(_UNKNOWN), _AS_VARIABLE[shell])

    def text_for(target: Target | None) -> str:
        """A value that the shell cannot be given is no reason to look away: it is unknown, for this target alone."""
        for known, of in ((values, target), (values, None)):
            try:
                return with_values(known, of)
            except Unquotable:
                continue
        return with_values({"parameters": {}}, None)

    if not targets or not any(name.startswith(_OF_TARGET) for name in template.names):
        return {text_for(None): (targets, ())}
    found: dict[str, list[Target]] = {}
    for target in targets:
        text = text_for(target)
        if text not in found and len(found) >= most:
            return {**{text: (of, ()) for text, of in found.items()}, text_for(None): (targets, (TOO_MANY,))}
        found.setdefault(text, []).append(target)
    return {text: (of, ()) for text, of in found.items()}


def _value(values: Mapping[str, Any], target: Target | None) -> Callable[[str], str | None]:
    of_target = {} if target is None else {"name": target.name, "host": target.host, "labels": dict(target.labels)}
    look = looked_up({**values, "target": of_target})

    def value(name: str) -> str | None:
        if name in _NUMBERS:
            return "1"
        if name.startswith(_OF_TARGET) and target is not None:
            return look(name)
        return look(name) or (_UNKNOWN if name not in values["parameters"] else "")

    return value
