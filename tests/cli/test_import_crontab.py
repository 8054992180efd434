"""Crontabs as cron reads them: a corpus of odd lines, and the jobs that result.

`opsjobs import crontab` runs against a fake API.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from ruamel.yaml import YAML

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from docs.pages import samples
from opsjobs.cli import yaml_documents
from opsjobs.cli.app import run
from opsjobs.cli.importing.crontab import Crontab, CrontabEntry, read, split_percent
from opsjobs.cli.importing.crontab_jobs import CrontabOptions, PlannedJob, plan_jobs, prefix_of
from opsjobs.cli.importing_crontab import local_zone
from opsjobs.model.job import JobDraft
from opsjobs.model.schedule.cron import Cron
from opsjobs.model.schedule.draft import ScheduleDraft

WISHES = CrontabOptions({"ids": ["web-1"]}, "web-1-", "Europe/Berlin", "24h")


def crontab(text: str, *, system: bool = False) -> Crontab:
    return read("crontab", text, system=system)


def one(text: str, *, system: bool = False) -> CrontabEntry:
    (entry,) = crontab(text, system=system).entries
    return entry


def plan(text: str, *, system: bool = False, wishes: CrontabOptions = WISHES) -> list[PlannedJob]:
    found = plan_jobs(
        [(entry, "crontab:x") for entry in crontab(text, system=system).entries], wishes
    )
    for body in found:
        JobDraft.model_validate(body.job)
        ScheduleDraft.model_validate(body.schedule)
    return found


@pytest.mark.parametrize(
    ("line", "when", "command"),
    [
        ("*/5 * * * * /bin/true", "*/5 * * * *", "/bin/true"),
        ("\t 0\t5  * *\t1-5   backup --to '/srv/a b'  # not a comment", "0 5 * * 1-5", "backup --to '/srv/a b'  # not a comment"),
        ("0 0 1,15 jan-jun,Dec Mon,wed-FRI x", "0 0 1,15 jan-jun,Dec Mon,wed-FRI", "x"),
        ("0-59/15,7 0-23/2 */10 * 0,7 x", "0-59/15,7 0-23/2 */10 * 0,7", "x"),
        ("@daily\tx y", "@daily", "x y"),
        ("@Midnight x", "@midnight", "x"),
        ("@every_minute x", "* * * * *", "x"),
        ("-*/10 * * * * quiet", "*/10 * * * *", "quiet"),
        ("* * * * * -n x -n", "* * * * *", "x -n"),
        ("0~29 ~ * * * x", "H(0-29) H(0-23) * * *", "x"),
        ("5 4 * * * A=b cmd \"$A\" && echo ${HOME}", "5 4 * * *", "A=b cmd \"$A\" && echo ${HOME}"),
        ("5 4 * * * echo 50\\% \\\\ \\n", "5 4 * * *", "echo 50% \\\\ \\n"),
        ("5 4 * * * echo ä €", "5 4 * * *", "echo ä €"),
        ("30 4 1,15 * 5 either", "30 4 1,15 * 5", "either"),
    ],
)  # fmt: skip
def test_crontab_lines_are_parsed_as_cron_does(line: str, when: str, command: str) -> None:
    found = one(line)
    assert (found.when, found.command, found.stdin, found.user) == (when, command, None, None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("@reboot /usr/bin/daemon", "@reboot is not supported"),
        ("@fortnightly x", "'@fortnightly' is not a crontab nickname"),
        ("@600 x", "--every"),
        ("60 * * * * x", "minute"),
        ("*/0 * * * * x", "minute"),
        ("0 0 30 2 * x", "never due"),
        ("0 0 * * H x", "not valid as day of the week"),
        ("0 0 L * * x", "not valid as day of the month"),
        ("? 0 * * * x", "not valid as minute"),
        ("0 0 * * foo x", "not valid as day of the week"),
        ("0 0 * * *", "neither NAME=VALUE nor five fields and a command"),
        ("0 0 * * * ", "it has no command"),
        ("0 0 * * * %only stdin", "it has no command"),
        ("hello", "neither NAME=VALUE"),
        ("PATH", "neither NAME=VALUE"),
        ("0 0 * * * x\0y", "NUL"),
        ("A-B=c", "cannot be the name of a variable"),
        ("OPSJOBS_RUN=1", "opsjobs itself"),
        ("SHELL=bash", "not an absolute path"),
        ("RANDOM_DELAY=soon", "not a number of minutes"),
        ("X=${target.name}", "would expand"),
        ("7 5 cron.weekly run-parts /etc/cron.weekly x", "not valid as day of the month"),
    ],
)
def test_unsupported_crontab_lines_are_skipped_with_line_and_reason(line: str, reason: str) -> None:
    found = crontab(f"# first\n{line}\n0 1 * * * next")
    assert [entry.command for entry in found.entries] == ["next"]
    (left,) = found.left
    assert (left.what, left.target) == ("crontab line 2", True)
    assert reason in left.reason


@pytest.mark.parametrize(
    ("text", "command", "stdin"),
    [
        ("cat", "cat", None),
        ("cat%", "cat", None),
        ("cat%one", "cat", "one\n"),
        ("cat%one%two%", "cat", "one\ntwo\n"),
        ("cat%%", "cat", "\n"),
        ("date +\\%F%in\\%put", "date +%F", "in%put\n"),
        ("x \\\\%in", "x \\\\", "in\n"),
        ("x \\\\\\%y", "x \\\\%y", None),
        ("end\\", "end\\", None),
    ],
)
def test_percent_signs_split_the_command_from_its_stdin(
    text: str, command: str, stdin: str | None
) -> None:
    assert split_percent(text) == (command, stdin)


def test_crontab_settings_apply_to_the_lines_below() -> None:
    text = (
        '0 0 * * * zero\nPATH = /usr/bin:/bin \nGREETING=\'a "b" \'\n"QUOTED"="x"\nEMPTY=\n0 1 * * * one\n'
        "SHELL=/bin/bash\nHOME=/srv\nCRON_TZ=Asia/Tokyo\nPATH=/opt\n0 2 * * * two\n"
    )
    zero, first, second = plan(text)
    assert "env" not in zero.job["actions"][0]
    assert first.job["actions"][0] == {
        "type": "command",
        "command": "one",
        "timeout": "24h",
        "env": {"PATH": "/usr/bin:/bin", "GREETING": 'a "b" ', "QUOTED": "x", "EMPTY": ""},
    }
    action = second.job["actions"][0]
    assert (action["type"], action["interpreter"], action["script"], action["cwd"]) == (
        "script",
        "/bin/bash",
        "two\n",
        "/srv",
    )
    assert (action["env"]["PATH"], action["env"]["HOME"]) == ("/opt", "/srv")
    assert [body.schedule["timezone"] for body in (zero, first, second)] == [
        "Europe/Berlin",
        "Europe/Berlin",
        "Asia/Tokyo",
    ]


def test_crontab_conversions_are_reported() -> None:
    found = crontab(
        'MAILTO=""\nMAILTO=ops@example.org\nRANDOM_DELAY=6\nLOGNAME=x\n~ 1 * * * x\r\n1 1 * * * y\r\n'
    )
    assert [(left.what, left.target) for left in found.left] == [
        (f"crontab line {n}", False) for n in (2, 3, 4, 5, 5)
    ]
    words = ("MAILTO", "jitter", "LOGNAME", "carriage return", "has become H")
    assert [next(word for word in words if word in left.reason) for left in found.left] == list(
        words
    )
    assert [entry.command for entry in found.entries] == ["x", "y"]
    assert plan_jobs([(found.entries[0], "x")], WISHES)[0].schedule["jitter"] == "6m"


def test_system_crontab_lines_name_their_users() -> None:
    text = "17 * * * * root cd / && run-parts --report /etc/cron.hourly\n@daily www-data:www php /srv/cron.php\n0 0 * * * onlyuser\n"
    found = crontab(text, system=True)
    assert [(entry.user, entry.command) for entry in found.entries] == [
        ("root", "cd / && run-parts --report /etc/cron.hourly"),
        ("www-data", "php /srv/cron.php"),
    ]
    assert [left.what for left in found.left] == ["crontab line 2", "crontab line 3"]
    bodies = plan_jobs(
        [(entry, "x") for entry in found.entries],
        CrontabOptions({}, "", "UTC", "1h", credential="sudo"),
    )
    assert bodies[1].job["actions"][0]["become"] == {"user": "www-data", "credential": "sudo"}


def test_imported_schedules_skip_misfires_and_allow_overlap() -> None:
    usual, single = plan("@hourly x\n@hourly -s y\n")
    assert usual.schedule == {
        "name": "crontab", "type": "cron", "cron": "@hourly", "timezone": "Europe/Berlin", "misfire": "skip", "overlap": "allow"
    }  # fmt: skip
    assert single.schedule["overlap"] == "skip"


def test_a_command_with_a_placeholder_is_imported_as_a_script() -> None:
    (body,) = plan("0 0 * * * echo '${target.name}' ${A}\n")
    assert body.job["actions"][0]["script"] == "echo '${target.name}' ${A}\n"


def test_a_comment_above_a_crontab_line_is_the_job_description() -> None:
    text = "# m h dom mon dow command\n0 0 * * * a\n# nightly backup\n0 1 * * * b\n#0 2 * * 1 c\n0 3 * * * d\n# far\n\n0 4 * * * e\n"
    assert [body.job.get("description") for body in plan(text)] == [
        None,
        "nightly backup",
        None,
        None,
    ]


def names(text: str, **wishes: Any) -> list[str]:
    return [
        body.job["name"]
        for body in plan(
            text,
            wishes=CrontabOptions(
                **{**{f: getattr(WISHES, f) for f in WISHES.__slots__}, **wishes}
            ),
        )
    ]


def test_job_names_come_from_the_command_and_are_stable() -> None:
    text = "0 1 * * * /usr/local/bin/backup.sh --full >/dev/null 2>&1\n"
    (name,) = names(text)
    assert name.startswith("web-1-backup.sh-")
    assert names(f"# other\nPATH=/bin\n{text.replace('0 1', '30 2')}") == [name]
    assert names(text.replace("--full", "--fast")) != [name]
    assert names(text, user="ada")[0].startswith("web-1-ada-backup.sh-")
    assert names(text, user="ada") != names(text, user="ben")
    assert names(text + text) == [name, f"{name}-2"]


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("cd /srv/app && ./manage.py clean", "manage.py"),
        (
            "test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )",
            "run-parts",
        ),
        (
            "[ -x /usr/bin/certbot ] && perl -e 'sleep int(rand(43200))' && certbot -q renew",
            "sleep",
        ),
        ("A=1 B=2 nice -n 10 /opt/x/job", "job"),
        ("/usr/bin/php -q /var/www/cron.php", "cron.php"),
        ("*", ""),
    ],
)
def test_job_names_contain_the_program(command: str, word: str) -> None:
    (name,) = names(f"0 0 * * * {command}")
    assert name.removeprefix("web-1-").rpartition("-")[0].strip("'") == word


def test_prefixes_separate_crontabs_of_machines() -> None:
    assert prefix_of({"ids": ["web-1"]}) == "web-1-"
    assert prefix_of({"groups": ["web"], "selector": "env=prod,!canary"}) == "web-env=prod-canary-"
    assert prefix_of({}) == "cron-"


def test_the_local_time_zone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    (tmp_path / "etc").mkdir()
    assert local_zone(tmp_path) == "UTC"
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert local_zone(tmp_path) == "Europe/Berlin"
    (tmp_path / "etc/timezone").write_text("Asia/Tokyo\n")
    assert local_zone(tmp_path) == "Asia/Tokyo"
    monkeypatch.setenv("TZ", ":America/New_York")
    assert local_zone(tmp_path) == "America/New_York"


# --- the command


class Service:
    """Stores jobs by name and their schedules, as the service does."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}

    def __call__(self, asked: ApiRequest) -> ApiResponse:
        if asked.path == "/jobs/apply":
            return ApiResponse(200, {"items": [self._applied(job) for job in asked.body["jobs"]]})
        if asked.path == "/jobs":
            return ApiResponse(
                200, {"items": [job["body"] for job in self.jobs.values()], "next": None}
            )
        number = asked.path.split("/")[2]
        if asked.method == "GET":
            return ApiResponse(
                200,
                {
                    "items": [self.schedules[number]] if number in self.schedules else [],
                    "next": None,
                },
            )
        body = ScheduleDraft.model_validate(asked.body).model_dump(mode="json")
        self.schedules[number] = {**body, "id": int(number), "version": 1}
        return ApiResponse(201, self.schedules[number])

    def _applied(self, job: dict[str, Any]) -> dict[str, Any]:
        old = self.jobs.get(job["name"])
        number = old["id"] if old else len(self.jobs) + 1
        self.jobs[job["name"]] = {"id": number, "body": job}
        change = "unchanged" if old and old["body"] == job else "updated" if old else "created"
        return {"name": job["name"], "id": number, "change": change}


def imported(
    monkeypatch: pytest.MonkeyPatch, service: Service, *words: str, code: int = 0
) -> list[ApiRequest]:
    with serve_api(service) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["import", "crontab", *words]) == code
        return api.requests


def sample(tmp_path: Path) -> str:
    file = tmp_path / "crontab"
    file.write_text(
        next(
            s.text
            for s in samples("docs/how-to/migrate-a-crontab.md", "text")
            if s.note == "deploy.crontab"
        )
    )
    return str(file)


def test_repeating_a_crontab_import_is_idempotent_and_a_changed_line_updates_its_schedule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service, file = Service(), sample(tmp_path)
    words = (file, "-t", "web-1", "-z", "Europe/Berlin", "--user", "deploy")
    imported(monkeypatch, service, *words, "--disabled")
    assert [schedule["enabled"] for schedule in service.schedules.values()] == [False, False]
    assert "2 lines changed something, 0 unchanged, 1 skipped" in capsys.readouterr().err
    again = imported(monkeypatch, service, *words)
    assert [asked.path for asked in again if asked.method in ("POST", "PUT")] == ["/jobs/apply"]
    assert "0 lines changed something, 2 unchanged" in capsys.readouterr().err
    Path(file).write_text(Path(file).read_text().replace("30 2", "45 2"))
    changed = imported(monkeypatch, service, *words)
    (put,) = [asked for asked in changed if asked.method == "PUT"]
    assert (put.body["cron"], put.body["enabled"], put.headers["if-match"]) == (
        "45 2 * * *",
        False,
        '"1"',
    )
    Path(file).write_text("@daily other\n")
    imported(monkeypatch, service, file, "-t", "web-1", "-z", "Europe/Berlin", "--user", "ada")
    assert "earlier import" not in capsys.readouterr().err
    imported(monkeypatch, service, *words)
    assert capsys.readouterr().err.count("was imported earlier") == 2


def test_manual_schedule_changes_survive_a_crontab_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service, file = Service(), tmp_path / "t"
    file.write_text("RANDOM_DELAY=6\n@daily x\n")
    imported(monkeypatch, service, str(file), "-t", "web-1", "-z", "UTC")
    service.schedules["1"] |= {"misfire": "run_once", "overlap": "queue", "calendars": ["freeze"]}
    file.write_text("@daily x\n")
    imported(monkeypatch, service, str(file), "-t", "web-1", "-z", "UTC")
    (changed,) = service.schedules.values()
    assert changed["jitter"] == "0s"
    assert (changed["misfire"], changed["overlap"], changed["calendars"]) == (
        "run_once",
        "queue",
        ["freeze"],
    )


def test_a_crontab_dry_run_prints_yaml_without_contacting_the_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (sample(tmp_path), "-g", "web", "-z", "Europe/Berlin", "--dry-run")
    assert imported(monkeypatch, Service(), *words) == []
    told = capsys.readouterr()
    written = list(YAML(typ="safe", pure=True).load_all(told.out))
    assert len(written) == 2
    assert (
        "# schedule name: crontab, type: cron, cron: 30 2 * * *, timezone: Europe/Berlin"
        in told.out
    )
    expected = [s.text for s in samples("docs/how-to/migrate-a-crontab.md", "yaml")]
    assert written[0] == YAML(typ="safe", pure=True).load(expected[0])
    assert "@reboot" in told.err


def test_the_output_of_a_crontab_dry_run_is_valid_for_jobs_apply(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(
        monkeypatch, Service(), sample(tmp_path), "-g", "web", "-z", "Europe/Berlin", "--dry-run"
    )
    file = tmp_path / "jobs.yaml"
    file.write_text(capsys.readouterr().out)
    names = [JobDraft.model_validate(body).name for body in yaml_documents.bodies([str(file)])]
    assert len(names) == 2


@pytest.mark.parametrize(
    ("line", "when"),
    [
        ("*/60 * * * * x", "0 * * * *"),
        ("5,*/60 */24 * * * x", "5,0 0 * * *"),
        ("0 8 */100,1-7 * mon x", "0 8 */31,1-7 * mon"),
        ("0 0 1 */13 * x", "0 0 1 */12 *"),
        ("0 0 * * 1-5/9 x", "0 0 * * 1"),
        ("0 0 */31 * * x", "0 0 */31 * *"),
        ("*/59 * * * * x", "*/59 * * * *"),
    ],
)
def test_an_excessive_cron_step_means_its_first_value(line: str, when: str) -> None:
    found = crontab(line)
    assert [entry.when for entry in found.entries] == [when]
    assert [left.target for left in found.left] == [False] * sum(
        a != b for a, b in zip(when.split(), line.split(), strict=False)
    )
    assert all("as in cron, only the first value counts" in left.reason for left in found.left)


def test_the_first_monday_of_a_month_is_imported() -> None:
    cron = Cron(one("0 8 */100,1-7 * mon x").when, UUID(int=1))
    label = datetime(2026, 11, 28)  # noqa: DTZ001 labels have no zone
    days = []
    for _ in range(4):
        label = cron.after(label) or label
        days.append((label.month, label.day))
    assert days == [(12, 7), (1, 4), (2, 1), (3, 1)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/nowhere", "-t", "x"], "/nowhere cannot be read"),
        (["/dev/null"], "no targets are given"),
        (["/dev/null", "-t", "x", "--user", "a", "--system"], "exclude each other"),
        (["/dev/null", "-t", "x", "-z", "GMT+5"], "not a time zone"),
        (["/dev/null", "-t", "x", "--timeout", "soon"], "not a duration"),
    ],
)
def test_invalid_arguments_are_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert imported(monkeypatch, Service(), *words, code=2) == []
    assert told in capsys.readouterr().err


def test_an_invalid_crontab_line_does_not_block_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service, file = Service(), tmp_path / "t"
    file.write_text(
        f"@daily {'x' * 70_000}\nCRON_TZ=Europe/Berln\n@daily a\nCRON_TZ=Asia/Tokyo\n@daily b\n"
    )
    imported(monkeypatch, service, str(file), "-t", "web-1", "-z", "UTC")
    assert [schedule["timezone"] for schedule in service.schedules.values()] == ["Asia/Tokyo"]
    told = capsys.readouterr().err
    assert "line 1: skipped: it must have at most 65536 characters" in told
    assert "line 3: skipped: 'Europe/Berln' is not a time zone" in told


def test_an_undeclared_system_crontab_is_detected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t"
    file.write_text("0 0 * * * root x\n")
    imported(monkeypatch, Service(), str(file), "-t", "web-1", "-z", "UTC")
    assert "If it is a system crontab, use --system" in capsys.readouterr().err
