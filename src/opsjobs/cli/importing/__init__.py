"""Import targets from inventories of other programs; each skipped entry has a reason."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import PurePath

from opsjobs.cli.importing.ansible_files import read_ansible
from opsjobs.cli.importing.host_files import (
    is_csv,
    is_hosts_file,
    is_ssh_config,
    read_csv,
    read_hosts,
    read_ssh_config,
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

    Raises ValueError with the line if it is not of this format.
    """
    _refuse_unread(name, text)
    if kind is SourceKind.ANSIBLE:
        return read_ansible(name, text)
    readers: Mapping[SourceKind, Callable[[str], ImportedInventory]] = {
        SourceKind.SSH_CONFIG: read_ssh_config,
        SourceKind.CSV: read_csv,
        SourceKind.HOSTS: read_hosts,
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
    if is_ssh_config(lines):
        return SourceKind.SSH_CONFIG
    if is_hosts_file(lines):
        return SourceKind.HOSTS
    return SourceKind.CSV if is_csv(lines) else SourceKind.ANSIBLE


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
