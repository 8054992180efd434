"""The names of the processes and services that a PowerShell expression gets.

`Get-Process lsass | Stop-Process` ends what `Stop-Process -Name lsass` ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from tree_sitter import Node

from opsjobs.safety.powershell.values import PowerShellValues

EVERY = "*"
# What Windows and remote access need, for names with a wildcard; windows-kill-lifeline has it all.
_PROCESSES = ("csrss", "lsass", "services", "smss", "sshd", "svchost", "wininit", "winlogon")
_SERVICES = (
    *("dhcp", "dnscache", "lanmanserver", "netlogon"),
    *("rpcss", "sshd", "termservice", "winrm"),
)
_DEPTH_MAX = 8
_ASSIGNED_MAX = 4
_PATTERN_CHARACTERS_MAX = 64
# The objects themselves, whatever is asked of them: `(Get-Process x).Id`, `$all[0]`.
_OBJECT_FIRST = frozenset({"member_access", "element_access", "invokation_expression"})
_CONDITIONS = frozenset({"if_statement", "switch_statement"})
_FILTERS = frozenset({"where-object"})
_PASSES = frozenset({"sort-object", "select-object"})
_FEW = re.compile(r"-(?:first|last|skip|index)", re.IGNORECASE)
_COMPARED = re.compile(
    r"name['\"]?\s+-[ci]?(?:eq|like|match|in|contains)\b([^|})-]{0,200})", re.IGNORECASE
)
_WMI_NAME = re.compile(r"\bname\s*(?:=|like)\s*['\"]*([^'\"\s]+)", re.IGNORECASE)
_WORD = re.compile(r"[\w.*?\[\]]+")
_WILDCARD = re.compile(r"[*?\[]")
_NEGATION = re.compile(r"\[!+")
_WMI_CLASSES = ("win32_process", "win32_service")
# The parameters of Get-Process and Get-Service whose value is a name.
_NAMED = ("-name", "-processname", "-displayname")
_BY_NUMBER = ("-id", "-inputobject", "-dependentservices", "-requiredservices")
_SWITCHES = (
    *("-includeusername", "-module", "-fileversioninfo"),
    *("-verbose", "-vb", "-debug", "-db"),
)


class Subjects:
    """Finds out which processes and services an expression gets; `*` stands for all of them."""

    def __init__(
        self,
        values: PowerShellValues,
        names_of: Callable[[Node], list[str]],
        words_of: Callable[[Node], list[str]],
    ) -> None:
        """`names_of` and `words_of` return the names and the words of a command."""
        self._values = values
        self._names_of = names_of
        self._words_of = words_of
        self._found: dict[str, list[str]] = {}
        """The names of each variable that was looked up."""
        self._kinds: dict[str, Callable[[Node, int], list[str]]] = {
            "command": lambda node, _: self._gotten(node),
            "pipeline_chain": lambda node, depth: self._piped(node.named_children, depth),
            "variable": self._variable,
        }

    def find(self, node: Node, depth: int = 0) -> list[str]:
        """Return the names; empty if the expression gets something else, or unknown ones."""
        is_part = False
        kind = self._kind(node)
        while kind is None and (len(node.named_children) == 1 or node.type in _OBJECT_FIRST):
            self._values.spend()
            is_part = is_part or node.type == "element_access"
            if not node.named_children:
                return []
            node = node.named_children[0]
            kind = self._kind(node)
        if kind is None or depth > _DEPTH_MAX:
            return []
        self._values.spend()
        found = kind(node, depth)
        return _narrowed(found) if is_part else found

    def _kind(self, node: Node) -> Callable[[Node, int], list[str]] | None:
        """Return the function for a node that gets something by itself; None for one around it."""
        inner = node.named_children
        if node.type == "invokation_expression" and inner and inner[0].type == "type_literal":
            return self._static
        return self._kinds.get(node.type)

    def after(self, stage: Node, piped: Sequence[str]) -> list[str]:
        """Return what a stage of a pipe hands on, given what it gets."""
        if stage.type != "command":
            return self.find(stage)
        names = self._names_of(stage)
        if not _FILTERS.isdisjoint(names):
            compared = _COMPARED.findall(self._values.text(stage))
            words = [word for each in compared for word in _WORD.findall(each)]
            return _narrowed(piped) or _narrowed(words)
        if not _PASSES.isdisjoint(names):
            is_few = any(_FEW.match(word) for word in self._words_of(stage))
            return _narrowed(piped) if is_few else list(piped)
        return self._gotten(stage)

    def _piped(self, stages: Sequence[Node], depth: int = 0) -> list[str]:
        found: list[str] = []
        for stage in stages:
            found = (
                self.after(stage, found) if stage.type == "command" else self.find(stage, depth + 1)
            )
        return found

    def _gotten(self, command: Node) -> list[str]:
        names, words = self._names_of(command), self._words_of(command)
        if "get-process" in names or "get-service" in names:
            return _parse_names(words)
        if "get-wmiobject" in names or "get-ciminstance" in names:
            text = " ".join(words)
            if not any(each in text.lower() for each in _WMI_CLASSES):
                return []
            given = _WMI_NAME.findall(text)
            is_all = "-f" not in text.lower() and " where " not in text.lower()
            return given or ([EVERY] if is_all else [])
        return []

    def _static(self, node: Node, _depth: int) -> list[str]:
        name, _, arguments = self._values.method(node)
        if name == "diagnostics.process::getprocessesbyname":
            return arguments
        return [EVERY] if name == "diagnostics.process::getprocesses" and not arguments else []

    def _variable(self, node: Node, depth: int) -> list[str]:
        name = self._values.text(node).lower().strip("${}")
        if name in ("_", "psitem"):
            return self._item(node, depth)
        if name not in self._found:
            self._found[name] = []  # while it is looked up: `$p = $p.Parent`
            self._found[name] = [
                each
                for value in self._values.assigned(name)[:_ASSIGNED_MAX]
                for each in self.find(value, depth + 1)
            ]
        found = self._found[name]
        return _narrowed(found) if self._is_conditional(node, name) else found

    def _item(self, node: Node, depth: int) -> list[str]:
        """Return what `$_` is in a block of a pipe: what the stages before it hand on."""
        inside, is_conditional = node.parent, False
        while inside is not None:
            self._values.spend()
            is_conditional = is_conditional or inside.type in _CONDITIONS
            pipe = inside.parent
            if inside.type == "command" and pipe is not None and pipe.type == "pipeline_chain":
                before = [s for s in pipe.named_children if s.start_byte < inside.start_byte]
                if before:
                    found = self._piped(before, depth + 1)
                    return _narrowed(found) if is_conditional else found
            inside = pipe
        return []

    def _is_conditional(self, node: Node, name: str) -> bool:
        """Return True if only some items of the loop over `$name` reach this place."""
        inside, is_conditional = node.parent, False
        while inside is not None:
            self._values.spend()
            is_conditional = is_conditional or inside.type in _CONDITIONS
            if inside.type == "foreach_statement" and inside.named_children:
                variable = self._values.text(inside.named_children[0])
                if variable.lower().strip("${}") == name:
                    return is_conditional
            inside = inside.parent
        return False


def match_needed(command: str, words: Sequence[str]) -> list[str]:
    """Return the names that Windows needs and that a wildcard among the words matches.

    They are services for Stop-Service, and processes for other commands. A pattern that is
    longer than any name is not looked at, and counts as one that matches.
    """
    names = _SERVICES if command == "stop-service" else _PROCESSES
    patterns = [_pattern(word) for word in words if _WILDCARD.search(word) and word != EVERY]
    if any(len(each) > _PATTERN_CHARACTERS_MAX for each in patterns):
        return list(names)
    return [name for name in names if any(fnmatchcase(name, each) for each in patterns)]


def _pattern(word: str) -> str:
    """Return a wildcard of PowerShell as one of fnmatch: `[!a]` is no negation there."""
    return _NEGATION.sub("[", word.lower().rpartition(":")[2])


def _parse_names(words: Sequence[str]) -> list[str]:
    """Return the names that Get-Process or Get-Service is asked for."""
    found: list[str] = []
    option = ""
    for word in words:
        lower = word.lower()
        if lower.startswith("-"):
            option, _, value = lower.partition(":")
            if value and any(each.startswith(option) for each in _NAMED):
                found.append(value)
            if value or any(each.startswith(option) for each in _SWITCHES):
                option = ""
        elif not option or any(each.startswith(option) for each in _NAMED):
            found.append(word)  # several, as in `-Name a, b`
        else:
            option = ""
    is_by_number = any(
        each.startswith(word.lower().partition(":")[0])
        for word in words
        if word.startswith("-") and len(word) > 1
        for each in _BY_NUMBER
    )
    return found or ([] if is_by_number else [EVERY])


def _narrowed(names: Sequence[str]) -> list[str]:
    """Return the names if only some of the objects are meant: then `*` is not all of them."""
    return [name for name in names if name != EVERY]
