"""JSON of `ansible-inventory --list`: groups with lists of names, variables in `_meta`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from opsjobs.cli.importing.ansible import VAULTED, Tree
from opsjobs.cli.importing.ansible_yaml import text_of
from opsjobs.cli.importing.inventory import ImportedInventory

_META = "_meta"


def looks_like(text: str) -> bool:
    """Return True if the text is such JSON: it has `_meta`, or a group with a list of hosts."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return _META in loaded or any(
        isinstance(body, list) or (isinstance(body, dict) and _has_lists(body))
        for body in loaded.values()
    )


def read(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError if a part has another shape."""
    tree = Tree()
    groups = _mapping(json.loads(text), "the inventory")
    meta = _mapping(groups.pop(_META, None), f"{_META!r}")
    variables = _mapping(meta.get("hostvars"), f"the hostvars of {_META!r}")
    for name, body in groups.items():
        # Before Ansible 1.3 a group was the list of its hosts; old scripts still print that.
        parts = {"hosts": body} if isinstance(body, list) else _mapping(body, f"the group {name!r}")
        group = tree.group(name)
        for host in _names(parts.get("hosts"), f"the hosts of {name!r}"):
            tree.add(name, host, {})
        for child in _names(parts.get("children"), f"the children of {name!r}"):
            tree.group(child)
            group.children[child] = None
        group.variables.update(_texts(parts.get("vars"), f"the vars of {name!r}"))
    for host, own in variables.items():
        exists = host in tree.hosts
        tree.add("all" if exists else "ungrouped", host, _texts(own, f"the variables of {host!r}"))
    return tree.inventory()


def _has_lists(body: Mapping[str, Any]) -> bool:
    return isinstance(body.get("hosts"), list) or isinstance(body.get("children"), list)


def _mapping(found: Any, what: str) -> dict[str, Any]:
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{what} is not an object")
    return dict(found or {})


def _names(found: Any, what: str) -> list[str]:
    if found is not None and not (
        isinstance(found, list) and all(isinstance(name, str) for name in found)
    ):
        raise ValueError(f"{what} are not a list of names")
    return list(found or ())


def _texts(found: Any, what: str) -> dict[str, str]:
    return {name: _text(value) for name, value in _mapping(found, what).items()}


def _text(value: Any) -> str:
    return VAULTED if isinstance(value, dict) and "__ansible_vault" in value else text_of(value)
