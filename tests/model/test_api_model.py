"""Bodies are accepted as they are written: numbers, booleans, and instants with a zone."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from opsjobs.model.api_model import ApiModel, Duration, Moment


class Body(ApiModel):
    """A model with a field of each type."""

    port: int = 22
    share: float | None = None
    loud: bool = False
    codes: list[int] = Field(default_factory=list)
    timeout: Duration = 30.0
    at: Moment | None = None


@pytest.mark.parametrize(
    "body",
    [
        {"port": "22"},
        {"port": True},
        {"port": 22.5},
        {"share": "0.5"},
        {"share": False},
        {"loud": "yes"},
        {"loud": 1},
        {"loud": "true"},
        {"codes": ["3"]},
        {"codes": [True]},
        {"codes": "3"},
        {"at": 1_800_000_000},
        {"at": "1800000000"},
        {"at": "0.5"},
        {"at": "2026-11-24"},
        {"at": "2026-11-24T09:00:00"},
        {"at": True},
    ],
)
def test_what_is_of_another_type_is_refused_at_its_field(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        Body.model_validate(body)
    assert {fault["loc"][0] for fault in refused.value.errors()} == set(body)


def test_what_is_of_the_type_is_taken() -> None:
    body = {
        "port": 2222,
        "share": 1,
        "loud": True,
        "codes": [0, 3],
        "timeout": "10m",
        "at": "2026-11-24T09:00:00+01:00",
    }
    taken = Body.model_validate(body)
    assert (taken.port, taken.share, taken.loud, taken.codes, taken.timeout) == (
        2222,
        1.0,
        True,
        [0, 3],
        600.0,
    )
    assert taken.at is not None
    assert taken.at.utcoffset() is not None
