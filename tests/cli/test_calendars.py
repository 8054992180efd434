"""`opsjobs calendars` against a fake API: requests and output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, problem, serve_api
from docs.pages import samples
from opsjobs.cli.app import run
from opsjobs.cli.calendars import read_holidays
from opsjobs.model.calendar import CalendarDraft

STORED = {
    **CalendarDraft.model_validate({"name": "holidays", "windows": [{"yearly": "12-25"}]}).data(),
    "id": 3,
    "updated_at": None,
}
CLOSED = {
    "calendar": "holidays", "local": "2026-12-25T10:00:00+01:00", "open": False, "reason": "Christmas: 2026-12-25",
    "local_until": "2026-12-26T00:00:00+01:00", "timezone": "Europe/Berlin",
}  # fmt: skip


def service(asked: ApiRequest) -> ApiResponse:
    if asked.path.endswith("/check"):
        return ApiResponse(200, CLOSED)
    if asked.method == "GET":
        there = asked.query.get("name", ["holidays"]) == ["holidays"]
        return ApiResponse(200, {"items": [STORED] if there else [], "next": None})
    if asked.method == "POST" and asked.body["name"] == "holidays":
        return problem(409, "name_taken", "There is already one.")
    return ApiResponse(201, {"id": 4})


def calendars(monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0) -> list[ApiRequest]:
    with serve_api(service) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["calendars", *words]) == code
        return api.requests


def test_options_of_calendars_add_become_valid_windows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "holidays.txt"
    file.write_text(next(sample.text for sample in samples("docs/reference/calendars.md", "text")))
    (asked,) = calendars(
        monkeypatch, "add", "x", "--kind", "only", "-z", "Europe/Berlin", "--on", "mon,tue", "--date", "2026-12-31", "--start", "22:00",
        "--end", "06:00", "--yearly", "12-24..01-02", "--from", "2026-11-27T22:00", "--dates", str(file),
    )  # fmt: skip
    assert asked.body["windows"] == [
        {"weekdays": ["mon", "tue"], "start": "22:00", "end": "06:00"},
        {"dates": ["2026-12-31"], "start": "22:00", "end": "06:00"},
        {"yearly": ["12-24..01-02"]},
        {"from": "2026-11-27T22:00"},
        {"name": "Christmas Day", "dates": ["2026-12-25"]},
        {"name": "New Year", "dates": ["2027-01-01"]},
    ]
    CalendarDraft.model_validate(asked.body)
    (every_day,) = calendars(monkeypatch, "add", "x", "--start", "22:00", "--end", "06:00")
    assert every_day.body["windows"] == [{"start": "22:00", "end": "06:00"}]


def test_a_taken_name_is_reported_with_the_replace_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calendars(monkeypatch, "add", "holidays", "--yearly", "12-25", code=6)
    assert "Use --replace" in capsys.readouterr().err
    *_, asked = calendars(monkeypatch, "add", "holidays", "--yearly", "12-26", "--replace")
    assert (asked.method, asked.path) == ("PUT", "/calendars/3")


def test_calendars_apply_changes_only_differences(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "calendars.yaml"
    file.write_text(
        "name: holidays\nwindows: [{yearly: 12-25}]\n---\nname: nights\nwindows: [{start: 22:00, end: 06:00}]\n"
    )
    asked = calendars(monkeypatch, "apply", "-f", str(file))
    assert [(one.method, one.body["name"]) for one in asked if one.method != "GET"] == [
        ("POST", "nights")
    ]
    assert "1 calendar changed, 1 unchanged" in capsys.readouterr().err
    file.write_text("name: holidays\nwindows: [{yearly: 12-26}]\n")
    assert {
        one.method for one in calendars(monkeypatch, "apply", "-f", str(file), "--dry-run")
    } == {"GET"}
    assert "updated" in capsys.readouterr().out
    file.write_text(
        "name: nights\nwindows: [{start: 22:00, end: 06:00}]\n---\nname: holidays\nwindows: [{yearly: 02-31}]\n"
    )
    assert calendars(monkeypatch, "apply", "-f", str(file), code=2) == []
    assert (
        "holidays: /windows/0/yearly/0: '02-31': there is no day 02-31" in capsys.readouterr().err
    )
    file.write_text("some words")
    calendars(monkeypatch, "apply", "-f", str(file), code=2)
    assert "not a calendar. It needs name and windows" in capsys.readouterr().err


def test_a_closed_calendar_is_reported_and_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, asked = calendars(monkeypatch, "check", "holidays", "--at", "2026-12-25T10:00", code=1)
    assert asked.query == {"at": ["2026-12-25T10:00"]}
    told = "holidays is closed (Christmas: 2026-12-25) at 2026-12-25 10:00 until 2026-12-26 00:00, Europe/Berlin"
    assert capsys.readouterr().out == f"{told}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add", "x"], "no window is given. Use --date"),
        (["add", "x", "--dates", "/nowhere"], "/nowhere cannot be read"),
        (["show", "nobody"], "`opsjobs calendars list` shows them"),
    ],
)
def test_invalid_calendars_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    calendars(monkeypatch, *words, code=4 if "show" in words else 2)
    assert told in capsys.readouterr().err


def test_calendars_are_listed_and_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calendars(monkeypatch, "list")
    assert "blackout" in capsys.readouterr().out
    *_, asked = calendars(monkeypatch, "rm", "holidays")
    assert (asked.method, asked.path) == ("DELETE", "/calendars/3")


ICS = """BEGIN:VCALENDAR
BEGIN:VEVENT
SUMMARY:Christmas\\, both
  days
DTSTART;VALUE=DATE:20261225
DTEND;VALUE=DATE:20261227
END:VEVENT
BEGIN:VEVENT
SUMMARY:Labour Day
DTSTART;VALUE=DATE:20200501
RRULE:FREQ=YEARLY
END:VEVENT
BEGIN:VEVENT
SUMMARY:Meeting
DTSTART:20261126T090000Z
END:VEVENT
BEGIN:VEVENT
SUMMARY:Easter
DTSTART;VALUE=DATE:20270328
RRULE:FREQ=MONTHLY
END:VEVENT
END:VCALENDAR
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_all_day_events_of_an_icalendar_file_are_imported(newline: str) -> None:
    found = read_holidays(ICS.replace("\n", newline))
    assert found.windows() == [
        {"name": "Christmas, both days", "dates": ["2026-12-25", "2026-12-26"]},
        {"name": "Labour Day", "yearly": ["05-01"]},
    ]
    assert [(left.what, left.reason) for left in found.left] == [
        ("Meeting", "it is not an all-day event"),
        ("Easter", "its recurrence rule is not supported (FREQ=MONTHLY)"),
    ]


def test_a_holiday_file_has_names_and_a_bad_line_is_reported(tmp_path: Path) -> None:
    windows: list[Any] = read_holidays(
        "# ours\n2026-12-25, Christmas\n2027-12-25; Christmas # again\n\n2026-10-03\n"
    ).windows()
    assert windows == [
        {"name": "Christmas", "dates": ["2026-12-25", "2027-12-25"]},
        {"dates": ["2026-10-03"]},
    ]
    for line in ("25.12.2026", "2026-02-30"):
        with pytest.raises(ValueError, match=f"line 2: '{line}'"):
            read_holidays(f"2026-12-25\n{line}")
