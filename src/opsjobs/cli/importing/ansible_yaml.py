"""Ansible inventories as YAML: groups with hosts, children and vars."""

from __future__ import annotations

import json
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import Node

from opsjobs.cli.importing.ansible import DEPTH_MAX, Tree
from opsjobs.cli.importing.inventory import ImportedInventory
from opsjobs.cli.importing.ranges import expand

_KNOWN = {"hosts", "children", "vars"}
NODES_MAX = 1_000_000


def read(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError if it is not one."""
    tree = Tree()
    found = _load(text)
    if not isinstance(found, dict) or not found:
        raise ValueError("the inventory has no groups: it must begin with `all:`")
    for name, body in found.items():
        _YamlReader(tree).group(str(name), body, 0)
    return tree.inventory()


class _LenientConstructor(SafeConstructor):
    """YAML constructor that accepts vaulted values and all other tags; none is imported.

    A class of its own: constructors are added to a class, for all loaders in the process.
    """


def _tag_alone(_: SafeConstructor, node: Node) -> str:
    return f"{node.tag} …"


_LenientConstructor.add_constructor(None, _tag_alone)


def _load(text: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _LenientConstructor
    try:
        return yaml.load(text)
    except (YAMLError, RecursionError, ValueError) as wrong:
        raise ValueError(f"not valid YAML: {' '.join(str(wrong).split())[:200]}") from None


class _YamlReader:
    """Walk the groups; count the nodes, because aliases make a small file a large one."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._seen = 0

    def group(self, name: str, body: Any, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise ValueError(f"groups are nested more than {DEPTH_MAX} deep")
        group = self._tree.group(name)
        if body is None:
            return
        parts = self._mapping(body, f"the group {name!r}")
        if unknown := sorted(set(parts) - _KNOWN):
            raise ValueError(
                f"the group {name!r} has the key {unknown[0]!r}: "
                "only hosts, children and vars are allowed"
            )
        for host, variables in self._mapping(parts.get("hosts"), f"the hosts of {name!r}").items():
            for one in expand(host):
                self._tree.add(name, one, self._variables(variables, f"the host {host!r}"))
        group.variables.update(self._variables(parts.get("vars"), f"the vars of {name!r}"))
        for child, inner in self._mapping(
            parts.get("children"), f"the children of {name!r}"
        ).items():
            group.children[child] = None
            self.group(child, inner, depth + 1)

    def _mapping(self, found: Any, what: str) -> dict[str, Any]:
        if found is None:
            return {}
        if isinstance(found, str):
            found = {found: None}
        if not isinstance(found, dict):
            raise ValueError(f"{what} are not a mapping")  # noqa: TRY004  the file is wrong
        self._seen += len(found)
        if self._seen > NODES_MAX:
            raise ValueError(f"the inventory has more than {NODES_MAX} entries")
        return {str(key): value for key, value in found.items()}

    def _variables(self, found: Any, what: str) -> dict[str, str]:
        return {name: text_of(value) for name, value in self._mapping(found, what).items()}


def text_of(value: Any) -> str:
    """Return a variable's value as text: strings as they are, the rest as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    return str(value) if isinstance(value, int | float) else json.dumps(value, default=str)[:2_000]
