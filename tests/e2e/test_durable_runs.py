"""Commands that outlive everything that started them: one start, every byte once, the true end, whatever died meanwhile."""

from __future__ import annotations

import signal
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


def says(house: House, execution: int, target: str, line: int) -> None:
    """Wait until this line of the command's is stored."""
    until(
        lambda: house.output(execution, target).endswith(b"\n%d\n" % line),
        f"line {line} of execution {execution}",
    )


def test_a_run_survives_three_dead_fleets_of_workers_and_a_cut_network(house: House) -> None:
    server = house.machines[0]
    with proxied(server.host, server.port) as (way, loop):
        far = house.add_target("far", way.host, way.port, server.host_keys)
        starts = house.witness.path.with_name(
            "starts"
        )  # the witness goes by the machine's address, which the proxy hides
        starts.touch()
        starts.chmod(0o666)
        latches = {line: house.latch() for line in (7, 14, 21, 28)}
        stops = " ".join(f"{line}) {latch.wait};;" for line, latch in latches.items())
        count = f"echo start >>{starts}; for i in $(seq 30); do echo $i; case $i in {stops} esac; sleep 0.1; done"
        execution = house.run(count, [far], witnessed=False)
        viewer = Viewer(house.client, execution, breaks=3, seed=1, bytes_at_most=2_000)
        viewer.start()
        for line in (7, 14, 21):
            says(house, execution, far, line)
            for worker in house.workers:
                worker.kill()
            house.start(*WORKERS)
            latches[line].open()
        says(house, execution, far, 28)
        loop.call_soon_threadsafe(way.reset_all)
        latches[28].open()
        ended = house.ended(execution)
    wanted = "".join(f"{i}\n" for i in range(1, 31)).encode()
    assert starts.read_text() == "start\n"
    assert ended["counts"] == {"succeeded": 1}
    assert house.output(execution, far) == wanted
    assert [*streams(viewer.watched(90)).values()] == [wanted]
    assert house.results(execution)[0]["exit_code"] == 0


def test_200_runs_of_killed_workers_are_all_followed_on(house: House) -> None:
    house.start("worker-3", "worker-4", OPSJOBS_CONCURRENCY="200")
    survivor = house.running.pop("worker-4")
    try:
        latch = house.latch()
        execution = house.run(
            f"echo begun; {latch.wait}; echo done", house.names(1, 200), max_parallel=200
        )
        house.started(execution, 200)
        for worker in (*house.workers, house.running.pop("worker-3")):
            worker.kill()
        until(
            lambda: {run["worker"] for run in house.runs(execution)} == {survivor.title},
            "all are taken over",
        )
        latch.open()
        assert house.ended(execution)["counts"] == {"succeeded": 200}
    finally:
        survivor.end(signal.SIGTERM)
    assert {house.output(execution, name) for name in house.names(1, 200)} == {b"begun\ndone\n"}


def test_a_worker_that_is_asked_to_leave_waits_for_no_command_and_all_of_them_go_on(
    house: House,
) -> None:
    latch = house.latch()
    house.workers[0].kill()
    house.start(WORKERS[0], OPSJOBS_DRAIN_SECONDS="600")
    execution = house.run(
        f"echo begun; {latch.wait}; echo done", house.names(1, 40), max_parallel=40
    )
    house.started(execution, 40)
    assert house.workers[0].end(signal.SIGTERM) == 0
    latch.open()
    assert house.ended(execution)["counts"] == {"succeeded": 40}
    assert {house.output(execution, name) for name in house.names(1, 40)} == {b"begun\ndone\n"}


def test_a_power_cut_of_everything_at_once_costs_no_run(house: House) -> None:
    latch = house.latch()
    execution = house.run(
        f"echo begun; {latch.wait}; echo done", house.names(1, 60), max_parallel=40
    )
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
    latch.open()
    assert house.ended(execution)["counts"] == {"succeeded": 60}
    assert {house.output(execution, name) for name in house.names(1, 60)} == {b"begun\ndone\n"}


FAMILY = """trap '' TERM; (trap '' TERM HUP; exec sleep 301) & (setsid sh -c 'trap "" TERM HUP; sleep 302' >/dev/null 2>&1 &)
while :; do sleep 1; done"""


def test_a_cancel_leaves_no_survivor_of_families_that_fork_and_daemonise_and_ignore_term(
    house: House,
) -> None:
    # 200 of them, each on a machine of its own: tests/chaos/test_families.py.
    execution = house.run(FAMILY, house.names(1, 12), max_parallel=12, witnessed=False)
    until(lambda: len(family()) == 12 * 2, "all families are complete")
    house.post(f"/executions/{execution}/cancel", {}, 202)
    assert house.ended(execution)["counts"] == {"cancelled": 12}
    assert {run["cancel_proof"] for run in house.runs(execution)} == {"killed"}
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
