"""Many targets at once: what a caller writes of them, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from opsjobs.model.wire import Wire, snake_case

IMPORTED_AT_MOST = 1_000


class ImportDraft(Wire):
    """Body of POST /targets/import. A target that is there already, by its name, keeps whatever its entry does not mention."""

    targets: list[dict[str, Any]] = Field(min_length=1, max_length=IMPORTED_AT_MOST)
    existing: Literal["update", "skip"] = "update"
    dry_run: bool = False

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries, their fields spelt our way."""
        return [{snake_case(key): value for key, value in entry.items()} for entry in self.targets]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one entry. `error`: why it was refused, {code, message}."""

    position: int
    name: str
    outcome: Literal["created", "updated", "unchanged", "skipped", "refused"]
    id: str | None = None
    error: Mapping[str, str] | None = None

    def data(self) -> dict[str, Any]:
        """An item of the answer."""
        return {
            "position": self.position,
            "name": self.name,
            "outcome": self.outcome,
            "id": self.id,
            "error": dict(self.error) if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of all of them."""

    outcomes: Sequence[Outcome] = field(default_factory=tuple)
    dry_run: bool = False

    def data(self) -> dict[str, Any]:
        """The body of the answer."""
        counts = dict.fromkeys(("created", "updated", "unchanged", "skipped", "refused"), 0)
        for outcome in self.outcomes:
            counts[outcome.outcome] += 1
        return {**counts, "dry_run": self.dry_run, "items": [outcome.data() for outcome in self.outcomes]}


def jumps_first(entries: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """The positions of the entries, each after the one that it names as its jump host; circles are broken somewhere."""
    by_name = {entry.get("name"): position for position, entry in enumerate(entries)}
    done: set[int] = set()
    for position in range(len(entries)):
        way: list[int] = []
        here: int | None = position
        while here is not None and here not in done:
            done.add(here)
            way.append(here)
            jump = entries[here].get("jump")
            here = by_name.get(jump) if isinstance(jump, str) else None
        yield from reversed(way)
