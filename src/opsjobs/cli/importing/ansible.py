"""Semantics of an Ansible inventory: nested groups, variables, connection parameters."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from opsjobs.cli.importing.inventory import (
    TARGETS_MAX,
    FoundTarget,
    ImportedInventory,
    Skipped,
    parse_port,
)
from opsjobs.model.winrm import HTTP_PORT

WINDOWS_CONNECTIONS = ("winrm", "psrp")
WINDOWS_VARIABLES = frozenset(
    {
        "ansible_winrm_scheme",
        "ansible_winrm_transport",
        "ansible_winrm_server_cert_validation",
        "ansible_psrp_protocol",
        "ansible_psrp_auth",
        "ansible_psrp_cert_validation",
    }
)
"""The variables of Windows hosts that are imported."""

_WINDOWS_AUTH = {
    "negotiate": "negotiate",
    "ntlm": "ntlm",
    "kerberos": "kerberos",
    "credssp": "credssp",
    "certificate": "certificate",
    "basic": "basic",
    "plaintext": "basic",
    "ssl": "basic",
}

ALL_HOSTS = "all"
BUILT_IN_GROUPS = (ALL_HOSTS, "ungrouped")
"""Ansible's built-in groups; they do not become groups of opsjobs."""
DEPTH_MAX = 20
VAULTED = "!vault …"
"""Placeholder for a value that ansible-vault has encrypted."""
_CONNECTIONS = {
    "ssh": "ssh",
    "smart": "ssh",
    "paramiko": "ssh",
    "paramiko_ssh": "ssh",
    "local": "local",
}
_TRANSPORTS = {"local": "local", **dict.fromkeys(WINDOWS_CONNECTIONS, "winrm")}
_HOST = ("ansible_host", "ansible_ssh_host")
_PORT = ("ansible_port", "ansible_ssh_port")
_USER = ("ansible_user", "ansible_ssh_user")
_KEY = ("ansible_ssh_private_key_file", "ansible_private_key_file")
_ARGUMENTS = ("ansible_ssh_common_args", "ansible_ssh_extra_args")
_IMPORTED = {*_HOST, *_PORT, *_USER, *_KEY, *_ARGUMENTS, "ansible_connection"} | WINDOWS_VARIABLES
_SECRETS = re.compile(r"ansible_(ssh_)?(become_|sudo_|su_)?pass(word)?|.*vault.*")
_JUMP = re.compile(r"(?:-J\s*|-o\s*['\"]?ProxyJump[= ]\s*)([^\s'\"]+)")


@dataclass
class AnsibleGroup:
    """A group as in the file: its own hosts, its child groups, and its variables."""

    hosts: dict[str, None] = field(default_factory=dict)
    children: dict[str, None] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


@dataclass
class Tree:
    """The whole file. `hosts`: each host's own variables."""

    groups: dict[str, AnsibleGroup] = field(default_factory=dict)
    hosts: dict[str, dict[str, str]] = field(default_factory=dict)

    def group(self, name: str) -> AnsibleGroup:
        """Return the group of this name; create it if it does not exist."""
        return self.groups.setdefault(name, AnsibleGroup())

    def add(self, group: str, host: str, variables: Mapping[str, str]) -> None:
        """Add a host to a group. Raises ValueError if there are too many."""
        if host not in self.hosts and len(self.hosts) >= TARGETS_MAX:
            raise ValueError(f"the inventory has more than {TARGETS_MAX} hosts")
        self.hosts.setdefault(host, {}).update(variables)
        self.group(group).hosts[host] = None

    def inventory(self) -> ImportedInventory:
        """Return all hosts with the variables of their groups and their own."""
        parents: dict[str, list[str]] = {}
        for name, group in self.groups.items():
            for child in group.children:
                parents.setdefault(child, []).append(name)
        above = {name: _find_ancestors(name, parents) for name in self.groups}
        self.group(ALL_HOSTS)
        # Ansible puts every host and every group below `all`, even if the file does not.
        of_host: dict[str, set[str]] = {host: {ALL_HOSTS} for host in self.hosts}
        for name, group in self.groups.items():
            for host in group.hosts:
                of_host[host].update({name, *above[name]})
        found: list[FoundTarget] = []
        left: list[Skipped] = []
        for host, own in self.hosts.items():
            # From the outermost group inwards: an inner group overrides an outer one.
            groups = sorted(
                of_host[host], key=lambda name: (name != ALL_HOSTS, len(above.get(name, ())), name)
            )
            one = self._host(host, own, groups)
            if isinstance(one, FoundTarget):
                found.append(one)
            else:
                left.append(one)
        return ImportedInventory(_with_jumps(found, left), [*left, *_unsupported(found)])

    def _host(self, name: str, own: Mapping[str, str], groups: list[str]) -> FoundTarget | Skipped:
        variables: dict[str, str] = {}
        for group in groups:
            variables.update(self.groups[group].variables)
        variables.update(own)
        try:
            return _build_target(
                name, variables, [group for group in groups if group not in BUILT_IN_GROUPS]
            )
        except ValueError as error:
            return Skipped(name, str(error), target=True)


def _find_ancestors(name: str, parents: Mapping[str, list[str]]) -> set[str]:
    """Return all ancestors of a group."""
    above: set[str] = set()
    waiting = [name]
    while waiting:
        for parent in parents.get(waiting.pop(), ()):
            if parent == name:
                raise ValueError(f"the group {name!r} contains itself")
            if parent not in above:
                above.add(parent)
                waiting.append(parent)
    return above


def _build_target(name: str, variables: Mapping[str, str], groups: list[str]) -> FoundTarget:
    connection = variables.get("ansible_connection", "ssh").rpartition(".")[2]
    network, windows = connection == "network_cli", connection in WINDOWS_CONNECTIONS
    if connection not in _CONNECTIONS and not (network or windows):
        raise ValueError(
            f"its connection is {connection!r}: only ssh, winrm, psrp and local are supported"
        )
    read = {
        word: _first_of(variables, names)
        for word, names in (("host", _HOST), ("port", _PORT), ("user", _USER), ("key", _KEY))
    }
    if vaulted := next(
        (word for word, value in read.items() if value and value.startswith("!vault")), None
    ):
        raise ValueError(
            f"its {vaulted} is encrypted with ansible-vault: "
            "write it in plain text, or add the target by hand"
        )
    computed = next((word for word, value in read.items() if value and "{{" in value), None)
    if computed is not None:
        raise ValueError(
            f"its {computed} is a template ({read[computed]!r:.60}): "
            "write its value, or add the target by hand"
        )
    host, port = read["host"] or name, read["port"]
    if (
        read["host"] is None
        and (apart := re.fullmatch(r"\[?([^\[\]]+?)\]?:(\d+)", name))
        and ":" not in apart[1]
    ):
        host, port = apart[1], port or apart[2]
    number = parse_port(port) if port else None
    jump = _JUMP.search(" ".join(variables.get(word, "") for word in _ARGUMENTS))
    return FoundTarget(
        name.partition(":")[0] if host != name and ":" in name and read["host"] is None else name,
        host,
        number,
        read["user"],
        None if windows else read["key"],
        groups=groups,
        jump=jump[1] if jump and not windows else None,
        transport=_TRANSPORTS.get(connection),
        platform="network" if network else None,
        winrm=read_winrm(variables, number) if windows else None,
        variables={
            key: value
            for key, value in variables.items()
            if key not in _IMPORTED or key in _ARGUMENTS
        },
    )


def _first_of(variables: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((variables[name] for name in names if variables.get(name)), None)


def _with_jumps(found: list[FoundTarget], left: list[Skipped]) -> list[FoundTarget]:
    """Replace jump hosts by target names; report jump hosts that are not in the inventory."""
    names = {one.name: one.name for one in found} | {one.host: one.name for one in found}
    made = []
    for one in found:
        jump = one.jump.rpartition("@")[2].partition(":")[0] if one.jump else None
        if jump is not None and jump not in names:
            left.append(
                Skipped(
                    f"{one.name}: jump host {jump}",
                    "it is not a host of this inventory: "
                    "add it as a target, and set it with --jump",
                )
            )
        through = names.get(jump) if jump else None
        # Variables of all hosts name the jump host for itself, too.
        made.append(replace(one, jump=None if through == one.name else through))
    return made


def _unsupported(found: list[FoundTarget]) -> Iterator[Skipped]:
    """Yield each connection variable that is not imported, once."""
    users: dict[str, int] = {}
    for one in found:
        for name, value in one.variables.items():
            if name.startswith("ansible_") and not (name in _ARGUMENTS and _is_jump_only(value)):
                users[name] = users.get(name, 0) + 1
    for name, count in sorted(users.items()):
        secret = _SECRETS.fullmatch(name) is not None
        reason = (
            "secrets are not imported: use opsjobs credentials add"
            if secret
            else "it is not supported"
        )
        yield Skipped(f"{name} (of {count} host{'s' if count != 1 else ''})", reason)


def _is_jump_only(arguments: str) -> bool:
    try:
        return shlex.split(_JUMP.sub("", arguments)) == []
    except ValueError:
        return False


# --- the variables with which Ansible reaches Windows hosts, as options of WinRM


def read_winrm(variables: Mapping[str, str], port: int | None) -> dict[str, Any]:
    """Return the field `winrm` of a host.

    Without a scheme, port 5985 means http, as in Ansible. Raises ValueError for what opsjobs does
    not do.
    """
    scheme = _first(variables, "ansible_winrm_scheme", "ansible_psrp_protocol")
    scheme = (scheme or ("http" if port == HTTP_PORT else "https")).lower()
    options: dict[str, Any] = {"scheme": scheme}
    asked = _first(variables, "ansible_winrm_transport", "ansible_psrp_auth")
    if asked is not None:
        options["auth"] = auth = _windows_auth(asked)
        if auth in ("basic", "certificate") and scheme == "http":
            raise ValueError(
                f"its authentication is {auth} over http: use https, or ntlm over http"
            )
    check = _first(
        variables, "ansible_winrm_server_cert_validation", "ansible_psrp_cert_validation"
    )
    if check == "ignore" and scheme == "https":
        options["verify"] = False
    return options


def _windows_auth(asked: str) -> str:
    """Return the first supported one of the authentications that are listed."""
    names = [name.strip(" []'\"").lower() for name in asked.split(",")]
    for name in names:
        if name in _WINDOWS_AUTH:
            return _WINDOWS_AUTH[name]
    raise ValueError(
        f"its WinRM authentication is {', '.join(names)}: only negotiate, ntlm, kerberos, credssp, "
        "basic and certificate are supported"
    )


def _first(variables: Mapping[str, str], *names: str) -> str | None:
    return next((variables[name] for name in names if variables.get(name)), None)
