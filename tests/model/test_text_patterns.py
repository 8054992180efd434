"""Each pattern of a body or a query has a description in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docs.test_complete import application
from opsjobs.model import text_patterns
from opsjobs.model.api_model import Duration, Pause, Size
from opsjobs.model.schedule.times import TimeOfDay


def patterns(at: Any) -> Iterator[str]:
    if isinstance(at, dict):
        if isinstance(at.get("pattern"), str):
            yield at["pattern"]
        for value in at.values():
            yield from patterns(value)
    elif isinstance(at, list):
        for value in at:
            yield from patterns(value)


def test_each_pattern_of_the_api_has_words() -> None:
    found = set(patterns(application().openapi()))
    # These have functions of their own with better messages.
    by_itself = {
        one
        for kind in (Duration, Pause, Size, TimeOfDay)
        for part in kind.__metadata__
        for one in patterns(getattr(part, "json_schema", None))
    }
    # Filters and Idempotency-Key: the list and the header have messages of their own.
    by_itself |= {r"^-?[0-9]{1,18}$", r"^[\x21-\x7e]{1,255}$"}
    assert found - by_itself <= text_patterns.WORDS.keys()
    assert len(found & text_patterns.WORDS.keys()) > 15
