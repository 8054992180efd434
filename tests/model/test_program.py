"""Programs of runs: valid parts, and what distinguishes two of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from opsjobs.model.program import (
    SCRIPT_BYTES_MAX,
    WORD_BYTES_MAX,
    Program,
    RunKey,
    StartOrder,
)
from opsjobs.model.secret import Secret

KEY = RunKey(UUID(int=1), "step-1", 1)
SCRIPT = Program(
    script=b"echo\r\n\xff",
    interpreter="bash",
    args=("a", ""),
    env={"A": "b"},
    cwd="/srv",
    stdin=b"\0",
)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"command": "true", "script": b"true"},
        {"command": ""},
        {"command": "a\0b"},
        {"command": "true", "args": ("a",)},
        {"script": b"", "args": ("a\0",)},
        {"script": b"", "interpreter": ""},
        {"script": b"", "interpreter": "a\0"},
        {"script": b"x" * (SCRIPT_BYTES_MAX + 1)},
        {"script": b"", "args": ("x" * (WORD_BYTES_MAX + 1),)},
        {"command": "true", "cwd": ""},
        {"command": "true", "cwd": "/a\0"},
        {"command": "true", "env": {"A": "a\0"}},
        {"command": "true", "secrets": {"../a": Secret("x")}},
        {"command": "true", "secrets": {"-rf": Secret("x")}},
        {"command": "true", "secrets": {"": Secret("x")}},
        *(
            {"command": "true", "env": {name: "x"}}
            for name in ("", "1A", "A-B", "A=B", "A B", "Ä", "A\n", "$(id)", "UID", "PWD")
        ),
        *(
            {"command": "true", "env": {name: "x"}}
            for name in ("OPSJOBS_RUN", "OPSJOBS_SPOOL", "OPSJOBS_SECRETS")
        ),
    ],
)
def test_what_no_machine_can_start_is_none(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Program(**parts)


def test_it_may_be_as_odd_as_bytes_are() -> None:
    assert Program(script=bytes(range(256)) * 1024, args=("", "-", "\n", "ü")).script is not None
    assert (
        Program(
            command="true",
            env={"OPSJOBS_PARAM_A": "'\n", "_a1": ""},
            secrets={"db-pass.1": Secret("")},
        ).plain
        is False
    )


CHANGES: dict[str, Any] = {
    "script": b"echo\n\xff",
    "interpreter": "sh",
    "args": ("a",),
    "env": {"A": "c"},
    "cwd": None,
    "stdin": b"",
    "secrets": {"a": Secret("x")},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_program_has_another_digest(what: str) -> None:
    assert replace(SCRIPT, **{what: CHANGES[what]}).digest != SCRIPT.digest


def test_a_line_break_between_two_things_is_no_difference_that_is_overlooked() -> None:
    lists = [("a", "b"), ("a\nb",), ("a b",), ("ab",), ("ab", ""), ()]
    assert len({replace(SCRIPT, args=args).digest for args in lists}) == len(lists)
    assert replace(SCRIPT, stdin=None).digest != replace(SCRIPT, stdin=b"").digest


@given(value=some.text(max_size=20))
def test_a_digest_tells_the_names_of_secrets_and_nothing_of_what_they_are(value: str) -> None:
    assert (
        replace(SCRIPT, secrets={"a": Secret(value)}).digest
        == replace(SCRIPT, secrets={"a": Secret("other")}).digest
    )


def test_a_machine_that_has_another_name_now_has_the_same_run() -> None:
    def ordered(name: str) -> tuple[str, str]:
        env = {"OPSJOBS_TARGET": name, "OPSJOBS_HOST": name, "OPSJOBS_JOB": "a"}
        return (
            StartOrder(KEY, "true", 60, environment=env).digest,
            StartOrder.for_program(KEY, replace(SCRIPT, env=env), 60).digest,
        )

    assert ordered("web-1") == ordered("web-2")


def test_a_command_with_nothing_but_variables_is_the_order_that_it_always_was() -> None:
    env = {"A": "b"}
    plain = StartOrder(KEY, "true", 60, environment=env)
    assert StartOrder.for_program(KEY, Program(command="true", env=env), 60) == plain
    more = StartOrder.for_program(KEY, Program(command="true", env=env, cwd="/"), 60)
    assert more.program is not None
    assert more.command == "true"
    assert len({plain.digest, more.digest, StartOrder(KEY, "true", 60).digest}) == 3
