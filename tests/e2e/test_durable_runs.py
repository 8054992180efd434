"""Commands that outlive everything that started them: one start, every byte once, the true end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.breakable_proxy import open_proxy
from e2e.cluster import WORKERS, Cluster
from e2e.processes import wait_until
from e2e.viewer import Viewer, streams

MANY = 100
"""Runs of workers that are killed at once."""


@pytest.fixture(autouse=True)
def _nobody_is_lost(cluster: Cluster) -> Iterator[None]:
    """No test here may end with a lost run."""
    before = cluster.rows("select coalesce(max(id), 0) as id from target_runs")[0]["id"]
    yield
    cluster.settle()
    query = "select id, error_message from target_runs where id > %s and status in ('lost', 'dead')"
    assert cluster.rows(query, before) == []


def says(cluster: Cluster, execution: int, target: str, line: int) -> None:
    """Wait until this line of the command is stored."""
    wait_until(
        lambda: cluster.output(execution, target).endswith(b"\n%d\n" % line),
        f"line {line} of execution {execution}",
    )


def test_a_durable_run_survives_three_worker_takeovers_and_a_cut_network(cluster: Cluster) -> None:
    server = cluster.machines[0]
    with open_proxy(server.host, server.port) as (way, loop):
        far = cluster.add_target("far", way.host, way.port, server.host_keys)
        starts = cluster.witness.path.with_name(
            "starts"
        )  # the witness uses the machine's address, which the proxy hides
        starts.touch()
        starts.chmod(0o666)
        latches = {line: cluster.latch() for line in (7, 14, 21, 28)}
        stops = " ".join(f"{line}) {latch.wait};;" for line, latch in latches.items())
        count = f"echo start >>{starts}; for i in $(seq 30); do echo $i; case $i in {stops} esac; sleep 0.1; done"
        execution = cluster.run(count, [far], witnessed=False)
        viewer = Viewer(cluster.client, execution, breaks=3, seed=1, bytes_at_most=2_000)
        viewer.start()
        for line in (7, 14, 21):
            says(cluster, execution, far, line)
            for worker in cluster.workers:
                worker.kill()
            cluster.start(*WORKERS)
            latches[line].open()
        says(cluster, execution, far, 28)
        loop.call_soon_threadsafe(way.reset_all)
        latches[28].open()
        ended = cluster.ended(execution)
    wanted = "".join(f"{i}\n" for i in range(1, 31)).encode()
    assert starts.read_text() == "start\n"
    assert ended["counts"] == {"succeeded": 1}
    assert cluster.output(execution, far) == wanted
    assert [*streams(viewer.watched(90)).values()] == [wanted]
    assert cluster.results(execution)[0]["exit_code"] == 0


@pytest.mark.long
def test_all_runs_of_killed_workers_are_taken_over(cluster: Cluster) -> None:
    cluster.start("worker-3", "worker-4", OPSJOBS_CONCURRENCY=str(MANY))
    survivor = cluster.running.pop("worker-4")
    try:
        latch = cluster.latch()
        execution = cluster.run(
            f"echo begun; {latch.wait}; echo done", cluster.names(1, MANY), max_parallel=MANY
        )
        cluster.started(execution, MANY)
        for worker in (*cluster.workers, cluster.running.pop("worker-3")):
            worker.kill()
        wait_until(
            lambda: {run["worker"] for run in cluster.runs(execution)} == {survivor.title},
            "all are taken over",
        )
        latch.open()
        assert cluster.ended(execution)["counts"] == {"succeeded": MANY}
    finally:
        survivor.end(signal.SIGTERM)
    assert {cluster.output(execution, name) for name in cluster.names(1, MANY)} == {
        b"begun\ndone\n"
    }


def test_a_draining_worker_leaves_durable_commands_running(
    cluster: Cluster,
) -> None:
    latch = cluster.latch()
    cluster.workers[0].kill()
    cluster.start(WORKERS[0], OPSJOBS_DRAIN_SECONDS="600")
    execution = cluster.run(
        f"echo begun; {latch.wait}; echo done", cluster.names(1, 40), max_parallel=40
    )
    cluster.started(execution, 40)
    assert cluster.workers[0].end(signal.SIGTERM) == 0
    latch.open()
    assert cluster.ended(execution)["counts"] == {"succeeded": 40}
    assert {cluster.output(execution, name) for name in cluster.names(1, 40)} == {b"begun\ndone\n"}


def test_killing_everything_at_once_loses_no_durable_run(cluster: Cluster) -> None:
    latch = cluster.latch()
    execution = cluster.run(
        f"echo begun; {latch.wait}; echo done", cluster.names(1, 60), max_parallel=40
    )
    cluster.started(execution, 40)
    for process in cluster.running.values():
        process.process.kill()
    for server in (cluster.postgres.process, cluster.valkey.process):
        assert server is not None
        server.kill()
        server.wait()
    for process in cluster.running.values():
        process.process.wait()
    cluster.heal()
    latch.open()
    assert cluster.ended(execution)["counts"] == {"succeeded": 60}
    assert {cluster.output(execution, name) for name in cluster.names(1, 60)} == {b"begun\ndone\n"}


# No other test on this machine sleeps as long: its processes would be taken for some of these.
CHILD_SLEEP, DAEMON_SLEEP = (f"{seconds}.{os.getpid()}" for seconds in (301, 302))
FAMILY = f"""trap '' TERM; (trap '' TERM HUP; exec sleep {CHILD_SLEEP}) &
(setsid sh -c 'trap "" TERM HUP; sleep {DAEMON_SLEEP}' >/dev/null 2>&1 &)
while :; do sleep 1; done"""


def test_a_cancel_kills_process_trees_that_fork_daemonise_and_ignore_term(
    cluster: Cluster,
) -> None:
    # Many of them, each on a machine of its own: tests/chaos/test_families.py.
    execution = cluster.run(FAMILY, cluster.names(1, 12), max_parallel=12, witnessed=False)
    wait_until(lambda: len(family()) == 12 * 2, "all families are complete")
    cluster.post(f"/executions/{execution}/cancel", {}, 202)
    assert cluster.ended(execution)["counts"] == {"cancelled": 12}
    assert {run["cancel_proof"] for run in cluster.runs(execution)} == {"killed"}
    assert family() == []


def family() -> list[str]:
    """Return the live processes of the family above."""
    found = []
    ends = tuple(f"sleep\0{seconds}\0".encode() for seconds in (CHILD_SLEEP, DAEMON_SLEEP))
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = process.read_bytes()
            if words.endswith(ends):
                found.append(words.decode(errors="replace"))
    return found
