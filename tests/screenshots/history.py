"""An installation with a history: people, machines, jobs and schedules.

Every execution of it was really run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import httpx2
import psycopg

from console.conftest import ENDED_SECONDS, Stack
from console.seeded import TARGETS, Seeded, seed
from kit.many_runs import ManyRuns

PASSWORD = "a long enough password"
PEOPLE = {"ada": "admin", "ben": "manager", "cleo": "operator"}
MACHINES = {
    **{f"web-{n}": {"env": "prod", "role": "web", "rack": f"r{1 + n % 2}"} for n in range(1, 7)},
    **{f"db-{n}": {"env": "prod", "role": "db", "rack": f"r{n}"} for n in range(1, 4)},
    **{f"stage-{n}": {"env": "staging", "role": "web", "rack": "r3"} for n in range(1, 4)},
}
SITE = {"site": "berlin"}
"""A label that the thousands of the large executions do not have."""
RUNNING_FROM = 6_400
"""The position from which the runs of the open large execution are still running."""

_CHECK = """case "$OPSJOBS_TARGET" in db-2)
  echo "chronyc: 506 Cannot talk to daemon" >&2; exit 1;; esac
echo "offset +0.000041 s, stratum 2"
"""
_CERTIFICATES = """echo "certificate of $OPSJOBS_TARGET: 61 days left"
case "$OPSJOBS_TARGET" in web-3|web-5)
  echo "acme: rate limit reached, try again tomorrow" >&2; exit 4;; esac
echo "renewed until 2027-02-27"
"""
_INDEX = r"""printf '\033[1mBuilding the index of %s\033[0m\n' "$OPSJOBS_TARGET"
for n in $(seq 1 180); do
  printf 'segment %04d  %7d documents  \033[32mok\033[0m\n' "$n" "$((n * 7919 % 90000))"
  [ "$n" != 97 ] || printf '\033[33mWARN\033[0m  segment 0097: 3 documents without a title\n'
done
printf '\033[31mERROR\033[0m segment 0181: checksum does not match\n' >&2
exit 2
"""
JOBS: dict[str, dict[str, Any]] = {
    "ntp-check": {
        "description": "Is the clock of every machine right?",
        "tags": ["upkeep"],
        "actions": [{"key": "offset", "command": _CHECK}],
        "targets": {"selector": "site=berlin,env=prod"},
    },
    "rotate-certificates": {
        "description": "Renew what ends within 70 days.",
        "tags": ["upkeep", "tls"],
        "actions": [{"key": "renew", "command": _CERTIFICATES}],
        "targets": {"selector": "site=berlin,role=web"},
        "policy": {"waves": [1, "50%", "100%"], "max_parallel": 4},
    },
    "build-index": {
        "description": "Build the index of the search anew.",
        "tags": ["search"],
        "actions": [{"key": "build", "type": "script", "interpreter": "sh", "script": _INDEX}],
        "targets": {"ids": ["stage-1", "stage-2"]},
    },
    "backup-database": {
        "description": "A dump of every database, kept for 14 days.",
        "tags": ["db", "backup"],
        "actions": [
            {"key": "dump", "command": "echo 'dumped 4.2 GB'; sleep 0.4"},
            {"key": "verify", "command": "echo 'checksum fits'"},
        ],
        "targets": {"selector": "site=berlin,role=db"},
        "policy": {"exclusive": ["backup"], "max_parallel": 1},
    },
    "restart-service": {
        "description": "Restart a service, one machine first.",
        "tags": ["web"],
        "parameters": [
            {"name": "service", "label": "Service", "required": True, "pattern": "[a-z-]+"},
            {"name": "drain", "label": "Drain first", "type": "boolean", "default": True},
            {
                "name": "level",
                "label": "How",
                "type": "choice",
                "choices": ["reload", "restart"],
                "default": "reload",
            },
        ],
        "actions": [
            {"key": "restart", "command": "echo ${level} ${service}: done"},
            {"key": "healthy", "command": "echo 200 OK"},
        ],
        "targets": {"selector": "site=berlin,role=web,env=prod"},
        "policy": {"waves": [1, "100%"]},
    },
    "release-shop": {
        "description": "Switch the shop to a release.",
        "tags": ["shop"],
        "parameters": [{"name": "release", "label": "Release", "required": True}],
        "actions": [
            {"key": "unpack", "command": "echo unpacked ${release}"},
            {"key": "switch", "command": "echo switched to ${release}"},
        ],
        "targets": {"selector": "site=berlin,role=web,env=prod"},
        "policy": {"waves": [1, "100%"], "approval": {"approvers": 1}},
    },
    "reindex-all": {
        "description": "Takes all night.",
        "tags": ["search"],
        "actions": [{"key": "reindex", "command": "echo begun; sleep 900"}],
        "targets": {"selector": "site=berlin,role=db"},
        "policy": {"max_parallel": 2},
    },
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "backup-database": {
        "name": "nightly", "type": "recurring", "every": "daily", "time": "02:30",
        "timezone": "Europe/Berlin",
    },
    "ntp-check": {"name": "every-hour", "type": "recurring", "every": "hours"},
    "rotate-certificates": {
        "name": "mondays", "type": "recurring", "every": "weekly", "weekdays": ["mon"], "time": "04:00",
        "timezone": "Europe/Berlin",
    },
    "build-index": {
        "name": "at-night", "type": "cron", "cron": "15 1,3,5 * * *", "timezone": "Europe/Berlin",
        "calendars": ["freeze"],
    },
}  # fmt: skip
# Who launched what, how many hours ago, and why.
PAST: Sequence[tuple[str, str, float, str, dict[str, Any]]] = (
    *(("ada", "rotate-certificates", 24.0 * day, "", {}) for day in range(8, 1, -1)),
    ("ada", "ntp-check", 22.0, "", {}),
    ("ben", "backup-database", 19.5, "before the upgrade", {}),
    ("ada", "restart-service", 16.2, "ticket 4702", {"service": "nginx"}),
    ("cleo", "restart-service", 11.0, "memory grows", {"service": "shop-worker"}),
    ("ada", "ntp-check", 9.0, "", {}),
    ("ben", "build-index", 6.5, "new synonyms", {}),
    ("cleo", "restart-service", 5.1, "ticket 4709", {"service": "nginx", "level": "restart"}),
    ("ada", "rotate-certificates", 2.2, "61 days left", {}),
    ("ada", "build-index", 0.8, "once more, with the fix", {}),
)


@dataclass
class History:
    """The created objects, for the pages that show them."""

    stack: Stack
    """The service, as ada."""
    jobs: dict[str, int]
    schedules: dict[str, int]
    approval: int
    index: int
    """The execution whose output is shown."""
    ended: int
    """The ended one on 10,000 targets."""
    running: int
    """The running one."""


def make(admin: Stack) -> History:
    """Create all of it; takes about a minute."""
    stacks = log_in_users(admin)
    ada = stacks["ada"]
    machines(ada)
    jobs = {
        name: ada.call("POST", "/jobs", {"name": name, **job})["id"] for name, job in JOBS.items()
    }
    windows = [{"name": "christmas", "dates": ["2026-12-24", "2026-12-25"]}]
    ada.call("POST", "/calendars", {"name": "freeze", "kind": "blackout", "windows": windows})
    schedules = {
        job: ada.call("POST", f"/jobs/{jobs[job]}/schedules", schedule)["id"]
        for job, schedule in SCHEDULES.items()
    }
    seeded = seed(ada)
    index = run_past_executions(stacks, seeded, jobs, schedules)
    ended = large(seeded, "ticket 4711: kernel of November")
    running = large(seeded, "ticket 4715: the rest", upto=RUNNING_FROM)
    approval = what_waits(stacks, jobs)
    return History(ada, jobs, schedules, approval, index, ended, running)


def log_in_users(admin: Stack) -> dict[str, Stack]:
    """Add the users, and log each of them in."""
    found = {}
    for name, role in PEOPLE.items():
        body = {"name": name, "password": PASSWORD, "grants": [{"role": role}]}
        admin.call("POST", "/users", body)
        login = {"username": name, "password": PASSWORD}
        token = admin.call("POST", "/auth/login", login)["access_token"]
        http = httpx2.Client(
            base_url=f"{admin.url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=ENDED_SECONDS,
        )
        found[name] = replace(admin, token=token, http=http)
    return found


def machines(ada: Stack) -> None:
    """Name the machines of the lab; add one that does not answer."""
    for number, (name, labels) in enumerate(MACHINES.items(), 1):
        change = {
            "name": name,
            "labels": {**SITE, **labels},
            "groups": [labels["role"] + "-servers"],
        }
        ada.call("PATCH", f"/targets/{id_of(ada, f'lab-{number}')}", change)
    away = {"name": "web-7", "host": "127.0.0.1", "port": 9, "credential": "lab"}
    labels = {"env": "prod", "role": "edge", "rack": "r1"}
    ada.call("POST", "/targets", {**away, "labels": {**SITE, **labels}})


def id_of(stack: Stack, target: str) -> str:
    """Return the id of a target."""
    (found,) = stack.call("GET", f"/targets?name={target}")["items"]
    return str(found["id"])


def wait(stack: Stack, execution: int) -> None:
    """Wait until it has ended."""
    stack.http.get(f"/executions/{execution}/events?kinds=end").raise_for_status()


def run_past_executions(
    stacks: dict[str, Stack], seeded: Seeded, jobs: dict[str, int], schedules: dict[str, int]
) -> int:
    """Run the launches of the last day, and set their times; return the id of the last one."""
    execution = 0
    for who, job, hours, reason, parameters in PAST:
        body = {"reason": reason, "parameters": parameters}
        made = stacks[who].call("POST", f"/jobs/{jobs[job]}/execute", body)
        execution = made["id"]
        wait(stacks[who], execution)
        age(seeded.url, execution, hours)
    ada = stacks["ada"]
    for job in ("backup-database", "ntp-check"):
        fired = ada.call("POST", f"/schedules/{schedules[job]}/trigger", {})
        wait(ada, fired["id"])
        age(seeded.url, fired["id"], 0.4)
    count_again(seeded.url)
    sick = ada.launch("uptime", targets={"ids": ["web-7"]}, reason="does it answer?")
    wait(ada, sick["id"])
    return execution


AGE = """
update job_executions set created_at = created_at - %(by)s::interval,
  started_at = started_at - %(by)s::interval, finished_at = finished_at - %(by)s::interval
where id = %(id)s;
update target_runs set claimed_at = claimed_at - %(by)s::interval,
  finished_at = finished_at - %(by)s::interval
where execution_id = %(id)s;
update job_execution_results x set started_at = x.started_at - %(by)s::interval,
  finished_at = x.finished_at - %(by)s::interval
from target_runs r where r.id = x.target_run_id and r.execution_id = %(id)s"""


def age(url: str, execution: int, hours: float) -> None:
    """Move an ended execution into the past."""
    with psycopg.connect(url) as connection:
        values = {"id": execution, "by": f"{int(hours * 3_600)} seconds"}
        for statement in AGE.split(";"):
            connection.execute(statement.encode(), values)


def count_again(url: str) -> None:
    """Let the statistics count the hours again into which executions were moved."""
    with psycopg.connect(url) as connection:
        connection.execute("delete from execution_hours")
        connection.execute(
            "update statistics_progress set counted_until = counted_until - interval '8 days'"
        )


def large(seeded: Seeded, reason: str, upto: int | None = None) -> int:
    """Launch on 10,000 targets; all runs end, or those from a position on keep running."""
    execution = seeded.launch(reason=reason)

    async def play(many: ManyRuns) -> None:
        await many.play(upto=upto)
        await many.spread(execution)

    seeded.play(play)
    assert TARGETS > RUNNING_FROM
    return execution


def what_waits(stacks: dict[str, Stack], jobs: dict[str, int]) -> int:
    """Launch one that needs an approval, and one that keeps running; return the approval's id."""
    ada, ben, cleo = stacks["ada"], stacks["ben"], stacks["cleo"]
    ben.call("POST", f"/jobs/{jobs['reindex-all']}/execute", {"reason": "after the new mapping"})
    ada.call(
        "POST",
        f"/targets/{id_of(ada, 'db-3')}/maintenance",
        {"duration": "2h", "reason": "new disk"},
    )
    cleo.launch(
        "df -h / | tail -1", targets={"selector": "site=berlin,role=db"}, reason="is there room?"
    )
    body = {"parameters": {"release": "2026.11.4"}, "reason": "ticket 4720, before noon"}
    asks = cleo.call("POST", f"/jobs/{jobs['release-shop']}/execute", body)
    (approval,) = ada.call("GET", f"/approvals?execution_id={asks['id']}")["items"]
    found: int = approval["id"]
    return found


def now(history: History) -> datetime:
    """The time at which the pages are shown: a minute after the last launch."""
    (last,) = history.stack.call("GET", "/executions?sort=-id&limit=1")["items"]
    return datetime.fromisoformat(last["created_at"]) + timedelta(seconds=75)
