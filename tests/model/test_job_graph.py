"""Between actions: what follows what, circles named, rollbacks apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from opsjobs.model.job import RunDraft
from opsjobs.model.job_graph import ancestors, dependencies, rollbacks


def draft(*bodies: dict[str, Any]) -> RunDraft:
    return RunDraft.model_validate(
        {"actions": [{"type": "wait", "duration": 1, **body} for body in bodies]}
    )


def fault_of(*bodies: dict[str, Any]) -> tuple[str, list[object], str]:
    with pytest.raises(ValidationError) as refused:
        draft(*bodies)
    error = refused.value.errors()[0]
    return error["type"], error["ctx"]["at"], error["ctx"]["detail"]


def test_an_action_follows_the_one_before_it_unless_it_says_what_it_follows() -> None:
    made = draft(
        {"key": "a"},
        {"key": "b"},
        {"key": "c", "depends_on": []},
        {"key": "d", "depends_on": ["a", "c"]},
        {"key": "e"},
    )
    assert dependencies(made.actions) == {
        "a": (),
        "b": ("a",),
        "c": (),
        "d": ("a", "c"),
        "e": ("d",),
    }
    assert ancestors(dependencies(made.actions))["e"] == {"a", "c", "d"}


def test_a_rollback_stands_apart_from_the_order() -> None:
    made = draft(
        {"key": "a", "on_failure": "rollback", "rollback": "undo"}, {"key": "undo"}, {"key": "b"}
    )
    assert rollbacks(made.actions) == {"undo"}
    assert dependencies(made.actions) == {"a": (), "undo": (), "b": ("a",)}


@pytest.mark.parametrize(
    ("bodies", "code", "at"),
    [
        ([{"key": "a"}, {"key": "a"}], "duplicate_key", ["actions", 1, "key"]),
        ([{"key": "step-2"}, {}], "duplicate_key", ["actions", 1, "key"]),
        ([{"depends_on": ["b"]}], "unknown_action", ["actions", 0, "depends_on", 0]),
        ([{"key": "a", "depends_on": ["a"]}], "cycle", ["actions", 0, "depends_on"]),
        ([{"on_failure": "rollback"}], "rollback", ["actions", 0, "on_failure"]),
        ([{"key": "a"}, {"rollback": "a"}], "rollback", ["actions", 1, "rollback"]),
        (
            [{"on_failure": "rollback", "rollback": "z"}],
            "unknown_action",
            ["actions", 0, "rollback"],
        ),
        (
            [{"key": "a", "on_failure": "rollback", "rollback": "a"}],
            "rollback",
            ["actions", 0, "rollback"],
        ),
        (
            [{"key": "a", "on_failure": "rollback", "rollback": "u"}, {"key": "u", "when": "true"}],
            "rollback",
            ["actions", 1, "when"],
        ),
        (
            [{"on_failure": "rollback", "rollback": "u"}, {"key": "u"}, {"depends_on": ["u"]}],
            "rollback",
            ["actions", 2, "depends_on", 0],
        ),
    ],
)
def test_a_wrong_structure_is_refused_at_its_place(
    bodies: list[dict[str, Any]], code: str, at: list[object]
) -> None:
    assert fault_of(*bodies)[:2] == (code, at)


def test_a_circle_is_named_in_its_order_without_what_only_hangs_on_it() -> None:
    code, at, detail = fault_of(
        {"key": "first"},
        {"key": "a", "depends_on": ["c"]},
        {"key": "b"},
        {"key": "c"},
        {"key": "hangs", "depends_on": ["a"]},
    )
    assert (code, at) == ("cycle", ["actions", 1, "depends_on"])
    assert "a waits for c waits for b waits for a:" in detail


@given(some.data())
def test_what_only_looks_back_is_never_a_circle_and_all_that_is_waited_for_is_an_ancestor(
    data: some.DataObject,
) -> None:
    bodies: list[dict[str, Any]] = []
    for n in range(data.draw(some.integers(1, 12))):
        before = data.draw(some.lists(some.integers(0, n - 1), unique=True)) if n else []
        bodies.append({"key": f"k{n}", "depends_on": [f"k{b}" for b in before]})
    known = dependencies(draft(*bodies).actions)
    for key, found in ancestors(known).items():
        assert key not in found
        assert set(known[key]) <= found


def test_a_long_chain_is_no_deep_recursion() -> None:
    assert (
        len(ancestors(dependencies(draft(*[{} for _ in range(1_000)]).actions))["step-1000"]) == 999
    )
