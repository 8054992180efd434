"""A graph of actions, and its execution: which may start, which are skipped, how it ends.

Between actions: dependencies, named cycles, separate rollbacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis import strategies as st
from pydantic import ValidationError

from opsjobs.model.action import parse_frozen
from opsjobs.model.action_base import FrozenAction
from opsjobs.model.execution import RunStatus
from opsjobs.model.job import RunDraft
from opsjobs.model.workflow import Workflow, WorkflowWalk, ancestors, dependencies, rollbacks

OK, FAILED, LOST, SKIPPED = RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.LOST, RunStatus.SKIPPED
TIMEOUT, CANCELLED = RunStatus.TIMEOUT, RunStatus.CANCELLED


def action(key: str, after: Sequence[str] | None = None, **more: Any) -> FrozenAction:
    return parse_frozen({"key": key, "command": "true", "depends_on": after, **more})


def walked(
    actions: Sequence[FrozenAction],
    ends: Mapping[str, RunStatus] | None = None,
    skip: Sequence[str] = (),
) -> tuple[list[list[str]], str | None, list[str]]:
    """Return the rounds of concurrent actions, the last action, and the skipped ones.

    The end of the last action ends the run.
    """
    walk = WorkflowWalk(Workflow(actions), lambda key: key not in skip)
    rounds: list[list[str]] = []
    while ready := walk.ready():
        rounds.append(ready)
        for key in ready:
            walk.begin(key)
        assert walk.outcome() is None
        for key in ready:
            walk.record(key, (ends or {}).get(key, OK))
    return rounds, walk.outcome(), walk.skipped()


def test_without_a_word_on_it_an_action_follows_the_one_before() -> None:
    assert walked([action("a"), action("b"), action("c")]) == ([["a"], ["b"], ["c"]], "c", [])
    assert Workflow([action("a"), action("b"), action("c")]).linear


def test_branches_run_beside_each_other_and_meet() -> None:
    diamond = [action("a"), action("b", ["a"]), action("c", ["a"]), action("d", ["b", "c"])]
    assert walked(diamond) == ([["a"], ["b", "c"], ["d"]], "d", [])
    assert not Workflow(diamond).linear


def test_an_empty_list_starts_at_once() -> None:
    assert walked([action("a"), action("b", [])])[0] == [["a", "b"]]


def test_stop_starts_nothing_more_in_any_branch() -> None:
    actions = [action("a"), action("b", []), action("c", ["b"])]
    assert walked(actions, {"a": FAILED}) == ([["a", "b"]], "a", [])


def test_continue_goes_on_to_what_follows_but_not_to_what_needs_it() -> None:
    actions = [
        action("a", on_failure="continue"),
        action("b", ["a"]),
        action("c", ["b"]),
        action("d"),
    ]
    assert walked(actions, {"a": FAILED}) == ([["a"], ["d"]], "a", ["b", "c"])
    follows = [action("a", on_failure="continue"), action("b")]
    assert walked(follows, {"a": FAILED}) == ([["a"], ["b"]], "a", [])


def test_skip_remaining_leaves_out_all_that_comes_after_it_and_no_other_branch() -> None:
    actions = [
        action("a", on_failure="skip_remaining"),
        action("b"),
        action("x", []),
        action("y"),
        action("z", ["b", "y"]),
    ]
    assert walked(actions, {"a": FAILED}) == ([["a", "x"], ["y"]], "a", ["b", "z"])


def test_what_comes_after_a_skipped_action_runs() -> None:
    actions = [action("a"), action("b"), action("c", ["b"])]
    assert walked(actions, skip=["b"]) == ([["a"], ["c"]], "c", ["b"])
    assert walked(actions, skip=["a", "b", "c"]) == ([], "a", ["a", "b", "c"])


@pytest.mark.parametrize(
    "end", [LOST, CANCELLED, RunStatus.UNREACHABLE, RunStatus.DEAD, RunStatus.BLOCKED]
)
def test_what_is_no_failure_of_the_action_stops_whatever_its_author_said(end: RunStatus) -> None:
    assert walked([action("a", on_failure="continue"), action("b")], {"a": end}) == (
        [["a"]],
        "a",
        [],
    )


def test_a_rollback_runs_when_all_else_has_ended_and_only_then() -> None:
    actions = [
        action("a", on_failure="rollback", rollback="undo"),
        action("b", []),
        action("undo"),
        action("c", ["a"]),
    ]
    assert walked(actions, {"a": FAILED}) == ([["a", "b"], ["undo"]], "a", [])
    assert walked(actions, {"a": TIMEOUT}) == ([["a", "b"], ["undo"]], "a", [])
    assert walked(actions) == ([["a", "b"], ["c"]], "c", [])
    assert walked(actions, {"a": FAILED, "undo": LOST})[1] == "a"


def test_nothing_is_undone_where_something_perhaps_still_runs() -> None:
    actions = [action("a", on_failure="rollback", rollback="undo"), action("b", []), action("undo")]
    assert walked(actions, {"a": FAILED, "b": LOST}) == ([["a", "b"]], "b", [])


def test_two_rollbacks_run_one_after_the_other_and_a_shared_one_once() -> None:
    two = [action(k, [], on_failure="rollback", rollback=f"undo-{k}") for k in "ab"]
    assert walked([*two, action("undo-a"), action("undo-b")], {"a": FAILED, "b": FAILED})[0] == [
        ["a", "b"], ["undo-a"], ["undo-b"],
    ]  # fmt: skip
    shared = [action(k, [], on_failure="rollback", rollback="undo") for k in "ab"]
    assert walked([*shared, action("undo")], {"a": FAILED, "b": FAILED})[0] == [
        ["a", "b"],
        ["undo"],
    ]


def test_what_ended_otherwise_than_by_its_exit_status_says_more() -> None:
    actions = [action("a", on_failure="continue"), action("b", on_failure="continue"), action("c")]
    assert walked(actions, {"a": FAILED, "b": TIMEOUT})[1] == "b"
    assert walked(actions, {"a": FAILED, "b": FAILED})[1] == "a"


def test_a_walk_that_is_taken_up_again_goes_on_where_it_stood() -> None:
    workflow = Workflow(
        [action("a"), action("b", ["a"]), action("c", ["a"]), action("d", ["b", "c"])]
    )
    walk = WorkflowWalk(workflow)
    for key, end in (("c", OK), ("a", OK)):
        walk.record(key, end)
    assert walk.ready() == ["b"]
    walk.begin("b")
    assert (walk.ready(), walk.outcome()) == ([], None)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[FrozenAction], dict[str, RunStatus], list[str]]:
    keys = [f"k{n}" for n in range(draw(st.integers(1, 6)))]
    actions = []
    for n, key in enumerate(keys):
        after = (
            draw(st.none() | st.lists(st.sampled_from(keys[:n]), unique=True))
            if n
            else draw(st.sampled_from([None, []]))
        )
        actions.append(
            action(
                key, after, on_failure=draw(st.sampled_from(["stop", "continue", "skip_remaining"]))
            )
        )
    ends = {key: draw(st.sampled_from([OK, OK, FAILED, TIMEOUT, LOST])) for key in keys}
    return actions, ends, draw(st.lists(st.sampled_from(keys), unique=True))


@given(graphs(), st.randoms())
def test_in_whatever_order_the_branches_end_each_action_begins_at_most_once_and_after_what_it_waits_for(
    drawn: tuple[list[FrozenAction], dict[str, RunStatus], list[str]], random: Any
) -> None:
    actions, ends, skip = drawn
    workflow = Workflow(actions)
    walk = WorkflowWalk(workflow, lambda key: key not in skip)
    begun: list[str] = []
    at_work: list[str] = []
    over: set[str] = set()
    while (outcome := walk.outcome()) is None:
        for key in walk.ready():
            assert workflow.steps[key].after <= over | set(walk.skipped())
            assert all(
                ends[need] is OK or need in walk.skipped() for need in workflow.steps[key].needs
            )
            assert key not in begun
            assert key not in skip
            walk.begin(key)
            begun.append(key)
            at_work.append(key)
        ended = at_work.pop(random.randrange(len(at_work)))
        walk.record(ended, ends[ended])
        over.add(ended)
    assert at_work == []
    assert outcome in over or not over
    bad = [key for key in over if ends[key] is not OK]
    assert (outcome in bad) == bool(bad)
    # A successor that only knows the ends comes to the same result.
    again = WorkflowWalk(workflow, lambda key: key not in skip)
    for key in sorted(over):
        again.record(key, ends[key])
    assert (again.outcome(), again.ready()) == (outcome, [])


def test_what_is_over_before_an_action_is_known_at_any_distance() -> None:
    graph = Workflow(
        [
            action("a"),
            action("b", ["a"], rollback="undo"),
            action("c", ["a"]),
            action("d", ["b"]),
            action("undo"),
            action("e"),
        ]
    )
    assert graph.before("a") == frozenset()
    assert graph.before("c") == {"a"}
    assert graph.before("d") == {"a", "b"}
    assert graph.before("e") == {"a", "b", "d"}
    assert graph.before("undo") >= {"a", "b", "c", "d", "e"}


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
