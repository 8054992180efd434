"""Bulk import of targets: the request, and the outcome of each entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from opsjobs.model.api_model import ApiModel, snake_case

IMPORTED_MAX = 1_000
Placing = Literal["merge", "replace"]
Change = Mapping[str, Any]


class ImportDraft(ApiModel):
    """Body of POST /targets/import.

    An existing target of the same name keeps whatever its entry does not mention. `labels` and
    `groups`: merge those of an entry with the existing ones, or replace them."""

    targets: list[dict[str, Any]] = Field(min_length=1, max_length=IMPORTED_MAX)
    existing: Literal["update", "skip"] = "update"
    labels: Placing = "merge"
    groups: Placing = "merge"
    dry_run: bool = False

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries with canonical field names."""
        return [{snake_case(key): value for key, value in entry.items()} for entry in self.targets]

    def onto(self, stored: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole target: the entry merged into the stored one."""
        wanted = {**stored, **entry}
        if self.labels == "merge" and isinstance(entry.get("labels"), dict):
            wanted["labels"] = {**stored.get("labels", {}), **entry["labels"]}
        if self.groups == "merge" and isinstance(entry.get("groups"), list):
            have = stored.get("groups", [])
            wanted["groups"] = [*have, *(group for group in entry["groups"] if group not in have)]
        return wanted


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Change]:
    """Return the changed fields of a target with their old and new values.

    Labels are compared by key, and options of WinRM by name.

    >>> before = {"port": 22, "labels": {"env": "prod"}}
    >>> differences(before, {"port": 22, "labels": {"env": "prod", "rack": "r1"}})
    {'labels.rack': {'from': None, 'to': 'r1'}}
    """
    old, new = _by_label(before), _by_label(after)
    return {
        name: {"from": old.get(name), "to": new.get(name)}
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    }


def _by_label(target: Mapping[str, Any]) -> dict[str, Any]:
    apart = {
        f"{name}.{key}": value
        for name in ("labels", "winrm")
        for key, value in (target.get(name) or {}).items()
    }
    return {
        **{name: value for name, value in target.items() if name not in ("labels", "winrm")},
        **apart,
    }


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one entry."""

    position: int
    name: str
    outcome: Literal["created", "updated", "unchanged", "skipped", "refused"]
    id: str | None = None
    error: Mapping[str, str] | None = None
    """The reason for a refusal: {code, message}."""
    changes: Mapping[str, Change] = field(default_factory=dict)
    """The changed fields of an updated target with their old and new values."""
    same_address: Sequence[str] = ()
    """Names of other targets that have its host and port."""

    def data(self) -> dict[str, Any]:
        """Return an item of the response."""
        return {
            "position": self.position,
            "name": self.name,
            "outcome": self.outcome,
            "id": self.id,
            "error": dict(self.error) if self.error else None,
            "changes": {name: dict(change) for name, change in self.changes.items()},
            "same_address": list(self.same_address),
        }


@dataclass(frozen=True, slots=True)
class Imported:
    """The outcomes of all entries."""

    outcomes: Sequence[Outcome] = field(default_factory=tuple)
    dry_run: bool = False

    def data(self) -> dict[str, Any]:
        """Return the body of the response."""
        counts = dict.fromkeys(("created", "updated", "unchanged", "skipped", "refused"), 0)
        for outcome in self.outcomes:
            counts[outcome.outcome] += 1
        return {
            **counts,
            "dry_run": self.dry_run,
            "items": [outcome.data() for outcome in self.outcomes],
        }


def jumps_first(entries: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Yield the positions of the entries, each after its jump host; cycles are broken."""
    by_name = {entry.get("name"): position for position, entry in enumerate(entries)}
    done: set[int] = set()
    for position in range(len(entries)):
        path: list[int] = []
        here: int | None = position
        while here is not None and here not in done:
            done.add(here)
            path.append(here)
            jump = entries[here].get("jump")
            here = by_name.get(jump) if isinstance(jump, str) else None
        yield from reversed(path)
