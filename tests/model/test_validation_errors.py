"""Pydantic's validation errors in plain words."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.validation_errors import plain_words


class _Draft(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mode: str = ""
    kind: Literal["ssh", "local"] = "ssh"
    at: AwareDatetime = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    count: Annotated[int, Field(ge=1, le=9)] = 1
    key: Annotated[str, Field(max_length=3, pattern="^[a-z]*$")] = ""
    zone: Annotated[str, Field(pattern=text_patterns.ZONE)] = "default"
    on: bool = True
    tags: Annotated[list[str], Field(max_length=2)] = []


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
        ({"tags": ["a", "b", "c"]}, "it must have at most 2 items"),
        ({"key": "A"}, "it must match the pattern ^[a-z]*$"),
        (
            {"zone": "Paris"},
            "it must be 1 to 63 lower-case letters, digits, _ or -, and begin with a letter or digit",
        ),
        ({"on": "perhaps"}, "it must be true or false"),
        ({"colour": 1}, "there is no such field here"),
    ],
)
def test_what_the_library_says_is_told_in_plain_words(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _Draft.model_validate(body)
    assert [plain_words(error) for error in refused.value.errors()] == [words]


class _Body(ApiModel):
    source: str = ""
    destination: str = ""
    command: str = ""
    cwd: str = ""
    timeout_seconds: int = 0
    from_: str = Field(default="", alias="from")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dest", "destination"),
        ("cmd", "command"),
        ("comand", "command"),
        ("timeout-seconds", "timeout_seconds"),
        ("timeoutSecond", "timeout_seconds"),
        ("form", "from"),
        ("zebra", None),
        ("x" * 100_000, None),
    ],
)
def test_a_refused_field_names_the_one_that_was_probably_meant(
    name: str, meant: str | None
) -> None:
    with pytest.raises(ValidationError) as refused:
        _Body.model_validate({name: 1, "cwd": "/"})
    hint = f"; did you mean {meant!r}?" if meant else ""
    assert [plain_words(error) for error in refused.value.errors()] == [
        f"there is no such field here{hint}"
    ]


def test_a_field_is_taken_by_its_alias() -> None:
    assert _Body.model_validate({"from": "here"}).from_ == "here"
