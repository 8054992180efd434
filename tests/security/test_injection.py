"""Point 18: parameters are data.

The corpus of tests/contract/injections.py goes through templates and conditions here. In
tests/contract/test_injections.py it goes through real machines by every way: arguments, variables,
secrets, standard input, folders.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.injections import payloads
from opsjobs.model.action import FrozenCommand, parse_frozen
from opsjobs.model.rendering import Rendering
from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.model.template import TemplateNames
from opsjobs.safety.check import check_text
from opsjobs.safety.job_inputs import texts_of

PLACES = [
    ("parameters", "say ${x}", lambda text: {"parameters": {"x": text}}),
    (
        "labels",
        "say ${target.labels.x}",
        lambda text: {"parameters": {}, "target": {"labels": {"x": text}}},
    ),
    (
        "output",
        "say ${actions.a.stdout}",
        lambda text: {"parameters": {}, "actions": {"a": {"stdout": text}}},
    ),
    ("twice", "say ${x}; say ${x}", lambda text: {"parameters": {"x": text}}),
]


def rendered_command(rendering: Rendering, values: dict[str, Any]) -> str:
    rendered = rendering.render(values)
    assert isinstance(rendered, FrozenCommand)
    return rendered.command


WORD = 'say() { printf "%s\\0" "$#" "$1"; }\n'


@pytest.mark.parametrize(
    ("command", "values"), [place[1:] for place in PLACES], ids=[place[0] for place in PLACES]
)
def test_a_value_is_one_word_of_the_shell_whatever_it_says(
    tmp_path: Path, command: str, values: Callable[[str], dict[str, Any]]
) -> None:
    witness = tmp_path / "witness"
    texts = payloads(witness)
    assert len(set(texts)) >= 200
    rendering = Rendering(
        parse_frozen({"key": "b", "type": "command", "command": command}),
        TemplateNames(["x"], (), ["a"]),
    )
    lines = [rendered_command(rendering, values(text)) for text in texts]
    done = subprocess.run(
        ["sh"],
        input=(WORD + "\n".join(lines)).encode(),
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout == b"".join(f"1\0{text}\0".encode() * command.count("say") for text in texts)
    assert list(tmp_path.iterdir()) == []


def test_what_a_value_says_is_never_a_template_again(tmp_path: Path) -> None:
    rendering = Rendering(
        parse_frozen({"key": "b", "type": "command", "command": "echo ${x}"}),
        TemplateNames(["x", "y"]),
    )
    tree = {"parameters": {"x": "${y} ${target.host}", "y": "secret"}}
    assert rendered_command(rendering, tree) == "echo '${y} ${target.host}'"


def test_the_safety_check_takes_a_value_for_data_too(tmp_path: Path) -> None:
    dangerous = [
        "$(rm -rf /)",
        "; rm -rf / ;",
        "`reboot`",
        "\nrm -rf /\n",
        "x | sh",
        "'; shutdown now; '",
    ]
    for text in [*dangerous, *payloads(tmp_path / "witness")[::10]]:
        action = {"key": "b", "type": "command", "command": "logger ${x}"}
        (found,) = texts_of([action], {"x": text}, [])
        assert all(f.severity is not SafetyVerdict.BLOCK for f in check_text("sh", found.text)), (
            text
        )
    assert any(f.severity is SafetyVerdict.BLOCK for f in check_text("sh", "logger $(rm -rf /)")), (
        "so that this proves something"
    )
