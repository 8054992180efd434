"""Tables, JSON, YAML and names."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime

import pytest
from ruamel.yaml import YAML

from opsjobs.cli.messages import plain, pluralize
from opsjobs.cli.render import (
    Column,
    Form,
    ago,
    elapsed,
    render_counts,
    seconds,
    shorten,
    show_list,
    show_one,
)
from opsjobs.cli.status import WORKER_COLUMNS

ITEMS = [
    {"id": 1, "name": "web-1", "labels": {"env": "prod"}, "note": None, "status": "succeeded"},
    {
        "id": 2,
        "name": "web-2\x1b[31m",
        "labels": {},
        "note": "[bold]no markup[/bold] :smile:",
        "status": "failed",
    },
]
COLUMNS = (
    Column("id", lambda i: i["id"]),
    Column("name", lambda i: i["name"]),
    Column("labels", lambda i: i["labels"]),
    Column("note", lambda i: i["note"], wide=True),
)


def test_a_table_in_a_pipe_is_plain_and_obeys_no_control_character(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_list(ITEMS, COLUMNS, Form.TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "NAME", "LABELS"]
    assert lines[1].split() == ["1", "web-1", "env=prod"]
    assert lines[2].split() == ["2", "web-2\\x1b[31m", "-"]
    assert all(line == line.rstrip() for line in lines)


def test_wide_tables_show_more_and_interpret_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(ITEMS, COLUMNS, Form.WIDE)
    assert "[bold]no markup[/bold] :smile:" in capsys.readouterr().out


def test_a_sparse_column_is_shown_if_an_item_has_a_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = (COLUMNS[0], Column("note", lambda i: shorten(i["note"], 12), sparse=True))
    show_list(ITEMS, columns, Form.TABLE)
    assert capsys.readouterr().out.splitlines()[2].split() == ["2", "[bold]no", "ma…"]
    show_list(ITEMS[:1], columns, Form.WIDE)
    assert capsys.readouterr().out.splitlines()[0].split() == ["ID"]


def test_long_cells_are_not_folded_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_list([{"name": "x" * 5_000}], (Column("name", lambda i: i["name"]),), Form.TABLE)
    assert "x" * 5_000 in capsys.readouterr().out


def test_json_and_yaml_print_the_items(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(ITEMS, COLUMNS, Form.JSON)
    assert json.loads(capsys.readouterr().out) == ITEMS
    show_list(ITEMS, COLUMNS, Form.YAML)
    assert YAML(typ="safe").load(capsys.readouterr().out) == ITEMS


def test_name_output_is_one_name_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(ITEMS, COLUMNS, Form.NAME)
    assert capsys.readouterr().out == "web-1\nweb-2\\x1b[31m\n"
    show_list(ITEMS, COLUMNS, Form.NAME, name="id")
    assert capsys.readouterr().out == "1\n2\n"


def test_one_item_is_shown_field_by_field(capsys: pytest.CaptureFixture[str]) -> None:
    show_one({"name": "web-1", "actions": [{"key": "a"}], "labels": {"env": "prod"}}, Form.TABLE)
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()] == [
        ["name", "web-1"],
        ["actions", '[{"key": "a"}]'],
        ["labels", "env=prod"],
    ]


def test_control_and_bidirectional_characters_are_escaped_in_tables() -> None:
    assert plain("a\r\x1b]0;x\x07\u202eb") == "a\\r\\x1b]0;x\\x07\\u202eb"


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(None, "-"), (45, "45 ms"), (1_250, "1.25 s"), (119_999, "120.00 s"), (200_000, "3 min 20 s")],
)
def test_durations_are_formatted(milliseconds: int | None, words: str) -> None:
    assert seconds(milliseconds) == words


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-11-24T11:59:48Z", "12s ago"),
        ("2026-11-24T11:00:00Z", "60m ago"),
        ("2026-11-20T12:00:00+00:00", "4d ago"),
    ],
)
def test_times_are_shown_as_ages(moment: str, words: str) -> None:
    assert ago(moment, now=datetime(2026, 11, 24, 12, tzinfo=UTC)) == words


def test_nouns_are_pluralized() -> None:
    assert (pluralize(1, "target"), pluralize(2, "target")) == ("1 target", "2 targets")
    assert render_counts({"succeeded": 10, "failed": 2, "lost": 0}) == "10 succeeded, 2 failed"


MACHINES = [
    {"id": number, "name": f"web-{number}.example.org", "host": f"127.0.24.{number}", "labels": {"env": "prod", "rack": f"r{number}"},
     "error": "the machine refuses the login of deploy"}
    for number in (1, 10)
]  # fmt: skip
MACHINE_COLUMNS = tuple(
    Column(name, lambda i, name=name: i[name]) for name in ("id", "name", "host", "labels", "error")
)  # type: ignore[misc]


@pytest.mark.parametrize("form", [Form.TABLE, Form.WIDE])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_names_and_addresses_are_never_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, form: Form
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    show_list(MACHINES, MACHINE_COLUMNS, form)
    told = capsys.readouterr()
    heading, *lines = (re.sub(r"\x1b\[[0-9;]*m", "", line) for line in told.out.splitlines())
    shown = heading.split()
    for machine in MACHINES:
        for column in ("id", "name", "host"):
            whole = sum(str(machine[column]) in line.split() for line in lines)
            assert whole == (column.upper() in shown), f"{column} of {machine['name']}"
    assert all(len(line) <= width for line in lines) or shown == ["NAME"] or shown == ["ID"]
    hidden = [
        name for name in ("id", "name", "host", "labels", "error") if name.upper() not in shown
    ]
    assert ("not shown" in told.err) == bool(hidden)
    assert all(name in told.err for name in hidden)
    assert not hidden if width >= 80 else True


def test_empty_columns_are_dropped_before_reasons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    run = {
        "target": "web-1",
        "status": "waiting",
        "waits for": "a worker: zone paris has none",
        "cancel proof": None,
    }
    columns = [Column(name, lambda i, name=name: i[name]) for name in run]  # type: ignore[misc]
    show_list([run], [*columns, Column("message", lambda _: None)], Form.TABLE)
    told = capsys.readouterr()
    assert "columns not shown, the terminal is too narrow: cancel proof, message" in told.err
    assert "WAITS FOR" in told.out


@pytest.mark.parametrize(
    ("passed", "words"),
    [(1.25, "1s ago"), (1056.9, "17m ago"), (7_300, "2h ago"), (200_000, "2d ago")],
)
def test_elapsed_time_has_one_form(
    capsys: pytest.CaptureFixture[str], passed: float, words: str
) -> None:
    assert elapsed(passed) == words
    renewed = [column for column in WORKER_COLUMNS if column.heading == "renewed"]
    show_list([{"renewed_seconds_ago": passed}], renewed, Form.TABLE)
    assert capsys.readouterr().out.splitlines()[1] == words


@pytest.mark.parametrize("set_to", ["", "1"])
def test_no_color_takes_every_colour_out_of_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], set_to: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", set_to)
    show_list(ITEMS, (*COLUMNS, Column("status", lambda i: i["status"])), Form.TABLE)
    colours = re.findall(r"\x1b\[(?:3|4|9)[0-9;]*m", capsys.readouterr().out)
    assert bool(colours) == (not set_to)
