"""Ansible inventories as INI: sections of hosts, child groups, and variables."""

from __future__ import annotations

import re
import shlex

from opsjobs.cli.importing.ansible import Tree
from opsjobs.cli.importing.inventory import ImportedInventory
from opsjobs.cli.importing.ranges import expand

_SECTION = re.compile(r"\[([^\[\]:\s]+)(?::(children|vars))?\]")


def read(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError with the line."""
    tree, section, kind = Tree(), "ungrouped", None
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        try:
            if (match := _SECTION.fullmatch(_without_comment(stripped))) is not None:
                section, kind = match[1], match[2]
                tree.group(section)
            else:
                _line(tree, section, kind, stripped)
        except ValueError as wrong:
            raise ValueError(f"line {number}: {wrong}") from None
    return tree.inventory()


def _line(tree: Tree, section: str, kind: str | None, line: str) -> None:
    if kind == "children":
        child = _without_comment(line)
        tree.group(child)
        tree.group(section).children[child] = None
    elif kind == "vars":
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(f"{line[:60]!r} is not a variable: write NAME=VALUE")
        tree.group(section).variables[name.strip()] = _unquoted(value.strip())
    else:
        words = shlex.split(line, comments=True)
        variables = dict(_pair(word) for word in words[1:])
        for host in expand(words[0]):
            tree.add(section, host, variables)


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{word[:60]!r} is neither a host nor NAME=VALUE")
    return name, value


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return _without_comment(value)


def _without_comment(line: str) -> str:
    return re.split(r"\s+[#;]", line, maxsplit=1)[0].strip()
