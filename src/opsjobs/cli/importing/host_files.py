"""Files that list hosts: CSV tables, files such as /etc/hosts, OpenSSH's configuration.

A table has a header line. Of the configuration, each Host that is not a pattern becomes a target.
"""

from __future__ import annotations

import csv
import io
import ipaddress
import itertools
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from opsjobs.cli.importing.inventory import (
    TARGETS_MAX,
    FoundTarget,
    ImportedInventory,
    Skipped,
    parse_port,
)

_SAME = {
    "hostname": "host",
    "address": "host",
    "ip": "host",
    "username": "user",
    "group": "groups",
    "tags": "labels",
}
_COLUMNS = {
    "name",
    "host",
    "port",
    "user",
    "key",
    "credential",
    "groups",
    "labels",
    "jump",
    "transport",
    "platform",
    "zone",
    "slots",
}
_LABEL = "label:"


def is_csv(lines: Sequence[str]) -> bool:
    """Return True if these lines are a CSV table."""
    if not lines:
        return False
    heading = {word.strip().lower() for word in lines[0].split(_separator(lines[0]))}
    return len(heading) > 1 and bool(heading & {"name", "host", "hostname"})


def read_csv(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError without a `name` or `host` column."""
    text = text.removeprefix("\ufeff")
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter=_separator(text.partition("\n")[0]), strict=True
    )
    try:
        heading = [_column_name(word) for word in next(rows, [])]
        if not {"name", "host"} & set(heading):
            raise ValueError("the header has no column `name` or `host`")
        if twice := [word for word in set(heading) if heading.count(word) > 1]:
            raise ValueError(f"the column {twice[0]!r} appears twice")
        found: dict[str, FoundTarget] = {}
        left = [
            Skipped(f"column {c}", "unknown column")
            for c in heading
            if c not in _COLUMNS and not c.startswith(_LABEL)
        ]
        for row in rows:
            if any(cell.strip() for cell in row):
                _read_row(
                    found,
                    left,
                    dict(zip(heading, (cell.strip() for cell in row), strict=False)),
                    rows.line_num,
                )
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from None
    return ImportedInventory([*found.values()], left)


def _read_row(
    found: dict[str, FoundTarget], left: list[Skipped], cells: Mapping[str, str], number: int
) -> None:
    name = cells.get("name") or cells.get("host") or ""
    try:
        _check_name(name, found)
        found[name] = _build_target(name, cells)
    except ValueError as error:
        left.append(Skipped(f"line {number}: {name or '(no name)'}", str(error), target=True))
    if len(found) > TARGETS_MAX:
        raise ValueError(f"it has more than {TARGETS_MAX} targets")


def _check_name(name: str, found: Collection[str]) -> None:
    if not name:
        raise ValueError("it has neither a name nor a host")
    if name in found:
        raise ValueError("the name appears twice")


def _build_target(name: str, cells: Mapping[str, str]) -> FoundTarget:
    slots = cells.get("slots")
    if slots and not slots.isdigit():
        raise ValueError(f"slots: {slots!r} is not a number")
    labels = dict(_split_label(word) for word in _split_cell(cells.get("labels")))
    labels |= {
        c.removeprefix(_LABEL): value
        for c, value in cells.items()
        if c.startswith(_LABEL) and value
    }
    return FoundTarget(
        name,
        cells.get("host") or name,
        parse_port(cells["port"]) if cells.get("port") else None,
        cells.get("user") or None,
        cells.get("key") or None,
        cells.get("credential") or None,
        groups=_split_cell(cells.get("groups")),
        labels=labels,
        jump=cells.get("jump") or None,
        transport=cells.get("transport") or None,
        platform=cells.get("platform") or None,
        zone=cells.get("zone") or None,
        slots=int(slots) if slots else None,
    )


def _column_name(word: str) -> str:
    """Return the normalized name of a column; a label's name is kept as it is."""
    word = word.strip()
    if word.lower().startswith(_LABEL):
        return _LABEL + word[len(_LABEL) :].strip()
    return _SAME.get(word.lower(), word.lower())


def _split_label(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ValueError(f"the label {word!r} is not KEY=VALUE")
    return key.strip(), value.strip()


def _split_cell(cell: str | None) -> list[str]:
    """Return the values of a cell; separated by spaces, semicolons, bars or commas."""
    for separator in ";|,":
        cell = (cell or "").replace(separator, " ")
    return (cell or "").split()


def _separator(line: str) -> str:
    return max(",;\t", key=line.count)


def is_hosts_file(lines: Sequence[str]) -> bool:
    """Return True if these lines are of a hosts file."""
    words = [line.split() for line in lines]
    return bool(words) and all(
        len(w) > 1 and _parse_address(w[0]) is not None and "=" not in w[1] for w in words
    )


def read_hosts(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError with the line.

    If a name appears twice, the first entry is used.
    """
    found: dict[str, FoundTarget] = {}
    left: list[Skipped] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        address = _parse_address(words[0])
        if address is None or len(words) < 2:
            raise ValueError(
                f"line {number}: {line.strip()[:60]!r} is not an address followed by names"
            )
        name = words[1]
        if (reason := _refuse_reason(address)) is not None:
            left.append(Skipped(f"{words[0]} {name}", reason, target=True))
        elif name in found:
            left.append(
                Skipped(
                    f"{words[0]} {name}",
                    f"the name already has the address {found[name].host}",
                    target=True,
                )
            )
        else:
            found[name] = FoundTarget(name, words[0])
        if len(found) > TARGETS_MAX:
            raise ValueError(f"it has more than {TARGETS_MAX} hosts")
    return ImportedInventory([*found.values()], left)


def _parse_address(word: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        return None


def _refuse_reason(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    if address.is_loopback or address.is_unspecified:
        return "it is the machine itself"
    if address.is_multicast or str(address) == "255.255.255.255":
        return "it is a multicast or broadcast address"
    return "it is a link-local address" if address.is_link_local else None


# --- the configuration of the OpenSSH client


_LINE = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:\s*=\s*|\s+)(.*)")
_REFUSED_OPTIONS = {
    "proxycommand": "it uses a ProxyCommand: give it a ProxyJump, or add it by hand"
}
_REPORTED_OPTIONS = (
    "certificatefile",
    "forwardagent",
    "localforward",
    "remoteforward",
    "remotecommand",
)


@dataclass
class _Block:
    patterns: list[str]
    options: dict[str, str] = field(default_factory=dict)

    def applies(self, name: str) -> bool:
        if any(p.startswith("!") and fnmatchcase(name, p[1:]) for p in self.patterns):
            return False
        return any(fnmatchcase(name, p) for p in self.patterns if not p.startswith("!"))


def is_ssh_config(lines: Sequence[str]) -> bool:
    """Return True if these lines are of an ssh_config."""
    return any(re.match(r"(?i)host(\s+|\s*=\s*)\S", line) for line in lines)


def read_ssh_config(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError with the line."""
    left: list[Skipped] = []
    blocks = _blocks(text, left)
    names = dict.fromkeys(p for block in blocks for p in block.patterns if not _is_pattern(p))
    if len(names) > TARGETS_MAX:
        raise ValueError(f"it has more than {TARGETS_MAX} hosts")
    left += [
        Skipped(p, "a pattern is not a host; its options apply to the hosts that it matches")
        for p in dict.fromkeys(p for block in blocks for p in block.patterns if _is_pattern(p))
    ]
    found: dict[str, FoundTarget] = {}
    for name in names:
        try:
            found[name] = _build_ssh_target(name, blocks)
        except ValueError as error:
            left.append(Skipped(name, str(error), target=True))
    left += _unsupported(blocks)
    return ImportedInventory(_with_jumps(found, blocks, left), left)


def _blocks(text: str, left: list[Skipped]) -> list[_Block]:
    blocks = [_Block(["*"])]
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise ValueError(f"line {number}: {stripped[:60]!r} is not an option with a value")
        option, value = match[1].lower(), match[2]
        if option == "host":
            blocks.append(_Block(_split_words(value, number)))
        elif option == "match":
            blocks.append(_Block([]))
            left.append(
                Skipped(
                    f"line {number}: Match {value[:60]}",
                    "Match is not supported: the whole block is ignored",
                )
            )
        elif option == "include":
            left.append(
                Skipped(
                    f"line {number}: Include {value[:60]}",
                    "included files are not read: import them too",
                )
            )
        else:
            # The first one is used, as by ssh.
            blocks[-1].options.setdefault(option, " ".join(_split_words(value, number)))
    return blocks


def _split_words(value: str, number: int) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        raise ValueError(f"line {number}: unclosed quote") from None


def _is_pattern(name: str) -> bool:
    return name.startswith("!") or "*" in name or "?" in name


def _options(name: str, blocks: Sequence[_Block]) -> dict[str, str]:
    options: dict[str, str] = {}
    for block in blocks:
        if block.applies(name):
            options = {**block.options, **options}
    return options


def _build_ssh_target(name: str, blocks: Sequence[_Block]) -> FoundTarget:
    options = _options(name, blocks)
    for option, reason in _REFUSED_OPTIONS.items():
        if options.get(option, "none").lower() != "none":
            raise ValueError(reason)
    host = options.get("hostname", name).replace("%h", name).replace("%%", "%")
    jump = options.get("proxyjump", "none")
    return FoundTarget(
        name,
        host,
        parse_port(options["port"]) if "port" in options else None,
        options.get("user"),
        options.get("identityfile"),
        jump=None if jump.lower() == "none" else jump,
    )


def _with_jumps(
    found: dict[str, FoundTarget], blocks: Sequence[_Block], left: list[Skipped]
) -> list[FoundTarget]:
    """Resolve jump hosts to targets; create those that only a ProxyJump names."""
    for one in [*found.values()]:
        if one.jump is None:
            continue
        hops = [hop.strip() for hop in one.jump.split(",")]
        if len(hops) > 1 and any(_hop_name(hop) not in found for hop in hops):
            left.append(
                Skipped(
                    f"{one.name}: ProxyJump {one.jump}",
                    "a jump over several hosts: give each of them its own Host entry",
                )
            )
            found[one.name] = replace(one, jump=None)
            continue
        name = _hop_name(hops[-1])
        if name not in found:
            found[name] = _jump_host(hops[-1], blocks)
        found[one.name] = replace(one, jump=name)
        for nearer, hop in itertools.pairwise(hops):
            if found[_hop_name(hop)].jump is None:
                found[_hop_name(hop)] = replace(found[_hop_name(hop)], jump=_hop_name(nearer))
    return [*found.values()]


def _hop_name(hop: str) -> str:
    """Return the host of a jump: `deploy@gate.example.org:2222` -> `gate.example.org`."""
    return re.sub(r":\d+$", "", hop.rpartition("@")[2]).strip("[]")


def _jump_host(hop: str, blocks: Sequence[_Block]) -> FoundTarget:
    user, _, rest = hop.rpartition("@")
    port = re.search(r":(\d+)$", rest)
    made = replace(_build_ssh_target(_hop_name(hop), blocks), jump=None)
    return replace(made, user=user or made.user, port=parse_port(port[1]) if port else made.port)


def _unsupported(blocks: Sequence[_Block]) -> Iterator[Skipped]:
    reported = {
        option: ", ".join(block.patterns)[:60]
        for block in blocks
        for option in block.options
        if option in _REPORTED_OPTIONS
    }
    for option, where in reported.items():
        yield Skipped(f"{option} (Host {where})", "it is not supported")
