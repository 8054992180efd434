"""Commands that outlive everything that started them: one start, every byte once, the true end, whatever died meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.house import WORKERS, House
from e2e.processes import until
from e2e.viewer import Viewer, streams
from e2e.ways import proxied


@pytest.fixture(autouse=True)
def _nobody_is_lost(house: House) -> Iterator[None]:
    """No test here may end with a run that is lost."""
    before = house.rows("select coalesce(max(id), 0) as id from target_runs")[0]["id"]
    yield
    house.settle()
    query = "select id, error_message from target_runs where id > %s and status in ('lost', 'dead')"
    assert house.rows(query, before) == []


def grows(house: House, execution: int, target: str) -> None:
    """Wait until the command has said more than now, and that is stored."""
    now = len(house.output(execution, target))
    until(lambda: len(house.output(execution, target)) > now, f"more output than {now} bytes of execution {execution}")


def test_a_run_survives_three_dead_fleets_of_workers_and_a_cut_network(house: House) -> None:
    server = house.machines[0]
    with proxied(server.host, server.port) as (way, loop):
        far = house.add_target("far", way.host, way.port, server.host_keys)
        starts = house.witness.path.with_name("starts")  # the witness goes by the machine's address, which the proxy hides
        starts.touch()
        starts.chmod(0o666)
        count = f"echo start >>{starts}; for i in $(seq 30); do echo $i; sleep 0.5; done"
        execution = house.run(count, [far], witnessed=False)
        viewer = Viewer(house.client, execution, breaks=3, seed=1, bytes_at_most=2_000)
        viewer.start()
        for _ in range(3):
            grows(house, execution, far)
            for worker in house.workers:
                worker.kill()
            house.start(*WORKERS)
        grows(house, execution, far)
        loop.call_soon_threadsafe(way.reset_all)
        ended = house.ended(execution, 60)
    wanted = "".join(f"{i}\n" for i in range(1, 31)).encode()
    assert starts.read_text() == "start\n"
    assert ended["counts"] == {"succeeded": 1}
    assert house.output(execution, far) == wanted
    assert [*streams(viewer.watched(30)).values()] == [wanted]
    assert house.results(execution)[0]["exit_code"] == 0


def test_200_runs_of_killed_workers_are_all_followed_on_within_20_seconds(house: House) -> None:
    house.start("worker-3", "worker-4", OPSJOBS_CONCURRENCY="200")
    survivor = house.running.pop("worker-4")
    try:
        execution = house.run("echo begun; sleep 25; echo done", house.names(1, 200), max_parallel=200)
        house.started(execution, 200)
        for worker in (*house.workers, house.running.pop("worker-3")):
            worker.kill()
        until(lambda: {run["worker"] for run in house.runs(execution)} == {survivor.title}, "all are taken over", 20)
        assert house.ended(execution, 60)["counts"] == {"succeeded": 200}
    finally:
        survivor.end(signal.SIGTERM)
    assert {house.output(execution, name) for name in house.names(1, 200)} == {b"begun\ndone\n"}


def test_a_worker_that_is_asked_to_leave_is_gone_within_two_seconds_and_its_commands_go_on(house: House) -> None:
    execution = house.run("echo begun; sleep 4; echo done", house.names(1, 40), max_parallel=40)
    house.started(execution, 40)
    leaving = house.workers[0]
    before = time.monotonic()
    assert leaving.end(signal.SIGTERM, 12) == 0
    assert time.monotonic() - before < 2
    assert house.ended(execution)["counts"] == {"succeeded": 40}
    assert {house.output(execution, name) for name in house.names(1, 40)} == {b"begun\ndone\n"}


def test_a_power_cut_of_everything_at_once_costs_no_run(house: House) -> None:
    execution = house.run("echo begun; sleep 3; echo done", house.names(1, 60), max_parallel=40)
    house.started(execution, 40)
    for process in house.running.values():
        process.process.kill()
    for server in (house.postgres.process, house.valkey.process):
        assert server is not None
        server.kill()
        server.wait()
    for process in house.running.values():
        process.process.wait()
    house.heal()
    assert house.ended(execution, 60)["counts"] == {"succeeded": 60}
    assert {house.output(execution, name) for name in house.names(1, 60)} == {b"begun\ndone\n"}


FAMILY = """trap '' TERM; (trap '' TERM HUP; exec sleep 301) & (setsid sh -c 'trap "" TERM HUP; sleep 302' >/dev/null 2>&1 &)
while :; do sleep 1; done"""


def test_a_cancel_leaves_no_survivor_of_families_that_fork_and_daemonise_and_ignore_term(house: House) -> None:
    execution = house.run(FAMILY, house.names(1, 40), max_parallel=40, witnessed=False)
    until(lambda: len(family()) == 40 * 2, "all families are complete", 60)
    house.post(f"/executions/{execution}/cancel", {}, 202)
    before = time.monotonic()
    assert house.ended(execution, 60)["counts"] == {"cancelled": 40}
    assert {run["cancel_proof"] for run in house.runs(execution)} == {"killed"}
    assert time.monotonic() - before < 15
    assert family() == []


def family() -> list[str]:
    """Processes of the family above that live."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = process.read_bytes()
            if words.endswith((b"sleep\x00301\x00", b"sleep\x00302\x00")):
                found.append(words.decode(errors="replace"))
    return found
