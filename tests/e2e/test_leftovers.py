"""A day after its runs, a machine only has one token left.

Secrets are found nowhere, not even while they are used.
"""

from __future__ import annotations

import base64
import os
import pwd
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import redis

from e2e.cluster import WORKERS
from e2e.processes import Latch, wait_until
from e2e.secret_printers import readable_secrets, run_secret_printers
from e2e.single_host import SingleHost
from e2e.single_host import host as open_single_host
from kit.secret_canaries import (
    Canary,
    Sampler,
    find_canaries,
    find_canaries_in_files,
    find_canaries_in_tables,
    overheard,
)

pytestmark = pytest.mark.long  # a service of its own for each test

LONG_SECONDS = 120.0


@pytest.fixture(scope="module")
def _single_host() -> Iterator[SingleHost]:
    with open_single_host() as found:
        yield found


@pytest.fixture
def host(_single_host: SingleHost) -> Iterator[SingleHost]:
    """Yield the service and its machine; then check that all has ended and is consistent."""
    _single_host.cluster.heal()
    yield _single_host
    assert _single_host.cluster.complaints() == []


# --- what is secret


@dataclass(frozen=True, slots=True)
class Controls:
    """A text that is not secret, and must be found: it proves that each search works."""

    argument: Canary = field(default_factory=lambda: Canary("an argument"))
    variable: Canary = field(default_factory=lambda: Canary("a variable"))
    written: Canary = field(default_factory=lambda: Canary("what a command wrote"))
    hexadecimal: Canary = field(default_factory=lambda: Canary("a comment in hex"))
    base64: Canary = field(default_factory=lambda: Canary("a comment in base64"))
    told: Canary = field(default_factory=lambda: Canary("what Valkey was told"))
    logged: Canary = field(default_factory=lambda: Canary("a path that was asked for"))

    @property
    def all(self) -> list[Canary]:
        """Return every one."""
        return [*self.stored, self.told, self.logged]

    @property
    def stored(self) -> list[Canary]:
        """Return those that the database must contain."""
        return [self.argument, self.variable, self.written, self.hexadecimal, self.base64]

    def command(self, latch: Latch) -> str:
        """Print them until the latch is open."""
        comments = f": {self.hexadecimal.text.encode().hex()} {base64.b64encode(b'x' + self.base64.text.encode()).decode()}"
        shown = f"VARIABLE={self.variable.text} sh -c '{latch.wait}' sh {self.argument.text}"
        return f"{comments}; echo {self.written.text} >~/note; {shown}"


def test_no_secret_is_seen_in_any_process_file_or_log(host: SingleHost) -> None:
    cluster, control, latch, token = (
        host.cluster,
        Controls(),
        host.cluster.latch(),
        Canary("a secret parameter"),
    )
    shown = {(control.argument.name, "cmdline"), (control.variable.name, "environ")}
    watched = [*host.secrets, token, *control.all]
    spying = "sleep 1; env; tr '\\0' ' ' </proc/$$/environ; cat"
    with (
        readable_secrets(host.secrets) as found,
        Sampler(watched) as sampler,
        overheard(cluster.valkey) as heard,
    ):
        wait_until(lambda: sampler.rounds, "the sampler has looked", LONG_SECONDS)
        executions = [
            host.run(spying),
            host.run(spying, "by-password"),
            host.run(spying, "by-password", durable="off"),
            *(host.run(spying, **host.as_ben(method)) for method in ("sudo", "su", "doas")),
            host.run("true", become={"user": "root", "method": "sudo", "credential": "ada"}),
            *(telling := run_secret_printers(host, token, found)),
            host.run(control.command(latch)),
        ]
        wait_until(lambda: shown <= sampler.seen, "the sampler sees what is shown", LONG_SECONDS)
        latch.open()
        ends = [_came_to(host, execution) for execution in executions]
        cluster.http.get(f"/jobs/{control.logged.text}")
        with redis.Redis.from_url(cluster.valkey.url) as client:
            client.set("said", control.told.text)
        cluster.settle(LONG_SECONDS)
    assert ends == [*["succeeded"] * 6, "failed", *["succeeded"] * 5]
    masked = [row["stderr"] for execution in telling for row in cluster.results(execution)]
    assert all("****" in text for text in masked), "they did print what they should not"
    assert sampler.seen == shown
    assert find_canaries(b"\n".join(heard), watched) == {control.told.name}
    assert _names(_outside(host, telling, find_canaries_in_files(_places_of(host), watched))) == {
        control.written.name
    }
    assert _names(find_canaries_in_files([cluster.folder, host.server.folder], watched)) == {
        control.logged.name
    }
    cluster.invariants.check()
    stored = {canary.name for canary in control.stored}
    assert _names(find_canaries_in_tables(cluster.postgres.url, watched)) == stored
    with psycopg.connect(cluster.postgres.url, autocommit=True) as connection:
        connection.execute("checkpoint")
    assert _names(find_canaries_in_files([cluster.postgres._home], watched)) == stored


def _came_to(host: SingleHost, execution: int) -> str:
    """Return how its only run ended."""
    (status,) = host.cluster.ended(execution, LONG_SECONDS)["counts"]
    return str(status)


def _outside(
    host: SingleHost, executions: list[int], found: set[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Find secrets, except in the output of commands that printed them.

    The machine keeps that for a day, readable only for the user who had it printed.
    """
    runs = host.cluster.rows(
        "select uuid::text from target_runs where execution_id = any(%s)", executions
    )
    own = {
        (name, file)
        for name, file in found
        if any(f"/.opsjobs/runs/{run['uuid']}." in file for run in runs)
    }
    assert _names(own) >= {canary.name for canary in host.secrets[1:]}
    assert {file.rpartition("/")[2].rpartition(".")[2] for _, file in own} == {"1", "2"}, (
        "its output, and nothing else"
    )
    return found - own


def _names(found: set[tuple[str, str]]) -> set[str]:
    return {name for name, _ in found}


def _places_of(host: SingleHost) -> list[Path]:
    """Return the places where our accounts may have written, and the machine's own logs."""
    return [
        *host.homes.values(),
        *_open_places(host),
        Path("/var/log"),
        Path("/var/mail"),
        Path("/run/sudo"),
    ]


def _open_places(host: SingleHost) -> list[Path]:
    """Return the files of our accounts in places where every user may write."""
    uids = {pwd.getpwnam(name).pw_uid for name in host.homes}
    return [
        entry
        for top in ("/tmp", "/var/tmp", "/dev/shm")
        for entry in Path(top).iterdir()
        if _owner(entry) in uids
    ]


def _owner(entry: Path) -> int:
    try:
        return entry.lstat().st_uid
    except FileNotFoundError:  # other processes come and go there
        return -1


# --- what is left


def test_a_day_after_its_runs_one_spool_token_is_left_on_a_machine(host: SingleHost) -> None:
    _a_start_that_was_voided(host)
    longs = _runs_that_are_interfered_with(host)
    shorts = _runs_that_are_left_alone(host)
    ends = {name: _came_to(host, execution) for name, execution in {**longs, **shorts}.items()}
    assert ends == {
        **dict.fromkeys(shorts, "succeeded"),
        "taken over": "succeeded",
        "keeper killed": "lost",
        "cancelled": "cancelled",
        "family": "cancelled",
        "timed out": "timeout",
        "exit 130": "failed",
        "refused": "failed",
    }
    host.cluster.settle(LONG_SECONDS)
    before = host.left()
    assert {name: len(files) > 1 for name, files in before.items()} == dict.fromkeys(
        host.homes, True
    )
    assert [file for file in before[host.ada] if file.endswith(".v")]
    host.cluster.invariants.check()
    _a_day_passes(host)
    assert list(host.left().values()) == [["id"]] * len(host.homes)
    assert _open_places(host) == [host.stores[host.homeless]]


def _runs_that_are_left_alone(host: SingleHost) -> dict[str, int]:
    """Let each end by itself; failures are listed by name."""
    filling = "\n".join(
        f": 'line {n} of a command that is too long for a variable'" for n in range(400)
    )
    return {
        "plain": host.run("echo out; echo err >&2"),
        "by password": host.run("echo out", "by-password"),
        "direct": host.run("echo out", durable="off"),
        "followed live": host.run("echo one; sleep 1; echo two"),
        "long": host.run(f"{filling}\necho out"),
        "daemon": host.run("setsid sleep 3 </dev/null >/dev/null 2>&1 & echo out"),
        "much": host.run("head -c 300000 /dev/zero"),
        "no home": host.run("echo out", "homeless"),
        **{
            method: host.run("echo out; sleep 0.3; echo more", **host.as_ben(method))
            for method in ("sudo", "su", "doas")
        },
        "exit 130": host.run("exit 130"),
        "timed out": host.run("trap '' TERM; sleep 60", timeout="1s"),
        "refused": host.run("true", become={"user": "root", "method": "sudo", "credential": "ada"}),
    }


def _runs_that_are_interfered_with(host: SingleHost) -> dict[str, int]:
    """Cancelled ones, orphans, and runs whose keeper has died."""
    cluster, waiting = host.cluster, f"echo begun; until [ -e {_latch(host)} ]; do sleep 0.1; done"
    found = {
        "taken over": host.run(waiting),
        "keeper killed": host.run(waiting),
        "cancelled": host.run("echo begun; sleep 300"),
        "family": host.run(
            "trap '' TERM; (setsid sleep 300 &); echo begun; sleep 300", **host.as_ben("sudo")
        ),
    }
    for name, execution in found.items():
        wait_until(lambda it=execution: _said(host, it), f"{name} has begun", LONG_SECONDS)  # type: ignore[misc]
    os.kill(_keeper(host, found["keeper killed"]), signal.SIGKILL)
    for worker in cluster.workers:
        worker.kill()
    cluster.start(*WORKERS)
    for name in ("cancelled", "family"):
        cluster.post(f"/executions/{found[name]}/cancel", {}, 202)
    cluster.ended(found["keeper killed"], LONG_SECONDS)
    _latch(host).touch()
    return found


def _latch(host: SingleHost) -> Path:
    return host.homes[host.ada] / "latch"


def _said(host: SingleHost, execution: int) -> bool:
    return (
        host.cluster.output(execution, host.cluster.runs(execution)[0]["target"]["name"])
        == b"begun\n"
    )


def _keeper(host: SingleHost, execution: int) -> int:
    """Return the process that waits for the end of its command, by the run's record."""
    run = host.cluster.rows("select uuid from target_runs where execution_id = %s", execution)[0][
        "uuid"
    ]
    (record,) = (host.stores[host.ada] / "runs").glob(f"{run}.*.x")
    return int(record.read_text().splitlines()[2].split()[2].partition(".")[0])


def _a_start_that_was_voided(host: SingleHost) -> None:
    """Cancel it after it may have been started, but before its start."""
    cluster = host.cluster
    for worker in cluster.workers:
        worker.kill()
    cluster.start(WORKERS[0], OPSJOBS_FAILPOINT="start:sleep:5")
    execution = host.run("echo begun")
    known = "select 1 from target_runs where execution_id = %s and boot_id is not null"
    wait_until(lambda: cluster.rows(known, execution), "its store is on record", LONG_SECONDS)
    cluster.post(f"/executions/{execution}/cancel", {}, 202)
    assert cluster.ended(execution, LONG_SECONDS)["status"] == "cancelled"
    assert cluster.runs(execution)[0]["cancel_proof"] == "never_started"
    cluster.running[WORKERS[0]].kill()
    cluster.heal()


def _a_day_passes(host: SingleHost) -> None:
    """Move the time of the service by a day, while none of it is up, as its clocks do not notice.

    Users who may not become root are tried again after a day.
    """
    cluster = host.cluster
    for process in cluster.running.values():
        process.kill()
    with psycopg.connect(cluster.postgres.url, autocommit=True) as connection:
        connection.execute("update opsjobs_clock set shift = interval '25 hours'")
    cluster.heal()
    due = """select id, target_name, status, spool_due, sweep_due from target_runs
where spool_due < opsjobs_now() + interval '12 hours' or sweep_due is not null"""
    with suppress(AssertionError):
        wait_until(lambda: not cluster.rows(due), "all is cleaned up after", LONG_SECONDS)
    assert [tuple(row.values()) for row in cluster.rows(due)] == []
