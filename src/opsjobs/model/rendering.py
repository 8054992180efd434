"""The templates of actions: checked on write, compiled per execution, rendered per target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from opsjobs.model import expression
from opsjobs.model.action import (
    ActionDraft,
    CommandAction,
    FileTransferAction,
    JobAction,
    RunningAction,
    ScriptAction,
)
from opsjobs.model.draft_error import fault
from opsjobs.model.expression import NameScope, ValueKind
from opsjobs.model.job_graph import before_each
from opsjobs.model.parameter import ParameterDraft
from opsjobs.model.pattern import pattern
from opsjobs.model.quoting import Shell, quote_for
from opsjobs.model.template import Template, TemplateFault, TemplateNames, look_up, text_lookup

_KINDS: Mapping[str, ValueKind] = {
    "integer": ValueKind.NUMBER,
    "number": ValueKind.NUMBER,
    "boolean": ValueKind.BOOLEAN,
    "choice": ValueKind.ANY,
    "multi_choice": ValueKind.LIST,
    "host_list": ValueKind.LIST,
}


def scope_of(
    parameters: Sequence[ParameterDraft], actions: Sequence[str] | frozenset[str] = ()
) -> NameScope:
    """Return the names that a condition may use; secrets are excluded."""
    kinds = {p.name: _KINDS.get(p.type, ValueKind.TEXT) for p in parameters if not p.secret}
    return NameScope(kinds, frozenset(actions), lambda text: pattern(text).matches)


def names_of(
    parameters: Sequence[ParameterDraft], actions: Sequence[str] | frozenset[str] = ()
) -> TemplateNames:
    """Return the names that a template may use."""
    secrets = frozenset(p.name for p in parameters if p.secret)
    return TemplateNames(frozenset(p.name for p in parameters), secrets, frozenset(actions))


def check_rendering(
    actions: Sequence[ActionDraft],
    parameters: Sequence[ParameterDraft],
    check: ActionDraft | None = None,
) -> None:
    """Raise a fault with the path of an invalid template or condition.

    `check`: the check of the gate, which comes after all actions."""
    known = before_each(actions)
    for position, action in enumerate(actions):
        before = known[str(action.key)]
        _check(action, names_of(parameters, before), ("actions", position))
        if action.when is not None:
            _check_condition(
                action.when, scope_of(parameters, before), ("actions", position, "when")
            )
    if check is not None:
        _check(check, names_of(parameters, frozenset(known)), ("policy", "gate", "check"))


def _check(action: ActionDraft, names: TemplateNames, at: tuple[str | int, ...]) -> None:
    for path, text in _plain_texts(action):
        try:
            Template.plain(text, names)
        except TemplateFault as wrong:
            raise fault(wrong.code, wrong.detail, *at, *path) from None
    if isinstance(action, CommandAction):
        try:
            Template.command(action.command, names)
        except TemplateFault as wrong:
            raise fault(wrong.code, wrong.detail, *at, "command") from None
    if isinstance(action, JobAction):
        _check_passed(action, names, at)


def _plain_texts(action: ActionDraft) -> list[tuple[tuple[str | int, ...], str]]:
    texts: list[tuple[tuple[str | int, ...], str | None]] = []
    if isinstance(action, RunningAction):
        texts += [(("env", name), value) for name, value in action.env.items()]
        texts.append((("cwd",), action.cwd))
    if isinstance(action, ScriptAction):
        texts += [(("args", position), value) for position, value in enumerate(action.args)]
    if isinstance(action, FileTransferAction):
        texts += [(("source",), action.source), (("destination",), action.destination)]
    return [(path, text) for path, text in texts if text is not None]


def _check_passed(action: JobAction, names: TemplateNames, at: tuple[str | int, ...]) -> None:
    open_to_it = TemplateNames(names.parameters, (), names.actions)
    for name, value in action.parameters.items():
        if not isinstance(value, str):
            continue
        try:
            made = Template.plain(value, open_to_it)
            if made.names and made.texts != ("", ""):
                Template.plain(value, names)  # a secret is passed on as a whole, or not at all
        except TemplateFault as wrong:
            raise fault(wrong.code, wrong.detail, *at, "parameters", name) from None


def _check_condition(text: str, scope: NameScope, at: tuple[str | int, ...]) -> None:
    try:
        expression.parse(text, scope)
    except expression.Fault as wrong:
        raise fault("condition", str(wrong), *at) from None


class Rendering:
    """The templates of one stored action.

    `values` is the tree that conditions read (parameters, target, execution, …)."""

    def __init__(self, action: Mapping[str, Any], names: TemplateNames) -> None:
        self._action = action
        self._names = names
        self._commands: dict[Shell, Template] = {}

    def render(
        self,
        values: Mapping[str, Any],
        shell: Shell = "posix",
        *,
        value: Callable[[str], str | None] | None = None,
    ) -> dict[str, Any]:
        """Return the action rendered for one target. Raises TemplateFault, Unquotable.

        `value`: looks up texts by name, if other than those of `values`."""
        value = value or text_lookup(values)
        rendered = dict(self._action)
        if "command" in rendered:
            rendered["command"] = self._command(shell).render(value, quote_for(shell))
        for field, template in self._fields.items():
            rendered[field] = template.render(value)
        if self._args:
            rendered["args"] = [template.render(value) for template in self._args]
        if self._env:
            rendered["env"] = {name: template.render(value) for name, template in self._env.items()}
        if self._action.get("type") == "job":
            rendered["parameters"] = self._passed(values)
        return rendered

    def command(self, values: Mapping[str, Any], shell: Shell = "posix") -> str:
        """Return only the command line. Raises TemplateFault, Unquotable."""
        return self._command(shell).render(text_lookup(values), quote_for(shell))

    def _command(self, shell: Shell) -> Template:
        if shell not in self._commands:
            self._commands[shell] = Template.command(self._action["command"], self._names, shell)
        return self._commands[shell]

    @cached_property
    def _fields(self) -> dict[str, Template]:
        texts = {field: self._action.get(field) for field in ("cwd", "source", "destination")}
        return {
            field: Template.plain(text, self._names)
            for field, text in texts.items()
            if text is not None
        }

    @cached_property
    def _args(self) -> list[Template]:
        return [Template.plain(text, self._names) for text in self._action.get("args") or ()]

    @cached_property
    def _env(self) -> dict[str, Template]:
        return {
            name: Template.plain(text, self._names)
            for name, text in (self._action.get("env") or {}).items()
        }

    def _passed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters for another job; a value of one name alone keeps its type."""
        names = TemplateNames(self._names.parameters, (), self._names.actions)
        passed = dict(self._action.get("parameters") or {})
        for name, text in passed.items():
            if isinstance(text, str):
                template = Template.plain(text, names)
                alone = template.texts == ("", "")
                passed[name] = (
                    look_up(values, template.names[0])
                    if alone
                    else template.render(text_lookup(values))
                )
        return passed
