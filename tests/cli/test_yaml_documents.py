"""Files of jobs in YAML 1.2, which are data and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsjobs.cli import yaml_documents
from opsjobs.cli.errors import CommandFailed, ExitCode


def read(tmp_path: Path, text: str | bytes) -> list[dict[str, object]]:
    file = tmp_path / "jobs.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return yaml_documents.bodies([str(file)])


def test_yaml_documents_are_read_in_order(tmp_path: Path) -> None:
    text = "name: a\n---\n- name: b\n- name: c\n---\njobs:\n  - name: d\n---\n"
    assert [body["name"] for body in read(tmp_path, text)] == ["a", "b", "c", "d"]


def test_yaml_1_2_dates_stay_strings(tmp_path: Path) -> None:
    [body] = read(
        tmp_path,
        "name: x\non: no\nat: 12:30:45\nday: 2026-12-01\nmode: 0o644\n7: y\nscript: |\n  a\n  b\n",
    )
    assert body == {
        "name": "x",
        "on": "no",
        "at": "12:30:45",
        "day": "2026-12-01",
        "mode": 420,
        "7": "y",
        "script": "a\nb\n",
    }


def test_yaml_aliases_are_expanded(tmp_path: Path) -> None:
    [body] = read(tmp_path, "a: &x [1, 2]\nb: *x\n")
    assert body == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML, line"),
        ("a: 1\na: 2\n", "is not YAML"),
        ("just words", "not a job"),
        (b"\xff\xfe", "not UTF-8"),
        ("a: !!python/object/apply:os.system [true]", "is not YAML"),
        ("a: !!binary aGk=", "holds a bytes"),
        ("? [a]\n: b\n", "not YAML|keys must be texts"),
        ("a: " + "[" * 40 + "]" * 40, "32 deep"),
        ("a: &a [*a]", "32 deep|not YAML"),
        (b"#" * (yaml_documents.BYTES_MAX + 1), "more than"),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n" for p, n in ("ab", "bc", "cd", "de", "ef")),
         "100000 values"),
    ],
)  # fmt: skip
def test_a_file_without_jobs_is_reported(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(CommandFailed, match=words) as refused:
        read(tmp_path, text)
    assert refused.value.exit_code is ExitCode.USAGE


def test_a_missing_yaml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="cannot be read"):
        yaml_documents.bodies([str(tmp_path / "nowhere.yaml")])


def test_written_yaml_is_read_back_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = [
        {
            "name": "a",
            "actions": [
                {"type": "script", "script": "#!/bin/sh\necho 'x' # y\n\ttab\n"},
                {"type": "command", "command": "on"},
            ],
        },
        {"name": "b: c", "tags": ["no", "1"], "policy": {"waves": [1, "100%"]}},
    ]
    yaml_documents.write(bodies)
    assert read(tmp_path, capsys.readouterr().out) == bodies
