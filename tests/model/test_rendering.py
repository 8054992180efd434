"""Templates: the fields that may have them, their names, and their values for one target."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from opsjobs.model.action import parse_frozen
from opsjobs.model.job import JobDraft, RunDraft
from opsjobs.model.rendering import Rendering, names_of
from opsjobs.model.secret import Secret

DECLARED = [{"name": "v"}, {"name": "n", "type": "integer"}, {"name": "token", "type": "secret"}]
TREE = {
    "parameters": {"v": "a b", "n": 3, "token": Secret("hush")},
    "target": {"name": "web-1", "host": "10.0.0.1", "labels": {"env": "prod"}},
    "actions": {"stop": {"stdout": "it's\n"}},
}


def draft(*actions: dict[str, Any], **fields: Any) -> JobDraft:
    return JobDraft.model_validate(
        {"name": "j", "parameters": DECLARED, "actions": list(actions), **fields}
    )


def rendered(action: dict[str, Any], **kwargs: Any) -> Any:
    made = draft({"key": "stop", "command": "x"}, action)
    stored = parse_frozen(made.actions[1].model_dump(mode="json"))
    return Rendering(stored, names_of(made.parameters, ["stop"])).render(TREE, **kwargs)


def test_a_command_is_quoted_and_everything_else_is_the_value_itself() -> None:
    assert (
        rendered({"command": "echo ${v} ${actions.stop.stdout}"}).command
        == "echo 'a b' 'it'\\''s\n'"
    )
    assert rendered({"command": "echo ${v}"}, shell="cmd").command == 'echo ^"a b^"'
    script = rendered(
        {
            "type": "script",
            "script": "echo ${v}",
            "args": ["-x${v}", "${n}"],
            "env": {"A": "${target.labels.env}"},
            "cwd": "/${n}",
        }
    )
    assert (script.script, script.args, script.env, script.cwd) == (
        "echo ${v}",
        ["-xa b", "3"],
        {"A": "prod"},
        "/3",
    )
    brought = rendered(
        {"type": "file_transfer", "direction": "download", "source": "/log/${target.name}/*"}
    )
    assert brought.source == "/log/web-1/*"
    sent = rendered(
        {"type": "file_transfer", "direction": "upload", "source": "7", "destination": "/x/${v}"}
    )
    assert sent.destination == "/x/a b"


def test_another_job_is_given_values_as_what_they_are() -> None:
    passed = rendered(
        {
            "type": "job",
            "job": "x",
            "parameters": {"a": "${n}", "b": "n=${n}", "c": "${token}", "d": 5, "e": "plain"},
        }
    )
    assert passed.parameters == {"a": 3, "b": "n=3", "c": Secret("hush"), "d": 5, "e": "plain"}


@pytest.mark.parametrize(
    ("actions", "code", "at"),
    [
        ([{"command": "echo '${v}'"}], "quoted_parameter", ["actions", 0, "command"]),
        ([{"command": "echo ${token}"}], "secret_in_argv", ["actions", 0, "command"]),
        ([{"command": "x", "env": {"A": "${token}"}}], "secret_in_argv", ["actions", 0, "env", "A"]),
        ([{"type": "script", "script": "x", "args": ["a", "${token}"]}], "secret_in_argv", ["actions", 0, "args", 1]),
        ([{"command": "x", "cwd": "/${target.nothing}"}], "unknown_name", ["actions", 0, "cwd"]),
        ([{"command": "echo ${actions.b.stdout}", "key": "a"}, {"command": "x", "key": "b"}], "unknown_action", ["actions", 0, "command"]),
        ([{"command": "x", "key": "a"}, {"command": "echo ${actions.a.stdout}", "depends_on": []}], "unknown_action", ["actions", 1, "command"]),
        ([{"command": "x", "when": "parameters.n == 'x'"}], "condition", ["actions", 0, "when"]),
        ([{"command": "x", "when": "parameters.token == 'x'"}], "condition", ["actions", 0, "when"]),
        ([{"command": "x", "when": "actions.b.exit_code == 0"}, {"key": "b", "command": "x"}], "condition", ["actions", 0, "when"]),
        ([{"command": "x", "when": "target.name matches '(a)\\\\1'"}], "condition", ["actions", 0, "when"]),
        ([{"type": "job", "job": "x", "parameters": {"a": "-${token}"}}], "secret_in_argv", ["actions", 0, "parameters", "a"]),
    ],
)  # fmt: skip
def test_a_template_or_condition_that_cannot_be_is_refused_at_its_place(
    actions: list[Any], code: str, at: list[Any]
) -> None:
    with pytest.raises(ValidationError) as refused:
        draft(*actions)
    error = refused.value.errors()[0]
    assert (error["type"], error["ctx"]["at"]) == (code, at)


def test_a_rollback_may_name_what_it_undoes_and_a_gates_check_may_name_all() -> None:
    made = draft(
        {"key": "a", "command": "x"},
        {"key": "b", "command": "x", "on_failure": "rollback", "rollback": "undo"},
        {"key": "undo", "command": "echo ${actions.a.stdout} ${actions.b.exit_code}"},
        policy={"gate": {"check": {"command": "echo ${actions.b.stdout}"}}},
    )
    assert len(made.actions) == 3
    with pytest.raises(ValidationError, match="quoted by itself"):
        draft({"command": "x"}, policy={"gate": {"check": {"command": "'${v}'"}}})


def test_what_is_read_back_from_where_it_is_kept_is_not_judged_again() -> None:
    body = {"name": "j", "parameters": DECLARED, "actions": [{"key": "a", "command": "'${v}'"}]}
    assert JobDraft.model_validate(body, context={"stored": True}).actions[0].key == "a"


def test_an_ad_hoc_executions_values_are_names_too() -> None:
    with pytest.raises(ValidationError, match="quoted by itself"):
        RunDraft.model_validate({"actions": [{"command": "echo '${x}'"}], "parameters": {"x": 1}})
    assert RunDraft.model_validate(
        {"actions": [{"command": "echo '${y}'"}], "parameters": {"x": 1}}
    )
