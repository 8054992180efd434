"""Lists of hosts: CSV tables with a header line, and files such as /etc/hosts."""

from __future__ import annotations

import csv
import io
import ipaddress
from collections.abc import Collection, Mapping, Sequence

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
