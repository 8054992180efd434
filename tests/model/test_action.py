"""Actions: six types, distinguished by `type`, and what each refuses."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from opsjobs.model.action import (
    DRAFT_TYPES,
    FROZEN_TYPES,
    SCRIPT_BYTES_MAX,
    CommandAction,
    ScriptAction,
    parse_frozen,
)
from opsjobs.model.job import JobDraft, RunDraft

EACH: list[dict[str, Any]] = [
    {"type": "command", "command": "uptime"},
    {
        "type": "script",
        "interpreter": "/opt/bin/python3",
        "script": "print(1)\r\n",
        "args": ["a b", 1],
    },
    {
        "type": "file_transfer",
        "direction": "upload",
        "source": 7,
        "destination": "/etc/app.conf",
        "mode": "0644",
    },
    {"type": "wait", "duration": "90s"},
    {"type": "approval", "message": "go on?"},
    {"type": "job", "job": 12, "parameters": {"a": [1, True]}},
]


def actions(*bodies: dict[str, Any]) -> list[Any]:
    return list(RunDraft.model_validate({"actions": list(bodies)}).actions)


def faults(*bodies: dict[str, Any]) -> list[tuple[str, str]]:
    """Return `(code, path)` of each error of these actions."""
    with pytest.raises(ValidationError) as refused:
        actions(*bodies)
    found = []
    for error in refused.value.errors():
        steps = [*error["loc"], *(error.get("ctx") or {}).get("at", [])]
        found.append((error["type"], "/".join(map(str, steps))))
    return found


def test_each_type_is_read_and_written_back_the_same() -> None:
    draft = JobDraft.model_validate({"name": "all", "actions": EACH})
    assert [action.type for action in draft.actions] == [body["type"] for body in EACH]
    assert [action.key for action in draft.actions] == [f"step-{n}" for n in range(1, 7)]
    assert JobDraft.model_validate(draft.model_dump(mode="json")) == draft
    assert draft.job_type == "composite"


def test_each_type_is_frozen_with_all_its_fields() -> None:
    draft = JobDraft.model_validate({"name": "all", "actions": EACH})
    assert [body["type"] for body in EACH] == list(DRAFT_TYPES) == list(FROZEN_TYPES)
    for action in draft.actions:
        stored = {**action.model_dump(mode="json"), "target_ids": ["1"], "of_a_later_release": 1}
        frozen = parse_frozen(stored)
        kept = frozen.model_dump(mode="json", include=set(type(action).model_fields))
        assert kept == action.model_dump(mode="json")
        assert (frozen.key, frozen.target_ids) == (action.key, {"1"})
        assert frozen.summary()


def test_an_action_of_an_unknown_type_is_not_performed_as_another_one() -> None:
    with pytest.raises(ValueError, match="no action type 'http_request'"):
        parse_frozen({"key": "a", "type": "http_request"})


def test_an_action_without_a_type_is_a_command() -> None:
    assert actions({"command": "uptime"})[0].type == "command"


def test_numbers_are_taken_where_people_write_them_for_texts() -> None:
    script, file, job = (actions(EACH[n])[0] for n in (1, 2, 5))
    assert (script.args, file.source, job.job) == (["a b", "1"], "7", "12")
    assert actions({"command": "x", "env": {"PORT": 80, "RATE": 0.5}})[0].env == {
        "PORT": "80",
        "RATE": "0.5",
    }


def test_a_script_keeps_every_byte() -> None:
    odd = b"\xff\r\nno newline"
    assert ScriptAction(script_base64=base64.b64encode(odd).decode()).body == odd
    assert ScriptAction(script="a\r\nb").body == b"a\r\nb"


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({"type": "shell"}, "unknown_action_type", "actions/0"),
        ({"type": ["command"]}, "unknown_action_type", "actions/0"),
        ({"type": "script"}, "value_error", "actions/0/script"),
        ({"type": "script", "script": ""}, "empty_script", "actions/0/script/script"),
        ({"type": "script", "script_base64": "*"}, "not_base64", "actions/0/script/script_base64"),
        (
            {"type": "script", "script": "é" * (SCRIPT_BYTES_MAX // 2 + 1)},
            "script_too_long",
            "actions/0/script/script",
        ),
        (
            {"type": "script", "script": "x", "interpreter": "ruby"},
            "string_pattern_mismatch",
            "actions/0/script/interpreter",
        ),
        (
            {"command": "x", "env": {"OPSJOBS_TARGET": "y"}},
            "reserved_name",
            "actions/0/command/env/OPSJOBS_TARGET",
        ),
        ({"command": "x", "script": "y"}, "extra_forbidden", "actions/0/command/script"),
        (
            {"type": "file_transfer", "direction": "upload", "source": "f"},
            "missing",
            "actions/0/file_transfer/destination",
        ),
        ({"type": "wait"}, "missing", "actions/0/wait/duration"),
        ({"type": "wait", "duration": 0}, "greater_than", "actions/0/wait/duration"),
    ],
)
def test_what_an_action_may_not_say_is_refused_at_its_place(
    body: dict[str, Any], code: str, path: str
) -> None:
    assert faults(body) == [(code, path)]


def test_become_without_a_durable_run_is_refused_at_its_place() -> None:
    assert faults({"command": "x", "become": {}, "durable": "off"}) == [
        ("become_needs_durable", "actions/0/become")
    ]


@pytest.mark.parametrize(("written", "read"), [(3010, 3010), (-1, -1), (0xC000013A, -1073741510)])
def test_exit_codes_may_have_32_bits(written: int, read: int) -> None:
    action = CommandAction(command="x", expected_exit_codes=[written])
    assert action.expected_exit_codes == [read]


@pytest.mark.parametrize("written", [1 << 32, -(1 << 31) - 1])
def test_exit_codes_have_no_more_than_32_bits(written: int) -> None:
    with pytest.raises(ValueError, match="expected_exit_codes"):
        CommandAction(command="x", expected_exit_codes=[written])
