"""CSV tables with a header line; separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence

from opsjobs.cli.importing.inventory import (
    TARGETS_MAX,
    FoundTarget,
    ImportedInventory,
    Skipped,
    port_of,
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


def looks_like(lines: Sequence[str]) -> bool:
    """Return True if these lines are a CSV table."""
    if not lines:
        return False
    heading = {word.strip().lower() for word in lines[0].split(_separator(lines[0]))}
    return len(heading) > 1 and bool(heading & {"name", "host", "hostname"})


def read(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError without a `name` or `host` column."""
    text = text.removeprefix("\ufeff")
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter=_separator(text.partition("\n")[0]), strict=True
    )
    try:
        heading = [_column(word) for word in next(rows, [])]
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
                _take(
                    found,
                    left,
                    dict(zip(heading, (cell.strip() for cell in row), strict=False)),
                    rows.line_num,
                )
    except csv.Error as wrong:
        raise ValueError(f"line {rows.line_num}: {wrong}") from None
    return ImportedInventory([*found.values()], left)


def _take(
    found: dict[str, FoundTarget], left: list[Skipped], cells: Mapping[str, str], number: int
) -> None:
    name = cells.get("name") or cells.get("host") or ""
    try:
        _check_name(name, found)
        found[name] = _build_target(name, cells)
    except ValueError as wrong:
        left.append(Skipped(f"line {number}: {name or '(no name)'}", str(wrong), target=True))
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
    labels = dict(_pair(word) for word in _split(cells.get("labels")))
    labels |= {
        c.removeprefix(_LABEL): value
        for c, value in cells.items()
        if c.startswith(_LABEL) and value
    }
    return FoundTarget(
        name,
        cells.get("host") or name,
        port_of(cells["port"]) if cells.get("port") else None,
        cells.get("user") or None,
        cells.get("key") or None,
        cells.get("credential") or None,
        groups=_split(cells.get("groups")),
        labels=labels,
        jump=cells.get("jump") or None,
        transport=cells.get("transport") or None,
        platform=cells.get("platform") or None,
        zone=cells.get("zone") or None,
        slots=int(slots) if slots else None,
    )


def _column(word: str) -> str:
    """Return the normalized name of a column; a label's name is kept as it is."""
    word = word.strip()
    if word.lower().startswith(_LABEL):
        return _LABEL + word[len(_LABEL) :].strip()
    return _SAME.get(word.lower(), word.lower())


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ValueError(f"the label {word!r} is not KEY=VALUE")
    return key.strip(), value.strip()


def _split(cell: str | None) -> list[str]:
    """Return the values of a cell; separated by spaces, semicolons, bars or commas."""
    for separator in ";|,":
        cell = (cell or "").replace(separator, " ")
    return (cell or "").split()


def _separator(line: str) -> str:
    return max(",;\t", key=line.count)
