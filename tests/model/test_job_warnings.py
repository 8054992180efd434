"""Warnings of a job: unknown names, labels without targets, parameters that nothing uses."""

from __future__ import annotations

from typing import Any

import pytest

from opsjobs.model.job import JobDraft
from opsjobs.model.job_warnings import DOUBTS_MAX, doubts

DIR = {"name": "dir", "type": "string"}


def told(
    action: dict[str, Any], *parameters: dict[str, Any], labels: set[str] | None = None
) -> list[tuple[str, str]]:
    draft = JobDraft.model_validate(
        {
            "name": "clean",
            "actions": [action],
            "targets": {"ids": ["1"]},
            "parameters": list(parameters),
        }
    )
    return [(doubt.code, doubt.pointer) for doubt in doubts(draft, labels)]


def test_a_mistyped_parameter_is_told_with_the_one_that_is_meant() -> None:
    draft = JobDraft.model_validate(
        {
            "name": "clean",
            "actions": [{"command": "rm -rf ${dri}/cache"}],
            "targets": {"ids": ["1"]},
            "parameters": [DIR],
        }
    )
    assert [(d.code, d.pointer, d.detail) for d in doubts(draft, None)] == [
        (
            "undeclared_name",
            "/actions/0/command",
            "no parameter is called dri; the shell will read ${dri}. Did you mean dir?",
        ),
        ("unused_parameter", "/parameters/0", "the parameter dir is never used"),
    ]


@pytest.mark.parametrize(
    "command",
    [
        "echo ${HOME} ${PATH}",
        "for f in *.log; do echo ${f}; done",
        "n=3; echo ${n}",
        "read answer; echo ${answer}",
        "local x=1; echo ${x}",
        "echo ${dri:-/tmp}",
        "echo $dri",
    ],
)
def test_a_name_of_the_shell_is_no_mistake(command: str) -> None:
    assert told({"command": command}) == []


def test_names_in_other_places_are_looked_at_too() -> None:
    script = {
        "type": "script",
        "interpreter": "bash",
        "script": "echo ${dir}",
        "args": ["${dri}"],
        "env": {"A": "${dir}", "B": "x"},
    }
    assert told(script, DIR) == [
        ("unreplaced_name", "/actions/0/script"),
        ("undeclared_name", "/actions/0/args/0"),
    ]
    assert told({**script, "script": "dir=/tmp; echo ${dir}", "args": []}, DIR) == []


@pytest.mark.parametrize(
    "action",
    [
        {"command": "ls ${dir}"},
        {"command": 'ls "$OPSJOBS_PARAM_DIR"'},
        {"command": "ls", "when": "parameters.dir == 'x'"},
        {
            "type": "script",
            "interpreter": "python",
            "script": "import os; os.environ['OPSJOBS_PARAM_DIR']",
        },
        {"type": "script", "interpreter": "bash", "script_base64": "/w=="},
        {"type": "job", "job": "inner", "parameters": {"where": "${dir}"}},
    ],
)
def test_a_parameter_that_is_read_is_not_told(action: dict[str, Any]) -> None:
    assert told(action, DIR) == []


def test_a_secret_is_used_where_its_folder_is_read() -> None:
    secret = {"name": "token", "type": "secret"}
    assert told({"command": 'login <"$OPSJOBS_SECRETS/token"'}, secret) == []
    assert told({"command": "login"}, secret) == [("unused_parameter", "/parameters/0")]


def test_a_label_that_no_target_has_is_told() -> None:
    action = {"command": "echo ${target.labels.nope} ${target.labels.env}"}
    assert told(action, labels={"env"}) == [("unknown_label", "/actions/0/command")]
    assert told(action, labels=None) == []


def test_of_a_thousand_mistakes_the_first_hundred_are_told() -> None:
    many = "".join(f"${{name{number:04}}}" for number in range(5_000))
    parameters = [{"name": f"parm{number:04}"} for number in range(100)]
    assert len(told({"command": many}, *parameters)) == DOUBTS_MAX


@pytest.mark.parametrize("repeated", ["for ", "abc[", "a-"])
def test_a_text_of_the_largest_size_is_looked_through_once_for_names_that_it_assigns(
    repeated: str,
) -> None:
    names = [f"n{number}" for number in range(1_500)]
    text = repeated * (48_000 // len(repeated)) + "".join(f"${{{name}}}" for name in names)
    told({"command": text})


@pytest.mark.parametrize(
    ("command", "assigned"),
    [
        ("web-dir=1; echo ${dir}", True),
        ("x[1]=2; echo ${x}", True),
        ("x+=2; echo ${x}", True),
        ("export a b; echo ${b}", True),
        ("for a; do :; done\necho ${x}", False),
        ("echo $x=1 ${x}", False),
        ("echo x ${x}", False),
    ],
)
def test_what_gives_a_name_a_value(command: str, assigned: bool) -> None:
    assert told({"command": command}) == (
        [] if assigned else [("undeclared_name", "/actions/0/command")]
    )
