"""Parameters: valid declarations, and the values that they accept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from opsjobs.model.errors import Invalid
from opsjobs.model.job import JobDraft
from opsjobs.model.parameter import ParameterDraft, bound, text_of, undeclared
from opsjobs.model.secret import Secret


def declared(*bodies: dict[str, Any]) -> list[ParameterDraft]:
    actions = [{"type": "command", "command": "true"}]
    return list(
        JobDraft.model_validate(
            {"name": "j", "actions": actions, "parameters": list(bodies)}
        ).parameters
    )


def value(body: dict[str, Any], given: object) -> object:
    """Return the value of `given` for one parameter, or the code of its refusal."""
    try:
        return bound(declared({"name": "p", **body}), {"p": given})["p"]
    except Invalid as refused:
        return ", ".join(error.code for error in refused.errors)


@pytest.mark.parametrize(
    ("body", "given", "found"),
    [
        ({}, "a b", "a b"), ({}, 7, "7"), ({}, True, "wrong_type"), ({}, ["a"], "wrong_type"), ({}, "a\0b", "bad_character"),
        ({}, "x" * 32_769, "too_long"), ({"pattern": "[a-z]+"}, "abc", "abc"), ({"pattern": "[a-z]+"}, "abc;", "pattern"),
        ({"pattern": "^[a-z]+$"}, "abc\n", "pattern"), ({"min_length": 2, "max_length": 3}, "a", "too_short"),
        ({"min_length": 2, "max_length": 3}, "abcd", "too_long"),
        ({"type": "integer"}, "-12", -12), ({"type": "integer"}, 1.5, "wrong_type"), ({"type": "integer"}, True, "wrong_type"),
        ({"type": "integer", "min": 1, "max": 9}, 0, "out_of_range"), ({"type": "integer", "min": 1, "max": 9}, "10", "out_of_range"),
        ({"type": "number"}, "1.5e3", 1500.0), ({"type": "number"}, "nan", "wrong_type"), ({"type": "number"}, "1e999", "wrong_type"),
        ({"type": "boolean"}, "true", True), ({"type": "boolean"}, 1, "wrong_type"), ({"type": "boolean"}, "yes", "wrong_type"),
        ({"type": "choice", "choices": ["a", 5]}, "5", 5), ({"type": "choice", "choices": ["a", 5]}, "b", "not_a_choice"),
        ({"type": "choice", "choices": [1]}, True, "not_a_choice"),
        ({"type": "multi_choice", "choices": ["a", "b"]}, "b, a", ["b", "a"]),
        ({"type": "multi_choice", "choices": ["a", "b"]}, ["a", "c"], "not_a_choice"),
        ({"type": "multi_choice", "choices": ["a", "b"], "min_length": 1}, [], "too_short"),
        ({"type": "datetime"}, "2026-12-01T09:00:00+01:00", "2026-12-01T09:00:00+01:00"),
        ({"type": "datetime"}, "2026-12-01T09:00:00", "wrong_type"), ({"type": "datetime"}, "tomorrow", "wrong_type"),
        ({"type": "datetime", "min": "2026-12-01T00:00:00Z"}, "2026-12-01T00:30:00+01:00", "out_of_range"),
        ({"type": "host_list"}, "web-1 10.0.0.5,db.example.org", ["web-1", "10.0.0.5", "db.example.org"]),
        ({"type": "host_list"}, ["-x"], "wrong_type"), ({"type": "secret"}, "hush", Secret("hush")),
        ({"secret": True}, 5, Secret("5")), ({"secret": True}, Secret("s"), Secret("s")), ({}, Secret("s"), "secret"),
        ({"default": "d"}, None, "d"), ({}, None, None), ({"required": True}, None, "required"),
        ({"required": True, "default": "d"}, None, "d"), ({"type": "string", "choices": ["a"]}, "b", "not_a_choice"),
    ],
)  # fmt: skip
def test_a_given_value_is_one_of_its_type_or_refused(
    body: dict[str, Any], given: object, found: object
) -> None:
    assert value(body, given) == found


@pytest.mark.parametrize(
    ("bodies", "at"),
    [
        ([{"name": "a", "default": 1, "type": "boolean"}], ["parameters", 0, "default"]),
        ([{"name": "a", "default": "9", "pattern": "[a-z]"}], ["parameters", 0, "default"]),
        ([{"name": "a", "type": "choice"}], ["parameters", 0, "choices"]),
        ([{"name": "a", "type": "integer", "choices": [1, "x"]}], ["parameters", 0, "choices", 1]),
        ([{"name": "a", "type": "integer", "min": 3, "max": 2}], ["parameters", 0, "min"]),
        ([{"name": "a", "type": "integer", "pattern": "x"}], ["parameters", 0, "pattern"]),
        ([{"name": "a", "min": 1}], ["parameters", 0, "min"]),
        ([{"name": "a", "secret": True, "default": "x"}], ["parameters", 0, "default"]),
        ([{"name": "a", "secret": True, "type": "integer"}], ["parameters", 0, "secret"]),
        ([{"name": "a", "secret": True, "choices": ["x"]}], ["parameters", 0, "choices"]),
        ([{"name": "a-b"}, {"name": "A_B"}], ["parameters", 1, "name"]),
        ([{"name": "a", "type": "choice", "choices_by": {"parameter": "b", "map": {"x": ["1"]}}}, {"name": "b"}],
         ["parameters", 0, "choices_by", "parameter"]),
    ],
)  # fmt: skip
def test_what_may_not_be_declared_is_refused_at_its_place(
    bodies: list[dict[str, Any]], at: list[object]
) -> None:
    with pytest.raises(ValidationError) as refused:
        declared(*bodies)
    error = refused.value.errors()[0]
    assert [*error["loc"], *error["ctx"]["at"]] == at


@pytest.mark.parametrize("url", ["ftp://x/y", "https://ada:pw@x/y", "x", "file:///etc/passwd"])
def test_choices_come_from_web_addresses_without_passwords(url: str) -> None:
    with pytest.raises(ValidationError, match="not an address"):
        declared({"name": "a", "type": "choice", "choices_url": url})


def test_a_pattern_that_cannot_be_matched_in_linear_time_is_refused() -> None:
    with pytest.raises(ValidationError, match="linear time"):
        declared({"name": "a", "pattern": r"(a)\1"})


def test_allowed_values_hang_on_another_parameter() -> None:
    by = {"parameter": "env", "map": {"prod": ["a", "b"], "dev": ["c"]}}
    both = declared(
        {"name": "env", "default": "dev"}, {"name": "host", "type": "choice", "choices_by": by}
    )
    assert bound(both, {"host": "c"}) == {"env": "dev", "host": "c"}
    assert bound(both, {"host": "a", "env": "prod"})["host"] == "a"
    with pytest.raises(Invalid, match="not among the allowed"):
        bound(both, {"host": "a"})


def test_fetched_choices_count_as_if_they_stood_there() -> None:
    one = declared({"name": "v", "type": "choice", "choices_url": "https://example.org/versions"})
    assert bound(one, {"v": "2"}, {"v": [1, 2]}) == {"v": 2}
    with pytest.raises(Invalid, match="not among the allowed"):
        bound(one, {"v": "3"}, {"v": [1, 2]})


def test_all_that_is_wrong_is_told_at_once_each_at_its_place() -> None:
    with pytest.raises(Invalid) as refused:
        bound(
            declared({"name": "a", "required": True}, {"name": "b", "type": "integer"}),
            {"b": "x", "c/d": 1},
        )
    told = [(error.pointer, error.code) for error in refused.value.errors]
    assert told == [
        ("/parameters/c~1d", "unknown_parameter"),
        ("/parameters/a", "required"),
        ("/parameters/b", "wrong_type"),
    ]


def test_values_of_an_ad_hoc_execution_declare_themselves() -> None:
    values = {"a": "x", "b": 2, "c": True, "d": 1.5}
    assert bound(undeclared(values), values) == values
    with pytest.raises(Invalid, match="/parameters/1x"):
        undeclared({"1x": 1})


@given(
    some.one_of(
        some.text(max_size=9),
        some.integers(-99, 99),
        some.booleans(),
        some.lists(some.text("ab", min_size=1)),
    )
)
def test_a_secret_never_shows_and_every_value_has_a_text(value: Any) -> None:
    assert isinstance(text_of(value), str)
    assert str(Secret(text_of(value))) == "***"
