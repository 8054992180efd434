"""Inventories of other programs as targets; whatever is not imported has a reason."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import PurePath

from opsjobs.cli.importing import (
    ansible_ini,
    ansible_json,
    ansible_yaml,
    csv_table,
    hosts_file,
    ssh_config,
)
from opsjobs.cli.importing.inventory import FoundTarget, ImportedInventory, Skipped

_FROM_STDIN = "opsjobs targets import -"

__all__ = ["FoundTarget", "ImportedInventory", "Skipped", "SourceKind", "guess", "read"]


class SourceKind(StrEnum):
    """Supported formats."""

    ANSIBLE = "ansible"
    SSH_CONFIG = "ssh_config"
    CSV = "csv"
    HOSTS = "hosts"


def read(kind: SourceKind, name: str, text: str) -> ImportedInventory:
    """Return the inventory in the text of a file.

    Raises ValueError with the line if it is not of this kind.
    """
    _refuse_unread(name, text)
    if kind is SourceKind.ANSIBLE:
        if ansible_json.looks_like(text):
            return ansible_json.read(text)
        return ansible_yaml.read(text) if _is_yaml(name, text) else ansible_ini.read(text)
    readers: Mapping[SourceKind, Callable[[str], ImportedInventory]] = {
        SourceKind.SSH_CONFIG: ssh_config.read,
        SourceKind.CSV: csv_table.read,
        SourceKind.HOSTS: hosts_file.read,
    }
    return readers[kind](text)


def guess(name: str, text: str) -> SourceKind:
    """Return the format of a file, by its name or else its lines."""
    path = PurePath(name)
    if path.suffix in (".csv", ".tsv"):
        return SourceKind.CSV
    if path.suffix in (".yml", ".yaml", ".ini"):
        return SourceKind.ANSIBLE
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith(("#", ";"))
    ]
    if ssh_config.looks_like(lines):
        return SourceKind.SSH_CONFIG
    if hosts_file.looks_like(lines):
        return SourceKind.HOSTS
    return SourceKind.CSV if csv_table.looks_like(lines) else SourceKind.ANSIBLE


def _refuse_unread(name: str, text: str) -> None:
    """Raise ValueError for a file that only Ansible can read, with the command to convert it."""
    listed = f"ansible-inventory -i {shlex.quote(name)} --list"
    if text.lstrip("\ufeff \t\r\n").startswith("$ANSIBLE_VAULT"):
        raise ValueError(
            "it is encrypted with ansible-vault. Import its decrypted content: "
            f"{listed} --ask-vault-pass | {_FROM_STDIN}"
        )
    if PurePath(name).suffix == ".toml":
        raise ValueError(f"TOML is not supported. Import it as JSON: {listed} | {_FROM_STDIN}")
    if text.startswith("#!/"):
        raise ValueError(
            f"it is a program, which is not executed. Import its output: {listed} | {_FROM_STDIN}"
        )


def _is_yaml(name: str, text: str) -> bool:
    if PurePath(name).suffix in (".yml", ".yaml", ".json"):
        return True
    first = next(
        (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")),
        "",
    )
    return first.startswith(("---", "{")) or first.rstrip().endswith(":")
