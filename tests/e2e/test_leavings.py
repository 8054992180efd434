"""What is left on a machine a day after its runs is one token, and what is secret was seen nowhere, not while it was used either."""

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

from e2e.house import WORKERS
from e2e.place import Place
from e2e.place import place as open_place
from e2e.processes import Latch, until
from e2e.telling import lying_about, told
from kit.secret_canaries import Canary, Sampler, overheard, seen_in, seen_in_files, seen_in_tables

LONG_SECONDS = 120.0


@pytest.fixture(scope="module")
def _place() -> Iterator[Place]:
    with open_place() as found:
        yield found


@pytest.fixture
def place(_place: Place) -> Iterator[Place]:
    """The service and its machine; afterwards everything that was launched must have ended, and every invariant hold."""
    _place.house.heal()
    yield _place
    assert _place.house.complaints() == []


# --- what is secret


@dataclass(frozen=True, slots=True)
class Controls:
    """What is no secret, and must be seen: each of those who look finds what was put before his eyes."""

    argument: Canary = field(default_factory=lambda: Canary("an argument"))
    variable: Canary = field(default_factory=lambda: Canary("a variable"))
    written: Canary = field(default_factory=lambda: Canary("what a command wrote"))
    hexadecimal: Canary = field(default_factory=lambda: Canary("a comment in hex"))
    base64: Canary = field(default_factory=lambda: Canary("a comment in base64"))
    told: Canary = field(default_factory=lambda: Canary("what Valkey was told"))
    logged: Canary = field(default_factory=lambda: Canary("a path that was asked for"))

    @property
    def all(self) -> list[Canary]:
        """Every one."""
        return [*self.stored, self.told, self.logged]

    @property
    def stored(self) -> list[Canary]:
        """What the database must hold."""
        return [self.argument, self.variable, self.written, self.hexadecimal, self.base64]

    def command(self, latch: Latch) -> str:
        """Shows them until the latch is open."""
        comments = f": {self.hexadecimal.text.encode().hex()} {base64.b64encode(b'x' + self.base64.text.encode()).decode()}"
        shown = f"VARIABLE={self.variable.text} sh -c '{latch.wait}' sh {self.argument.text}"
        return f"{comments}; echo {self.written.text} >~/note; {shown}"


def test_no_secret_is_ever_seen(place: Place) -> None:
    house, control, latch, token = (
        place.house,
        Controls(),
        place.house.latch(),
        Canary("a secret parameter"),
    )
    shown = {(control.argument.name, "cmdline"), (control.variable.name, "environ")}
    watched = [*place.secrets, token, *control.all]
    spying = "sleep 1; env; tr '\\0' ' ' </proc/$$/environ; cat"
    with (
        lying_about(place.secrets) as found,
        Sampler(watched) as sampler,
        overheard(house.valkey) as heard,
    ):
        until(lambda: sampler.rounds, "the sampler has looked", LONG_SECONDS)
        executions = [
            place.run(spying),
            place.run(spying, "by-password"),
            place.run(spying, "by-password", durable="off"),
            *(place.run(spying, **place.as_ben(method)) for method in ("sudo", "su", "doas")),
            place.run("true", become={"user": "root", "method": "sudo", "credential": "ada"}),
            *(telling := told(place, token, found)),
            place.run(control.command(latch)),
        ]
        until(lambda: shown <= sampler.seen, "the sampler sees what is shown", LONG_SECONDS)
        latch.open()
        ends = [_came_to(place, execution) for execution in executions]
        house.http.get(f"/jobs/{control.logged.text}")
        with redis.Redis.from_url(house.valkey.url) as client:
            client.set("said", control.told.text)
        house.settle(LONG_SECONDS)
    assert ends == [*["succeeded"] * 6, "failed", *["succeeded"] * 5]
    masked = [row["stderr"] for execution in telling for row in house.results(execution)]
    assert all("****" in text for text in masked), "they did print what they should not"
    assert sampler.seen == shown
    assert seen_in(b"\n".join(heard), watched) == {control.told.name}
    assert _names(_outside(place, telling, seen_in_files(_places_of(place), watched))) == {
        control.written.name
    }
    assert _names(seen_in_files([house.folder, place.server.folder], watched)) == {
        control.logged.name
    }
    house.invariants.check()
    stored = {canary.name for canary in control.stored}
    assert _names(seen_in_tables(house.postgres.url, watched)) == stored
    with psycopg.connect(house.postgres.url, autocommit=True) as connection:
        connection.execute("checkpoint")
    assert _names(seen_in_files([house.postgres._home], watched)) == stored


def _came_to(place: Place, execution: int) -> str:
    """How its only run ended."""
    (status,) = place.house.ended(execution, LONG_SECONDS)["counts"]
    return str(status)


def _outside(
    place: Place, executions: list[int], found: set[tuple[str, str]]
) -> set[tuple[str, str]]:
    """But for what these have printed: the machine keeps that for a day, where only those can read it who had it printed."""
    runs = place.house.rows(
        "select uuid::text from target_runs where execution_id = any(%s)", executions
    )
    own = {
        (name, file)
        for name, file in found
        if any(f"/.opsjobs/runs/{run['uuid']}." in file for run in runs)
    }
    assert _names(own) >= {canary.name for canary in place.secrets[1:]}
    assert {file.rpartition("/")[2].rpartition(".")[2] for _, file in own} == {"1", "2"}, (
        "its output, and nothing else"
    )
    return found - own


def _names(found: set[tuple[str, str]]) -> set[str]:
    return {name for name, _ in found}


def _places_of(place: Place) -> list[Path]:
    """Where our accounts may have written to, and where the machine says what they did."""
    return [
        *place.homes.values(),
        *_open_places(place),
        Path("/var/log"),
        Path("/var/mail"),
        Path("/run/sudo"),
    ]


def _open_places(place: Place) -> list[Path]:
    """What our accounts have in places where everybody may write."""
    uids = {pwd.getpwnam(name).pw_uid for name in place.homes}
    return [
        entry
        for top in ("/tmp", "/var/tmp", "/dev/shm")
        for entry in Path(top).iterdir()
        if _owner(entry) in uids
    ]


def _owner(entry: Path) -> int:
    try:
        return entry.lstat().st_uid
    except FileNotFoundError:  # others come and go there
        return -1


# --- what is left


def test_a_day_after_runs_of_every_kind_one_token_is_left(place: Place) -> None:
    _a_start_that_was_voided(place)
    longs = _runs_that_are_interfered_with(place)
    shorts = _runs_that_are_left_alone(place)
    ends = {name: _came_to(place, execution) for name, execution in {**longs, **shorts}.items()}
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
    place.house.settle(LONG_SECONDS)
    before = place.left()
    assert {name: len(files) > 1 for name, files in before.items()} == dict.fromkeys(
        place.homes, True
    )
    assert [file for file in before[place.ada] if file.endswith(".v")]
    place.house.invariants.check()
    _a_day_passes(place)
    assert list(place.left().values()) == [["id"]] * len(place.homes)
    assert _open_places(place) == [place.stores[place.homeless]]


def _runs_that_are_left_alone(place: Place) -> dict[str, int]:
    """Each ends by itself; those that fail are told by their names."""
    filling = "\n".join(
        f": 'line {n} of a command that is too long for a variable'" for n in range(400)
    )
    return {
        "plain": place.run("echo out; echo err >&2"),
        "by password": place.run("echo out", "by-password"),
        "direct": place.run("echo out", durable="off"),
        "followed live": place.run("echo one; sleep 1; echo two"),
        "long": place.run(f"{filling}\necho out"),
        "daemon": place.run("setsid sleep 3 </dev/null >/dev/null 2>&1 & echo out"),
        "much": place.run("head -c 300000 /dev/zero"),
        "no home": place.run("echo out", "homeless"),
        **{
            method: place.run("echo out; sleep 0.3; echo more", **place.as_ben(method))
            for method in ("sudo", "su", "doas")
        },
        "exit 130": place.run("exit 130"),
        "timed out": place.run("trap '' TERM; sleep 60", timeout="1s"),
        "refused": place.run(
            "true", become={"user": "root", "method": "sudo", "credential": "ada"}
        ),
    }


def _runs_that_are_interfered_with(place: Place) -> dict[str, int]:
    """Cancelled, orphaned, bereft of who waits for their end."""
    house, waiting = place.house, f"echo begun; until [ -e {_latch(place)} ]; do sleep 0.1; done"
    found = {
        "taken over": place.run(waiting),
        "keeper killed": place.run(waiting),
        "cancelled": place.run("echo begun; sleep 300"),
        "family": place.run(
            "trap '' TERM; (setsid sleep 300 &); echo begun; sleep 300", **place.as_ben("sudo")
        ),
    }
    for name, execution in found.items():
        until(lambda it=execution: _said(place, it), f"{name} has begun", LONG_SECONDS)  # type: ignore[misc]
    os.kill(_keeper(place, found["keeper killed"]), signal.SIGKILL)
    for worker in house.workers:
        worker.kill()
    house.start(*WORKERS)
    for name in ("cancelled", "family"):
        house.post(f"/executions/{found[name]}/cancel", {}, 202)
    house.ended(found["keeper killed"], LONG_SECONDS)
    _latch(place).touch()
    return found


def _latch(place: Place) -> Path:
    return place.homes[place.ada] / "latch"


def _said(place: Place, execution: int) -> bool:
    return (
        place.house.output(execution, place.house.runs(execution)[0]["target"]["name"])
        == b"begun\n"
    )


def _keeper(place: Place, execution: int) -> int:
    """The process that waits for the end of its command, as the record tells."""
    run = place.house.rows("select uuid from target_runs where execution_id = %s", execution)[0][
        "uuid"
    ]
    (record,) = (place.stores[place.ada] / "runs").glob(f"{run}.*.x")
    return int(record.read_text().splitlines()[2].split()[2].partition(".")[0])


def _a_start_that_was_voided(place: Place) -> None:
    """Cancelled between the moment from which on it may have been started and its start."""
    house = place.house
    for worker in house.workers:
        worker.kill()
    house.start(WORKERS[0], OPSJOBS_FAILPOINT="start:sleep:5")
    execution = place.run("echo begun")
    known = "select 1 from target_runs where execution_id = %s and boot_id is not null"
    until(lambda: house.rows(known, execution), "its store is on record", LONG_SECONDS)
    house.post(f"/executions/{execution}/cancel", {}, 202)
    assert house.ended(execution, LONG_SECONDS)["status"] == "cancelled"
    assert house.runs(execution)[0]["cancel_proof"] == "never_started"
    house.running[WORKERS[0]].kill()
    house.heal()


def _a_day_passes(place: Place) -> None:
    """For the service; nothing of it is up meanwhile, as its own clocks do not know. Who may not become root tries in a day."""
    house = place.house
    for process in house.running.values():
        process.kill()
    with psycopg.connect(house.postgres.url, autocommit=True) as connection:
        connection.execute("update opsjobs_clock set shift = interval '25 hours'")
    house.heal()
    due = """select id, target_name, status, spool_due, sweep_due from target_runs
where spool_due < opsjobs_now() + interval '12 hours' or sweep_due is not null"""
    with suppress(AssertionError):
        until(lambda: not house.rows(due), "all is cleaned up after", LONG_SECONDS)
    assert [tuple(row.values()) for row in house.rows(due)] == []
