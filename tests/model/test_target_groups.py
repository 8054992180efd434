"""Groups that hold groups: no cycles, and not too deep."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from opsjobs.model.selection import DEPTH_MAX, GroupDraft, check_nesting


def chain(length: int) -> dict[str, list[str]]:
    return {f"g{n}": [f"g{n + 1}"] for n in range(1, length)}


def test_groups_may_hold_groups_and_share_them() -> None:
    check_nesting("all", {"all": ["web", "db"], "web": ["eu"], "db": ["eu"], "eu": []})


@pytest.mark.parametrize(
    ("held", "way"),
    [
        ({"a": ["a"]}, "a > a"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "a > b > c > a"),
        ({"a": ["x", "b"], "b": ["a"], "x": []}, "a > b > a"),
    ],
)
def test_a_circle_is_refused_with_its_way(held: dict[str, list[str]], way: str) -> None:
    with pytest.raises(ValueError, match=way):
        check_nesting("a", held)


def test_a_chain_is_bounded_wherever_the_new_link_is() -> None:
    longest = chain(DEPTH_MAX)
    for name in ("g1", f"g{DEPTH_MAX // 2}", f"g{DEPTH_MAX}"):
        check_nesting(name, longest)
        with pytest.raises(ValueError, match="deep"):
            check_nesting(name, chain(DEPTH_MAX + 1))


def test_a_selector_that_does_not_parse_is_refused() -> None:
    with pytest.raises(ValidationError, match="selector"):
        GroupDraft(name="web", selector="env=,,")
