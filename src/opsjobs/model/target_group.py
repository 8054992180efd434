"""Groups of targets: their notation, and the limit of their nesting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from opsjobs.model.api_model import ApiModel
from opsjobs.model.target import Name, parse_selector

DEPTH_MAX = 8


class GroupDraft(ApiModel):
    """A target group as a caller writes it (body of POST and PUT /target-groups).

    Its members are the targets that name it, those that the selector matches, and those of the
    groups that it contains. `targets` (ids, uuids, names) replaces the list of targets that name
    it; None leaves it as it is."""

    name: Name
    description: str = Field(default="", max_length=2_000)
    selector: str | None = Field(default=None, max_length=4_096)
    groups: list[Name] = Field(default_factory=list, max_length=100)
    targets: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        default=None, max_length=10_000
    )

    @model_validator(mode="after")
    def _selector_parses(self) -> GroupDraft:
        if self.selector is not None:
            parse_selector(self.selector)
        return self


def check_nesting(name: str, held: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if a group contains itself, or is nested more than 8 deep.

    `held`: the groups that each group contains."""
    if (found := _circle(name, held)) is not None:
        raise ValueError(f"the group {name!r} would hold itself: {' > '.join(found)}")
    holders: dict[str, list[str]] = {}
    for holder, inner in held.items():
        for group in inner:
            holders.setdefault(group, []).append(holder)
    if _depth(name, held) + _depth(name, holders) - 1 > DEPTH_MAX:
        raise ValueError(
            f"groups may hold each other {DEPTH_MAX} deep, and with {name!r} they would be deeper"
        )


def _circle(name: str, held: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the path from a group back to itself, if there is one."""
    before: dict[str, str] = {}
    waiting = [name]
    while waiting:
        here = waiting.pop()
        for group in held.get(here, ()):
            if group == name:
                way = [here]
                while way[0] != name:
                    way.insert(0, before[way[0]])
                return [*way, name]
            if group not in before:
                before[group] = here
                waiting.append(group)
    return None


def _depth(name: str, held: Mapping[str, Sequence[str]]) -> int:
    """Return the nesting depth from here on, this group included.

    It stops counting at one more than the limit."""
    level, depth = {name}, 0
    while level and depth <= DEPTH_MAX:
        level, depth = {group for here in level for group in held.get(here, ())}, depth + 1
    return depth
