"""Selections of targets: by id, by group, by a selector over their labels.

Also the groups themselves, which may select by labels and contain each other, and label counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from opsjobs.model.api_model import ApiModel
from opsjobs.model.naming import Composed, Name

_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")
_SET = re.compile(r"(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_PAIR = re.compile(r"(?P<key>[^\s!=,()]+)\s*(?P<op>==?|!=)\s*(?P<value>[^\s,()!=]*)")
_BARE = re.compile(r"(?P<not>!?)\s*(?P<key>[^\s!=,()]+)")
DEPTH_MAX = 8
LABEL_KEYS_MAX = 100
LABEL_VALUES_MAX = 50

TargetRef = Annotated[Composed, Field(min_length=1, max_length=200)]
"""The id, uuid or name of a target."""


class SelectionDraft(ApiModel):
    """A selection of targets: the union of ids, groups and a selector, without exclusions.

    `ids` and `exclude` are ids, uuids or names.
    """

    ids: list[TargetRef] = Field(default_factory=list, max_length=10_000)
    groups: list[Name] = Field(default_factory=list, max_length=1_000)
    selector: str | None = Field(default=None, max_length=4_096)
    exclude: list[TargetRef] = Field(default_factory=list, max_length=10_000)

    @field_validator("ids", "exclude", mode="before")
    @classmethod
    def _ids_may_be_numbers(cls, entries: object) -> object:
        if not isinstance(entries, list):
            return entries
        return [str(i) if isinstance(i, int) and not isinstance(i, bool) else i for i in entries]

    @model_validator(mode="after")
    def _selector_parses(self) -> SelectionDraft:
        if self.selector is not None:
            parse_selector(self.selector)
        return self

    @property
    def empty(self) -> bool:
        """True if nothing is selected."""
        return not (self.ids or self.groups or self.selector)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition of a selector: the label `key` has one of `values`; no values: it exists.

    `negated` inverts the condition."""

    key: str
    values: tuple[str, ...] = ()
    negated: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return True if these labels match. A missing label matches every negated condition."""
        held = self.key in labels if not self.values else labels.get(self.key) in self.values
        return held != self.negated


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Parse conditions such as `env=prod,role in (web,api),!canary`, all of which must hold.

    Forms: `k=v`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k`, `!k`. Raises ValueError naming
    the fault."""
    requirements: list[Requirement] = []
    rest = text.strip()
    while rest:
        requirement, end = _requirement(rest)
        if not _LABEL_KEY.fullmatch(requirement.key):
            raise ValueError(f"{requirement.key!r} in the selector is not a label name")
        requirements.append(requirement)
        rest = rest[end:].lstrip()
        if rest and not rest.startswith(","):
            raise ValueError(
                f"the selector cannot be read at {rest[:30]!r}: conditions are separated by commas"
            )
        if rest and not (rest := rest[1:].lstrip()):
            raise ValueError("the selector ends with a comma")
    if not requirements:
        raise ValueError("the selector is empty")
    return tuple(requirements)


def _requirement(rest: str) -> tuple[Requirement, int]:
    if m := _SET.match(rest):
        values = tuple(v.strip() for v in m["values"].split(",") if v.strip())
        if not values:
            raise ValueError(f"the selector's list for {m['key']!r} is empty")
        return Requirement(m["key"], values, m["op"] == "notin"), m.end()
    if m := _PAIR.match(rest):
        if m["op"] == "==" and not m["value"]:
            raise ValueError(
                f"{m[0].strip()!r} in the selector has no value: write {m['key']}=VALUE, or "
                f"{m['key']} for any value"
            )
        return Requirement(m["key"], (m["value"],), m["op"] == "!="), m.end()
    if m := _BARE.match(rest):
        return Requirement(m["key"], (), bool(m["not"])), m.end()
    raise ValueError(f"the selector cannot be read at {rest[:30]!r}")


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
                path = [here]
                while path[0] != name:
                    path.insert(0, before[path[0]])
                return [*path, name]
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


@dataclass(frozen=True, slots=True)
class LabelCount:
    """A label key with its most frequent values, and the numbers of targets that have them."""

    key: str
    targets: int
    """The number of targets that have the key."""
    values: Sequence[tuple[str, int]]
    """At most 50 values, the most frequent ones first."""
    more: int = 0
    """The number of further values."""

    def data(self) -> dict[str, Any]:
        """Return an item of GET /targets/labels."""
        values = [{"value": value, "targets": targets} for value, targets in self.values]
        return {"key": self.key, "targets": self.targets, "values": values, "more": self.more}


def count_labels(counts: Mapping[tuple[str, str], int]) -> list[LabelCount]:
    """Return the labels in order of keys, at most 100, from the counts of keys and values."""
    by_key: dict[str, list[tuple[str, int]]] = {}
    for (key, value), targets in counts.items():
        by_key.setdefault(key, []).append((value, targets))
    found = []
    for key in sorted(by_key)[:LABEL_KEYS_MAX]:
        values = sorted(by_key[key], key=lambda pair: (-pair[1], pair[0]))
        shown = values[:LABEL_VALUES_MAX]
        total = sum(targets for _, targets in values)
        found.append(LabelCount(key, total, shown, len(values) - len(shown)))
    return found
