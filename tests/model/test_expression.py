"""Conditions: their meaning, and refusals with their position."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsjobs.model.expression import DEPTH_MAX, NODES_MAX, Fault, NameScope, Unfit, ValueKind, parse


def pattern(text: str) -> Any:
    try:
        return re.compile(text).search
    except re.error as wrong:
        raise ValueError(str(wrong)) from None


SCOPE = NameScope(
    parameters={
        "service": ValueKind.TEXT,
        "count": ValueKind.NUMBER,
        "force": ValueKind.BOOLEAN,
        "hosts": ValueKind.LIST,
    },
    actions={"check", "step-1"},
    pattern=pattern,
)
VALUES: dict[str, Any] = {
    "parameters": {"service": "nginx", "count": 3, "force": True, "hosts": ["web-1", "db-1"]},
    "target": {"name": "web-1", "host": "10.0.0.1", "labels": {"env": "prod", "app/tier": "front"}},
    "execution": {"id": 7, "number": None},
    "run": {"attempt": 1},
    "actions": {
        "check": {
            "exit_code": 0,
            "stdout": "all well\n",
            "status": "succeeded",
            "outputs": {"free": 12, "role": "db", "on": True},
        },
        "step-1": {"exit_code": 3, "stdout": "", "status": "failed", "outputs": None},
    },
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("true", True),
        ("not true", False),
        ("not not true", True),
        ("null", False),
        ('target.labels.env == "prod"', True),
        ("target.labels.env == 'prod' and parameters.count > 2", True),
        ("target.labels.env != 'prod' or parameters.count >= 4", False),
        ("true or true and false", True),
        ("(true or true) and false", False),
        ("parameters.force", True),
        ("parameters.service in ['nginx', 'apache']", True),
        ("parameters.service not in ['nginx']", False),
        ("not parameters.service in ['nginx']", False),
        ("target.name in parameters.hosts", True),
        ("'gin' in parameters.service", True),
        ("parameters.count in [1, 2, 3]", True),
        ("parameters.count in []", False),
        ("true in [1]", False),
        ('target.name matches "^web-[0-9]+$"', True),
        ("actions.check.exit_code == 0", True),
        ("actions.step-1.exit_code == 3 and actions.step-1.status == 'failed'", True),
        ("actions.check.stdout matches 'well'", True),
        ("actions.check.outputs.free < 12.5", True),
        ("actions.check.outputs.on", True),
        ("actions.check.outputs.gone", False),
        ("actions.check.outputs.gone == null", True),
        ("actions.step-1.outputs.free > 1", False),
        ("target.labels.gone == 'x'", False),
        ("target.labels.gone matches 'x'", False),
        ("target.labels.gone not in ['x']", True),
        ('target.labels["app/tier"] == "front"', True),
        ("target.labels.app/tier == 'front'", True),
        ("execution.number == null and execution.id == 7", True),
        ("-1 < 0 and 1.5 > 1", True),
        ("'a\\'b\\n' == \"a'b\n\"", True),
        ("'b' > 'a'", True),
    ],
)
def test_it_means_what_it_says(text: str, holds: bool) -> None:
    assert parse(text, SCOPE).holds(VALUES) is holds


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("", 0, "a value was expected"),
        ("parameters.servise == 'x'", 0, "no parameter 'servise'"),
        ("true and actions.later.exit_code == 0", 9, "no action 'later' has ended before"),
        ("actions.check.exitcode == 0", 0, "of an action there are"),
        ("target.colour == 'x'", 0, "no value 'target.colour'"),
        ("parameters.count == 'x'", 17, "cannot be compared"),
        ("parameters.force < true", 0, "compares numbers or texts"),
        ("parameters.service", 0, "true or false"),
        ("true and parameters.count", 9, "true or false"),
        ("parameters.count matches 'x'", 0, "only a text"),
        ("target.name matches target.host", 20, "a pattern in quotes"),
        ("target.name matches '('", 20, "cannot be used"),
        ("1 in 2", 5, "a list or a text"),
        ("1 in 'a'", 0, "only a text"),
        ("true true", 5, "not expected"),
        ("(true", 5, "')' was expected"),
        ("[1, ", 4, "a value was expected"),
        ("1 = 1", 2, "neither a name"),
        ("__import__('os').system('true')", 0, "no value"),
        ("'open", 0, "neither a name"),
        ("target.", 7, "a name was expected"),
        ("a" * 5_000, 4_096, "longer than"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(text: str, at: int, words: str) -> None:
    with pytest.raises(Fault) as refused:
        parse(text, SCOPE)
    assert refused.value.at == at, refused.value
    assert words in refused.value.words


def test_depth_and_size_have_limits() -> None:
    deep = "(" * (DEPTH_MAX - 1) + "true" + ")" * (DEPTH_MAX - 1)
    assert parse(deep, SCOPE).holds({})
    for text in (f"({deep})", " or ".join(["true"] * NODES_MAX)):
        with pytest.raises(Fault):
            parse(text, SCOPE)
    with pytest.raises(Fault):
        parse("not " * NODES_MAX + "true", SCOPE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("actions.check.outputs.free", "true or false"),
        ("actions.check.outputs.role < 3", "cannot be put in order"),
        ("actions.check.outputs.free matches 'x'", "not text"),
        ("1 in actions.check.outputs.on", "nothing is in it"),
    ],
)
def test_what_only_a_run_shows_is_told_in_words(text: str, words: str) -> None:
    with pytest.raises(Unfit, match=words):
        parse(text, SCOPE).holds(VALUES)


def test_it_says_what_it_reads() -> None:
    names = parse("actions.check.stdout == 'x' or parameters.force", SCOPE).names
    assert names == {("actions", "check", "stdout"), ("parameters", "force")}


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_a_fault(text: str) -> None:
    with contextlib.suppress(Fault, Unfit):
        parse(text, SCOPE).holds(VALUES)


_WORDS = [
    "true",
    "false",
    "not",
    "and",
    "or",
    "(",
    ")",
    "in",
    "==",
    "<",
    "1",
    "'a'",
    "[",
    "]",
    ",",
    "target.name",
    "null",
]


@given(st.lists(st.sampled_from(_WORDS), max_size=12))
def test_any_sequence_of_words_is_a_condition_or_a_fault(words: list[str]) -> None:
    test_any_text_is_a_condition_or_a_fault.hypothesis.inner_test(" ".join(words))  # type: ignore[attr-defined]
