"""Where targets and their credentials come from: the Target Service, or the built-in inventory in the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from opsjobs.model.access import Reach
from opsjobs.model.target import Endpoint, SelectionDraft, Target


class Targets(Protocol):
    """The selection at launch, and the way to a machine just before its session."""

    async def resolve(self, selection: SelectionDraft, sight: Reach | None = None) -> list[Target]:
        """The targets selected, each once: as listed in ids, then groups, then selector, each of these by target id.

        Raises Invalid("unknown_target") with a pointer to each entry of `ids` or `groups` that names nothing, or a target out
        of sight (None: all are seen); Forbidden where groups or the selector find nothing and not all is in sight.
        """

    async def endpoints(self, target_ids: Sequence[str]) -> dict[str, Endpoint]:
        """What is needed to reach these targets now, credentials opened; unknown ids are left out."""

    async def count(self) -> int:
        """How many targets there are in all."""

    async def get_many(self, target_ids: Sequence[str]) -> dict[str, Target]:
        """These targets as they are now, by id; unknown ids are left out."""
