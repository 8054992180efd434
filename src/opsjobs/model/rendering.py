"""The templates of actions: checked on write, compiled per execution, rendered per target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

from opsjobs.model import expression
from opsjobs.model.action_base import ActionDraft, FieldTemplate, FrozenAction, TemplateKind
from opsjobs.model.expression import NameScope, ValueKind
from opsjobs.model.parameter import ParameterDraft
from opsjobs.model.pattern import pattern
from opsjobs.model.quoting import Shell, quote_for
from opsjobs.model.template import Template, TemplateFault, TemplateNames, look_up, text_lookup
from opsjobs.model.validation_errors import fault
from opsjobs.model.workflow import before_each

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

    `check`: the check of the gate, which follows all actions."""
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
    for field in action.templates():
        try:
            _check_template(field, names)
        except TemplateFault as wrong:
            raise fault(wrong.code, wrong.detail, *at, *field.path) from None


def _check_template(field: FieldTemplate, names: TemplateNames) -> None:
    if field.kind is TemplateKind.COMMAND:
        Template.command(field.text, names)
        return
    if field.kind is TemplateKind.TEXT:
        Template.plain(field.text, names)
        return
    made = Template.plain(field.text, _with_secrets(names))
    if made.names and made.texts != ("", ""):
        Template.plain(field.text, names)  # a secret is passed on as a whole, or not at all


def _with_secrets(names: TemplateNames) -> TemplateNames:
    """Return the names, secrets included, for values that keep their type."""
    return TemplateNames(names.parameters, (), names.actions)


def _check_condition(text: str, scope: NameScope, at: tuple[str | int, ...]) -> None:
    try:
        expression.parse(text, scope)
    except expression.Fault as wrong:
        raise fault("condition", str(wrong), *at) from None


class Rendering:
    """The templates of one action of an execution.

    `values` is the tree that conditions read (parameters, target, execution, …)."""

    def __init__(self, action: FrozenAction, names: TemplateNames) -> None:
        self._action = action
        self._names = names
        self._templates: dict[Shell, list[tuple[FieldTemplate, Template]]] = {}

    def render(
        self,
        values: Mapping[str, Any],
        shell: Shell = "posix",
        *,
        value: Callable[[str], str | None] | None = None,
    ) -> FrozenAction:
        """Return the action rendered for one target. Raises TemplateFault, Unquotable.

        `value`: looks up texts by name, if other than those of `values`."""
        value = value or text_lookup(values)
        rendered: dict[str, Any] = {}
        for field, template in self._parsed(shell):
            name, *inner = field.path
            made = _render(template, field.kind, values, value, shell)
            if not inner:
                rendered[str(name)] = made
                continue
            if name not in rendered:
                rendered[str(name)] = copy(getattr(self._action, str(name)))
            rendered[str(name)][inner[0]] = made
        return self._action.model_copy(update=rendered)

    def _parsed(self, shell: Shell) -> list[tuple[FieldTemplate, Template]]:
        if shell not in self._templates:
            self._templates[shell] = [
                (field, _parse(field, self._names, shell)) for field in self._action.templates()
            ]
        return self._templates[shell]


def _parse(field: FieldTemplate, names: TemplateNames, shell: Shell) -> Template:
    if field.kind is TemplateKind.COMMAND:
        return Template.command(field.text, names, shell)
    with_type = field.kind is TemplateKind.VALUE
    return Template.plain(field.text, _with_secrets(names) if with_type else names)


def _render(
    template: Template,
    kind: TemplateKind,
    values: Mapping[str, Any],
    value: Callable[[str], str | None],
    shell: Shell,
) -> Any:
    if kind is TemplateKind.COMMAND:
        return template.render(value, quote_for(shell))
    if kind is TemplateKind.TEXT:
        return template.render(value)
    if template.texts == ("", ""):
        return look_up(values, template.names[0])
    return template.render(text_lookup(values))
