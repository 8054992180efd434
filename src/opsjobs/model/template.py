"""Templates: `${name}` is replaced once by a value, every other `${X}` is left as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.model.parameter import text_of
from opsjobs.model.quoting import Quote, Shell
from opsjobs.model.shell_context import places

_HOLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_./-]*[A-Za-z0-9_/-])?)\}")
_SYSTEM = frozenset(
    {"target.name", "target.host", "execution.id", "execution.number", "job.name", "run.attempt"}
)
_ROOTS = frozenset({"target", "execution", "job", "run", "actions"})
_ACTION = re.compile(r"actions\.([a-z0-9][a-z0-9_-]*)\.(exit_code|stdout|outputs\.(.+))")
_LABEL = "target.labels."


class TemplateFault(ValueError):
    """The text is not a valid template; `code` is for programs."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class TemplateNames:
    """The names that a template may use: declared parameters, and actions that have ended."""

    parameters: Collection[str] = ()
    secrets: Collection[str] = ()
    """The parameters that are secret."""
    actions: Collection[str] = ()

    def is_replaced(self, name: str) -> bool:
        """Return True if the name is replaced; names for the shell are left as they are.

        Raises TemplateFault for a probable mistake."""
        if name in self.parameters:
            if name in self.secrets:
                words = (
                    f"${{{name}}} is a secret, and would be seen by all on the machine: read the "
                    f"file $OPSJOBS_SECRETS/{name}"
                )
                raise TemplateFault("secret_in_argv", words)
            return True
        root, point, _ = name.partition(".")
        if not point or root not in _ROOTS:
            return False
        if name in _SYSTEM or (name.startswith(_LABEL) and len(name) > len(_LABEL)):
            return True
        action = _ACTION.fullmatch(name)
        if action is None:
            raise TemplateFault("unknown_name", f"there is no value ${{{name}}}")
        if action[1] not in self.actions:
            raise TemplateFault(
                "unknown_action",
                f"${{{name}}}: no action {action[1]!r} has surely ended before this one",
            )
        return True


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template."""

    texts: tuple[str, ...]
    """The texts around the `names`, one more than names."""
    names: tuple[str, ...]

    @classmethod
    def command(cls, text: str, names: TemplateNames, shell: Shell = "posix") -> Template:
        """Parse a command line, in which each value becomes one word.

        Raises TemplateFault if a value cannot be quoted at its place.

            >>> Template.command("echo ${who}", Names(["who"])).render({"who": "a b"}.get, posix)
            "echo 'a b'"
        """
        if "${" not in text:
            return cls((text,), ())
        found = places(text, _finder(names), shell)
        for place in found:
            if place.fault is not None:
                words = (
                    f"${{{place.name}}} stands {place.fault}: its value is quoted by itself, take "
                    "the quotes away"
                )
                raise TemplateFault("quoted_parameter", words)
        return cls._from_holes(text, [(place.name, place.start, place.end) for place in found])

    @classmethod
    def plain(cls, text: str, names: TemplateNames) -> Template:
        """Parse a text that no shell reads, such as an argument or a path.

        Raises TemplateFault."""
        found = [m for m in _HOLE.finditer(text) if names.is_replaced(m[1])] if "${" in text else []
        return cls._from_holes(text, [(m[1], m.start(), m.end()) for m in found])

    @classmethod
    def _from_holes(cls, text: str, holes: list[tuple[str, int, int]]) -> Template:
        ends = [0, *(end for _, _, end in holes)]
        starts = [*(start for _, start, _ in holes), len(text)]
        return cls(
            tuple(text[a:b] for a, b in zip(ends, starts, strict=True)),
            tuple(name for name, _, _ in holes),
        )

    def render(self, value: Callable[[str], str | None], quote: Quote | None = None) -> str:
        """Return the text with its values, quoted with `quote` if given; missing ones are empty.

        Raises Unquotable."""
        if not self.names:
            return self.texts[0]
        parts = [self.texts[0]]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            word = value(name) or ""
            parts += (quote(word) if quote is not None else word, text)
        return "".join(parts)


def text_lookup(values: Mapping[str, Any]) -> Callable[[str], str | None]:
    """Return a function that looks up the text of a name in the values of conditions.

    Parameters are found by their name, the others by their path."""

    def value(name: str) -> str | None:
        return text_of(look_up(values, name))

    return value


def look_up(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a name with its type; None if there is none."""
    parameters = values.get("parameters", {})
    if name in parameters:
        return parameters[name]
    steps = name.split(".", 2) if name.startswith(_LABEL) else name.split(".", 3)
    here: Any = values
    for step in steps:
        here = here.get(step) if isinstance(here, Mapping) else None
    return here


def _finder(names: TemplateNames) -> Callable[[str, int], re.Match[str] | None]:
    known: dict[str, bool] = {}

    def find(text: str, at: int) -> re.Match[str] | None:
        if text[at] != "$" or (match := _HOLE.match(text, at)) is None:
            return None
        if match[1] not in known:
            known[match[1]] = names.is_replaced(match[1])
        return match if known[match[1]] else None

    return find
