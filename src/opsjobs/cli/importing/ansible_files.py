"""Ansible inventories as INI, YAML or JSON files, with host ranges."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import PurePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import Node

from opsjobs.cli.importing.ansible import DEPTH_MAX, VAULTED, Tree
from opsjobs.cli.importing.inventory import ImportedInventory


def read_ansible(name: str, text: str) -> ImportedInventory:
    """Return the inventory in a file; its name or its first line determines the format.

    Raises ValueError with the position if it is not an inventory.
    """
    if is_inventory_json(text):
        return read_json(text)
    return read_yaml(text) if _is_yaml(name, text) else read_ini(text)


def _is_yaml(name: str, text: str) -> bool:
    if PurePath(name).suffix in (".yml", ".yaml", ".json"):
        return True
    first = next(
        (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")),
        "",
    )
    return first.startswith(("---", "{")) or first.rstrip().endswith(":")


_SECTION = re.compile(r"\[([^\[\]:\s]+)(?::(children|vars))?\]")


def read_ini(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError with the line."""
    tree, section, kind = Tree(), "ungrouped", None
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        try:
            if (match := _SECTION.fullmatch(_strip_comment(stripped))) is not None:
                section, kind = match[1], match[2]
                tree.group(section)
            else:
                _read_line(tree, section, kind, stripped)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return tree.inventory()


def _read_line(tree: Tree, section: str, kind: str | None, line: str) -> None:
    if kind == "children":
        child = _strip_comment(line)
        tree.group(child)
        tree.group(section).children[child] = None
    elif kind == "vars":
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(f"{line[:60]!r} is not a variable: write NAME=VALUE")
        tree.group(section).variables[name.strip()] = _unquote(value.strip())
    else:
        words = shlex.split(line, comments=True)
        variables = dict(_split_variable(word) for word in words[1:])
        for host in expand_hosts(words[0]):
            tree.add(section, host, variables)


def _split_variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{word[:60]!r} is neither a host nor NAME=VALUE")
    return name, value


def _unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return _strip_comment(value)


def _strip_comment(line: str) -> str:
    return re.split(r"\s+[#;]", line, maxsplit=1)[0].strip()


_GROUP_KEYS = {"hosts", "children", "vars"}
NODES_MAX = 1_000_000


def read_yaml(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError if it is not one."""
    tree = Tree()
    found = _load_yaml(text)
    if not isinstance(found, dict) or not found:
        raise ValueError("the inventory has no groups: it must begin with `all:`")
    for name, body in found.items():
        _YamlReader(tree).group(str(name), body, 0)
    return tree.inventory()


class _LenientConstructor(SafeConstructor):
    """YAML constructor that accepts vaulted values and all other tags; none is imported.

    A separate class, because constructors are added to a class, for all loaders in the process.
    """


def _construct_tag(_: SafeConstructor, node: Node) -> str:
    return f"{node.tag} …"


_LenientConstructor.add_constructor(None, _construct_tag)


def _load_yaml(text: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _LenientConstructor
    try:
        return yaml.load(text)
    except (YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())[:200]}") from None


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
        if unknown := sorted(set(parts) - _GROUP_KEYS):
            raise ValueError(
                f"the group {name!r} has the key {unknown[0]!r}: "
                "only hosts, children and vars are allowed"
            )
        for host, variables in self._mapping(parts.get("hosts"), f"the hosts of {name!r}").items():
            for one in expand_hosts(host):
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


_META = "_meta"


def is_inventory_json(text: str) -> bool:
    """Return True if the text is such JSON: it has `_meta`, or a group with a list of hosts."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return _META in loaded or any(
        isinstance(body, list) or (isinstance(body, dict) and _has_host_lists(body))
        for body in loaded.values()
    )


def read_json(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError if a part has an unexpected type."""
    tree = Tree()
    groups = _json_object(json.loads(text), "the inventory")
    meta = _json_object(groups.pop(_META, None), f"{_META!r}")
    variables = _json_object(meta.get("hostvars"), f"the hostvars of {_META!r}")
    for name, body in groups.items():
        # Before Ansible 1.3 a group was the list of its hosts; old scripts still print that.
        parts = (
            {"hosts": body} if isinstance(body, list) else _json_object(body, f"the group {name!r}")
        )
        group = tree.group(name)
        for host in _json_names(parts.get("hosts"), f"the hosts of {name!r}"):
            tree.add(name, host, {})
        for child in _json_names(parts.get("children"), f"the children of {name!r}"):
            tree.group(child)
            group.children[child] = None
        group.variables.update(_json_texts(parts.get("vars"), f"the vars of {name!r}"))
    for host, own in variables.items():
        exists = host in tree.hosts
        tree.add(
            "all" if exists else "ungrouped", host, _json_texts(own, f"the variables of {host!r}")
        )
    return tree.inventory()


def _has_host_lists(body: Mapping[str, Any]) -> bool:
    return isinstance(body.get("hosts"), list) or isinstance(body.get("children"), list)


def _json_object(found: Any, what: str) -> dict[str, Any]:
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{what} is not an object")
    return dict(found or {})


def _json_names(found: Any, what: str) -> list[str]:
    if found is not None and not (
        isinstance(found, list) and all(isinstance(name, str) for name in found)
    ):
        raise ValueError(f"{what} are not a list of names")
    return list(found or ())


def _json_texts(found: Any, what: str) -> dict[str, str]:
    return {name: _json_text(value) for name, value in _json_object(found, what).items()}


def _json_text(value: Any) -> str:
    return VAULTED if isinstance(value, dict) and "__ansible_vault" in value else text_of(value)


HOSTS_MAX = 10_000
_RANGE = re.compile(r"\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\]")


def expand_hosts(pattern: str) -> list[str]:
    """Return the names of a pattern.

    Raises ValueError for an invalid range, and for more than 10,000 names.
    """
    pieces: list[list[str]] = []
    end = 0
    for match in _RANGE.finditer(pattern):
        pieces += [[pattern[end : match.start()]], list(_range_values(match))]
        end = match.end()
    rest = pattern[end:]
    if "[" in "".join(p[0] for p in pieces[::2]) + rest and not _is_bracketed_address(pattern):
        raise ValueError(
            f"{pattern[:60]!r} has a range that cannot be read: write [01:20] or [a:f]"
        )
    count = 1
    for values in pieces:
        count *= len(values)
    if count > HOSTS_MAX:
        raise ValueError(f"{pattern[:60]!r} stands for {count} hosts, the limit is {HOSTS_MAX}")
    return ["".join(parts) for parts in product(*pieces, [rest])]


def _is_bracketed_address(pattern: str) -> bool:
    return re.fullmatch(r"\[[0-9A-Fa-f:.]+\](:\d+)?", pattern) is not None


def _range_values(match: re.Match[str]) -> Iterator[str]:
    first, last, step = match[1], match[2], int(match[3] or 1)
    if first.isdigit() != last.isdigit() or step == 0:
        raise ValueError(f"{match[0]!r} is not a range")
    if not first.isdigit():
        numbers = range(ord(first), ord(last) + 1, step)
        if first.isupper() != last.isupper() or not numbers:
            raise ValueError(f"{match[0]!r} is not a range")
        return (chr(n) for n in numbers)
    if int(last) < int(first) or len(last) > 9:
        raise ValueError(f"{match[0]!r} is not a range")
    if (int(last) - int(first)) // step >= HOSTS_MAX:
        raise ValueError(f"{match[0]!r} stands for more than {HOSTS_MAX} hosts")
    width = len(first) if first.startswith("0") and len(first) > 1 else 0
    return (f"{n:0{width}d}" for n in range(int(first), int(last) + 1, step))
