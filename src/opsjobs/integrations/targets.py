"""The source of targets and credentials: the Target Service or the built-in inventory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from opsjobs.model.access import Reach
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Endpoint, Target

JUMPS_MAX = 4
"""Jump hosts per target that are looked up; a longer route is cut off there."""


class Targets(Protocol):
    """The selection at launch, and the route to a machine just before its session."""

    async def resolve(self, selection: SelectionDraft, sight: Reach | None = None) -> list[Target]:
        """Return the selected targets, each once: by ids, then groups, then selector.

        Raises Invalid("unknown_target") with a pointer to each entry of `ids` or `groups` that
        does not exist, or to a target that is not visible in `sight` (None: all are visible);
        Forbidden if groups or the selector match nothing and not everything is visible.
        """

    async def endpoints(self, target_ids: Sequence[str]) -> dict[str, Endpoint]:
        """Return the endpoints of these targets, with secrets; skip unknown ids."""

    async def count(self) -> int:
        """Return the number of all targets."""

    async def get_many(
        self, target_ids: Sequence[str], *, strict: bool = False
    ) -> dict[str, Target]:
        """Return these targets as they are now, by id; leave out unknown ids.

        `strict`: raise Unavailable if the known data is too old to start work.
        """


async def load_jump_hosts(inventory: Targets, targets: Sequence[Target]) -> list[Target]:
    """Return all jump hosts of these targets; the inventory is queried only if there are some."""
    found: dict[str, Target] = {}
    ahead = {target.jump for target in targets if target.jump is not None}
    while ahead and len(found) <= JUMPS_MAX * len(targets):
        hosts = await inventory.get_many(sorted(ahead))
        found |= hosts
        ahead = {host.jump for host in hosts.values() if host.jump is not None} - found.keys()
    return list(found.values())
