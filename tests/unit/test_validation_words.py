"""The library's validation errors in plain words."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from opsjobs.model.validation_messages import plain_words


class _Draft(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mode: str = ""
    kind: Literal["ssh", "local"] = "ssh"
    at: AwareDatetime = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    count: Annotated[int, Field(ge=1, le=9)] = 1
    key: Annotated[str, Field(max_length=3, pattern="^[a-z]*$")] = ""
    on: bool = True


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"mode": 644}, "it must be a text: put it in quotes"),
        ({"mode": []}, "it must be a text"),
        ({"kind": "locl"}, "it must be 'ssh' or 'local'; did you mean 'local'?"),
        ({"at": "2026-12-01T09:00:00"}, "it needs a time zone: Z, or an offset such as +01:00"),
        ({"count": 0}, "it must be at least 1"),
        ({"count": 10}, "it must be at most 9"),
        ({"count": "x"}, "it must be a whole number"),
        ({"key": "abcd"}, "it must have at most 3 characters"),
        ({"key": "A"}, "it must match the pattern ^[a-z]*$"),
        ({"on": "perhaps"}, "it must be true or false"),
        ({"colour": 1}, "there is no such field here"),
    ],
)
def test_what_the_library_says_is_told_in_plain_words(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _Draft.model_validate(body)
    assert [plain_words(error) for error in refused.value.errors()] == [words]
