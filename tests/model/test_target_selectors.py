"""Label selectors: their meaning, and refusals that name the position."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from opsjobs.model.selection import Requirement, SelectionDraft, parse_selector

WEB = {"env": "prod", "role": "web", "site": ""}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("env=prod", True),
        ("env==prod", True),
        ("env=test", False),
        ("env != test", True),
        ("missing!=x", True),
        ("missing=x", False),
        ("role in (web, api)", True),
        ("role notin (web,api)", False),
        ("missing notin (a)", True),
        ("site", True),
        ("site=", True),
        ("!site", False),
        ("!canary", True),
        ("env=prod,role in (web,api),!canary", True),
        (" env = prod , role = db ", False),
    ],
)
def test_a_selector_means_what_it_says(text: str, holds: bool) -> None:
    assert all(requirement.matches(WEB) for requirement in parse_selector(text)) is holds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("env=prod,", "ends with a comma"),
        ("env=prod role=web", "separated by commas"),
        ("role in ()", "list for 'role' is empty"),
        ("role in (web", "cannot be read at"),
        (",env", "cannot be read at"),
        ("-env=prod", "not a label name"),
        ("env==", "'env==' in the selector has no value: write env=VALUE, or env for any value"),
        ("role=web,env== ,!canary", "has no value"),
        ("env=prod;drop", None),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_place(text: str, words: str | None) -> None:
    if words is None:  # a strange value is still a value
        assert parse_selector(text) == (Requirement("env", ("prod;drop",)),)
        return
    with pytest.raises(ValueError, match=words):
        parse_selector(text)


KEYS = some.from_regex(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,20}", fullmatch=True).filter(
    lambda key: key not in ("in", "notin")
)
VALUES = some.from_regex(r"[A-Za-z0-9_.-]{1,10}", fullmatch=True)
REQUIREMENTS = some.builds(
    Requirement, KEYS, some.lists(VALUES, max_size=3).map(tuple), some.booleans()
)


def spelt(requirement: Requirement) -> str:
    """Return the requirement as a person would write it."""
    if not requirement.values:
        return f"{'!' if requirement.negated else ''}{requirement.key}"
    if len(requirement.values) == 1:
        return f"{requirement.key}{'!=' if requirement.negated else '='}{requirement.values[0]}"
    return f"{requirement.key} {'notin' if requirement.negated else 'in'} ({', '.join(requirement.values)})"


@given(some.lists(REQUIREMENTS, min_size=1, max_size=4))
def test_what_is_written_reads_back(requirements: list[Requirement]) -> None:
    assert parse_selector(",".join(map(spelt, requirements))) == tuple(requirements)


@given(some.text(max_size=60))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_selector(text)


def test_a_selection_checks_its_selector_and_takes_numbers_for_ids() -> None:
    assert SelectionDraft.model_validate({"ids": [7, "web-1"]}).ids == ["7", "web-1"]
    with pytest.raises(ValidationError, match="ends with a comma"):
        SelectionDraft(selector="env=prod,")
    with pytest.raises(ValidationError):
        SelectionDraft.model_validate({"ids": [True]})
    assert SelectionDraft().empty
