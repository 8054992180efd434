"""`opsjobs schedules`: the requests of its options, and its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, problem
from cli.test_dead_letters import answering
from opsjobs.cli.app import run

SCHEDULE = {
    "id": 3, "uuid": "0193", "version": 4, "job_id": 5, "job_name": "disk", "name": "nightly", "type": "cron", "cron": "30 2 * * *",
    "timezone": "Europe/Berlin", "misfire": "run_once", "overlap": "skip", "calendars": ["freeze"], "enabled": True, "owner": "ada",
    "end_at": None, "max_firings": 9, "words": "at 02:30 every day, Europe/Berlin", "next": "Thu 26 Nov 02:30 +01:00",
    "next_due_at": "2026-11-26T01:30:00Z", "firings": 2,
    "last_firing": {"status": "triggered", "due_at": "2026-11-25T01:30:00Z", "execution_id": 7,
                    "explained": "launched on time; execution 7 ended completed"},
}  # fmt: skip
PREVIEW = {
    "words": "at 02:30 every day, Europe/Berlin",
    "moments": [
        {"utc": "2026-11-26T01:30:00Z", "local": "2026-11-26T02:30:00+01:00", "closed": None},
        {
            "utc": "2026-11-27T01:30:00Z",
            "local": "2026-11-27T02:30:00+01:00",
            "closed": {
                "calendar": "freeze",
                "reason": "in the blackout sale",
                "until": "2026-11-30T00:00:00Z",
            },
        },
    ],
    "notes": ["each may start up to 30 s later"],
}


def service(one: ApiRequest) -> ApiResponse:
    """Serve a fake API with the schedule nightly of the job disk."""
    match one.method, one.path:
        case "GET", "/jobs":
            return ApiResponse(body={"items": [{"id": 5, "name": "disk"}], "next": None})
        case "GET", "/schedules" | "/jobs/5/schedules":
            return ApiResponse(body={"items": [SCHEDULE], "next": None})
        case "POST", "/schedules/preview":
            return ApiResponse(body=PREVIEW)
        case _:
            return ApiResponse(201 if one.path.endswith("/schedules") else 200, SCHEDULE)


def bodies(asked: list[ApiRequest]) -> list[tuple[str, str, Any]]:
    return [(one.method, one.path, one.body) for one in asked if one.method != "GET"]


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--cron", "30 2 * * *", "-z", "Europe/Berlin"], {"type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}),
        (["--at", "2026-12-01T09:00:00+01:00"], {"type": "once", "at": "2026-12-01T09:00:00+01:00"}),
        (["--at", "2026-12-01T09:00", "-z", "UTC"], {"type": "once", "local_time": "2026-12-01T09:00", "timezone": "UTC"}),
        (["--every", "15m"], {"type": "recurring", "every": "minutes", "interval": 15}),
        (["--every", "2w", "--on", "mon,fri", "--on", "sun", "--time", "02:30"],
         {"type": "recurring", "every": "weekly", "interval": 2, "weekdays": ["mon", "fri", "sun"], "time": "02:30"}),
        (["--every", "hours", "--interval", "6", "--anchor", "2026-12-01T00:00:00Z"],
         {"type": "recurring", "every": "hours", "interval": 6, "anchor": "2026-12-01T00:00:00Z"}),
        (["--every", "monthly", "--day", "15"], {"type": "recurring", "every": "monthly", "day": 15}),
        (["--every", "monthly", "--day", "2nd tue"], {"type": "recurring", "every": "monthly", "day": "2nd tue"}),
        (["--cron", "@daily", "--misfire", "run_all", "--misfire-window", "1h", "--overlap", "queue", "--jitter", "30s",
          "--dst-gap", "skip", "--dst-fold", "twice", "--start", "2026-12-01T00:00:00Z", "--end", "none", "--max-firings", "3",
          "--calendar", "freeze,holidays", "-p", "path=/var", "--disabled"],
         {"type": "cron", "cron": "@daily", "misfire": "run_all", "misfire_window": "1h", "overlap": "queue", "jitter": "30s",
          "dst_gap": "skip", "dst_fold": "twice", "start_at": "2026-12-01T00:00:00Z", "end_at": None, "max_firings": 3,
          "calendars": ["freeze", "holidays"], "parameters": {"path": "/var"}, "enabled": False}),
    ],
)  # fmt: skip
def test_schedules_add_sends_its_options(
    arguments: list[str],
    body: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering(monkeypatch, service) as api:
        assert run(["schedules", "add", "disk", "--name", "nightly", *arguments]) == 0
    assert bodies(api.requests) == [
        ("POST", "/jobs/5/schedules", {"name": "nightly", **body}),
        ("POST", "/schedules/preview", {"id": 3, "count": 3}),
    ]
    told = capsys.readouterr()
    assert told.out == "3\n"
    assert "schedule nightly of disk is added: at 02:30 every day, Europe/Berlin" in told.err
    assert "2026-11-27T02:30:00+01:00  (2026-11-27T01:30:00Z), closed by freeze" in told.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "disk"],
        ["add", "disk", "--cron", "@daily", "--every", "15m"],
        ["add", "disk", "--every", "15 parsecs"],
        ["add", "disk", "--every", "15m", "--interval", "2"],
        ["add", "disk", "--every", "15m", "--overlap", "maybe"],
        ["add", "disk", "-f", "/nowhere/at/all"],
        ["set", "nightly"],
        ["preview"],
    ],
)
def test_invalid_schedule_options_are_a_usage_error_and_change_nothing(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(monkeypatch, service) as api:
        assert run(["schedules", *arguments]) == 2
    assert bodies(api.requests) == []


def test_schedule_options_override_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "nightly.yaml"
    file.write_text("name: nightly\ntype: recurring\nevery: daily\ntime: 02:30\njitter: 30s\n")
    with answering(monkeypatch, service) as api:
        assert run(["schedules", "add", "disk", "-f", str(file), "--name", "other"]) == 0
        assert (
            run(
                [
                    "schedules",
                    "preview",
                    "-f",
                    str(file),
                    "--cron",
                    "@daily",
                    "--from",
                    "2026-11-25T00:00:00Z",
                    "-n",
                    "2",
                ]
            )
            == 0
        )
    assert [body for _, _, body in bodies(api.requests)][::2] == [
        {"name": "other", "type": "recurring", "every": "daily", "time": "02:30", "jitter": "30s"},
        {
            "schedule": {"name": "nightly", "type": "cron", "cron": "@daily", "jitter": "30s"},
            "count": 2,
            "from": "2026-11-25T00:00:00Z",
        },
    ]


def test_schedules_set_keeps_other_fields_and_sends_the_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering(monkeypatch, service) as api:
        assert (
            run(
                [
                    "schedules",
                    "set",
                    "disk/nightly",
                    "--every",
                    "6h",
                    "--max-firings",
                    "0",
                    "--calendar",
                    "",
                ]
            )
            == 0
        )
    assert (api.requests[0].query["name"], api.requests[0].query["job_name"]) == (
        ["nightly"],
        ["disk"],
    )
    put = api.requests[1]
    assert (put.method, put.path, put.headers["if-match"]) == ("PUT", "/schedules/3", '"4"')
    assert "cron" not in put.body
    assert {"words", "next", "owner", "id"} & put.body.keys() == set()
    assert {
        name: put.body[name]
        for name in ("every", "interval", "name", "misfire", "max_firings", "calendars")
    } == {
        "every": "hours",
        "interval": 6,
        "name": "nightly",
        "misfire": "run_once",
        "max_firings": None,
        "calendars": [],
    }


def test_schedules_list_shows_timing_and_last_firing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(monkeypatch, service) as api:
        assert run(["schedules", "list", "--job", "disk", "--paused"]) == 0
        assert run(["schedules", "show", "3"]) == 0
    assert api.requests[1].path == "/jobs/5/schedules"
    assert api.requests[1].query["enabled"] == ["false"]
    told = capsys.readouterr().out
    assert "at 02:30 every day, Europe/Berlin" in told
    assert "triggered, " in told
    assert "2026-11-25T01:30:00Z: launched on time; execution 7 ended completed" in told


def test_an_ambiguous_schedule_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [SCHEDULE, {**SCHEDULE, "id": 4, "job_name": "logs"}]
    with answering(monkeypatch, lambda _: ApiResponse(body={"items": both, "next": None})) as api:
        assert run(["schedules", "rm", "nightly"]) == 2
    assert "disk/nightly, logs/nightly" in capsys.readouterr().err
    assert bodies(api.requests) == []


def test_an_unknown_schedule_exits_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(one: ApiRequest) -> ApiResponse:
        if one.path == "/schedules/9":
            return problem(404, "schedule_not_found", "There is no schedule 9.")
        return ApiResponse(body={"items": [], "next": None})

    with answering(monkeypatch, reply):
        assert run(["schedules", "show", "9"]) == 4
    assert "There is no schedule 9: `opsjobs schedules list` shows them." in capsys.readouterr().err


def test_a_schedule_is_paused_resumed_triggered_and_deleted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(one: ApiRequest) -> ApiResponse:
        if one.path.endswith("/trigger"):
            return ApiResponse(
                202, {"id": 8, "job_name": "disk", "total_targets": 2, "status": "queued"}
            )
        return ApiResponse() if one.method == "DELETE" else service(one)

    with answering(monkeypatch, reply) as api:
        assert run(["schedules", "pause", "nightly", "--reason", "audit"]) == 0
        assert run(["schedules", "resume", "nightly"]) == 0
        assert run(["schedules", "trigger", "nightly", "--reason", "now", "--detach"]) == 0
        assert run(["schedules", "rm", "nightly"]) == 0
    assert [
        (method, path, body)
        for method, path, body in bodies(api.requests)
        if path != "/schedules/preview"
    ] == [
        ("POST", "/schedules/3/pause", {"reason": "audit"}),
        ("POST", "/schedules/3/resume", {}),
        ("POST", "/schedules/3/trigger", {"reason": "now"}),
        ("DELETE", "/schedules/3", None),
    ]
    assert capsys.readouterr().out == "8\n"


def test_schedules_preview_shows_firings_and_closing_calendars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(monkeypatch, service) as api:
        assert run(["schedules", "preview", "nightly"]) == 0
        assert run(["schedules", "preview", "nightly", "--overlap", "allow", "-o", "name"]) == 0
    assert api.requests[1].body == {"id": 3, "count": 5}
    assert (api.requests[3].body["id"], api.requests[3].body["schedule"]["overlap"]) == (3, "allow")
    told = capsys.readouterr()
    assert "freeze: in the blackout sale" in told.out
    assert told.out.endswith("2026-11-26T01:30:00Z\n2026-11-27T01:30:00Z\n")
    assert "note: each may start up to 30 s later" in told.err


def test_firings_show_their_outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    firing = {
        "id": 9, "due_at": "2026-11-25T01:30:00Z", "fired_at": None, "status": "missed", "rule": "misfire", "kind": "moment",
        "reason": "x", "execution_id": None, "late_ms": None, "explained": "missed: it was not fired for 3 h; misfire is skip",
    }  # fmt: skip

    def reply(one: ApiRequest) -> ApiResponse:
        return (
            ApiResponse(body={"items": [firing], "next": None})
            if one.path.endswith("/firings")
            else service(one)
        )

    with answering(monkeypatch, reply) as api:
        assert (
            run(["schedules", "firings", "nightly", "--status", "missed", "--status", "skipped"])
            == 0
        )
    assert (api.requests[1].path, api.requests[1].query["status"]) == (
        "/schedules/3/firings",
        ["missed", "skipped"],
    )
    assert "missed: it was not fired for 3 h; misfire is skip" in capsys.readouterr().out


def test_the_forecast_shows_the_busiest_hours_and_suppressed_firings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = [
        {
            "from": f"2026-11-25T0{n}:00:00Z",
            "firings": n,
            "closed": n // 2,
            "targets": 10 * n,
            "peak": n,
        }
        for n in range(3)
    ]
    told = {
        "hours": hours,
        "busiest": [hours[2], hours[1]],
        "words": "3 firings of 2 schedules in the coming week",
        "collisions": [
            {
                "schedule": {"id": 3, "name": "nightly", "job_name": "disk"},
                "due_at": "2026-11-25T02:10:00Z",
                "calendar": "freeze",
                "reason": "sale",
                "until": None,
            }
        ],
        "left_out": ["not looked at: 2 schedules"],
    }
    with answering(monkeypatch, lambda _: ApiResponse(body=told)):
        assert run(["schedules", "forecast"]) == 0
        assert run(["schedules", "forecast", "--all", "-o", "name"]) == 0
    shown = capsys.readouterr()
    assert "█" * 30 in shown.out
    assert "freeze" in shown.out
    assert shown.out.count("2026-11-25T00:00:00Z") == 1  # only --all shows the hour without firings
    assert "note: not looked at: 2 schedules" in shown.err


def test_schedule_names_of_a_list_are_unique_references(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [
        {**SCHEDULE, "id": n, "job_name": job, "name": name}
        for n, (job, name) in enumerate(
            [("disk", "crontab"), ("logs", "crontab"), ("a/b", "cron */5 * * * *")], start=11
        )
    ]

    def reply(one: ApiRequest) -> ApiResponse:
        def has(field: str, item: dict[str, Any]) -> bool:
            return one.query.get(field, [item[field]]) == [item[field]]

        if one.method == "GET" and one.path == "/schedules":
            found = [item for item in known if has("name", item) and has("job_name", item)]
            return ApiResponse(body={"items": found, "next": None})
        return ApiResponse(body=PREVIEW if one.path == "/schedules/preview" else SCHEDULE)

    with answering(monkeypatch, reply) as api:
        assert run(["schedules", "list", "-o", "name"]) == 0
        names = capsys.readouterr().out.splitlines()
        assert names == ["disk/crontab", "logs/crontab", "a/b/cron */5 * * * *"]
        for name in names:
            assert run(["schedules", "resume", name]) == 0
            assert run(["schedules", "show", name, "-o", "name"]) == 0
            assert capsys.readouterr().out == f"{name}\n"
        resumed = [asked.path for asked in api.requests if asked.path.endswith("/resume")]
    assert resumed == ["/schedules/11/resume", "/schedules/12/resume", "/schedules/13/resume"]


def test_a_given_limit_silences_the_notice_of_more_items(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(
        monkeypatch, lambda _: ApiResponse(body={"items": [SCHEDULE] * 100, "next": "x"})
    ):
        assert run(["schedules", "list", "--limit", "100"]) == 0
        assert capsys.readouterr().err == ""
        assert run(["schedules", "list"]) == 0
        assert "there are more items: use --limit 200" in capsys.readouterr().err


@pytest.mark.parametrize(
    "job", [{"verdict": "needs_approval"}, {"policy": {"approval": {"approvals": 1}}}]
)
def test_a_schedule_of_a_job_that_needs_an_approval_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], job: dict[str, Any]
) -> None:
    def reply(one: ApiRequest) -> ApiResponse:
        return (
            ApiResponse(body={"items": [{"id": 5, "name": "disk", **job}], "next": None})
            if one.path == "/jobs"
            else service(one)
        )

    with answering(monkeypatch, reply):
        assert run(["schedules", "add", "disk", "--every", "15m"]) == 0
    assert "warning: disk needs an approval" in capsys.readouterr().err
