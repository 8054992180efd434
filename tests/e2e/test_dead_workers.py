"""Workers die, freeze and leave during their work: no target run is forgotten or repeated."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from e2e.cluster import WORKERS, Cluster, authorize_login, machines
from e2e.processes import SECONDS, Json, ServiceProcess, wait_until

DIRECT = {"durable": "off"}
"""These tests are about commands that end with their worker.

The durable ones are in test_durable_runs.
"""


def of(worker: str, runs: list[Json]) -> list[Json]:
    """Return the runs that this worker has, or had last."""
    return [run for run in runs if run["worker"] == worker]


def deaths(cluster: Cluster, worker: ServiceProcess) -> int:
    """Return how often its loss was published."""
    return len(
        cluster.rows(
            "select 1 from events where type = 'worker.lost' and data ->> 'name' = %s", worker.title
        )
    )


def output_entries(cluster: Cluster, execution: int, runs: list[Json]) -> list[object]:
    """Return the log entries of these runs."""
    query = "select seq, event, body, octet_length(data) as bytes from execution_log where target_run_id = any(%s) order by seq"
    return [*cluster.rows(query, [run["id"] for run in runs])]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_loses_no_run_and_repeats_none(cluster: Cluster, victim: int) -> None:
    dead, other = cluster.workers[victim], cluster.workers[1 - victim]
    latch = cluster.latch()
    execution = cluster.run(
        f"echo begun; {latch.wait}; echo done", cluster.names(1, 60), max_parallel=48, **DIRECT
    )
    cluster.started(execution, 48)
    held = of(dead.title, [run for run in cluster.runs(execution) if run["status"] == "running"])
    dead.kill()
    latch.open()
    ended = cluster.ended(execution)
    runs = cluster.runs(execution)
    lost = [run for run in runs if run["status"] == "lost"]
    assert held
    assert {run["id"] for run in lost} == {run["id"] for run in held}
    assert all(
        run["error"]["code"] == "lost" and "worker died" in run["error"]["message"] for run in lost
    )
    assert all(run["status"] == "succeeded" for run in runs if run not in lost)
    assert {run["worker"] for run in lost} <= {other.title}
    assert ended["status"] == "partial"
    assert ended["counts"] == {"lost": len(lost), "succeeded": 60 - len(lost)}
    # Earlier output of the lost runs is stored, and each command was started once (the fixture
    # checks it).
    assert all(
        cluster.output(execution, run["target"]["name"]) in (b"", b"begun\n", b"begun\ndone\n")
        for run in lost[:5]
    )
    assert [
        event["data"]["name"]
        for event in cluster.rows("select data from events where type = 'worker.lost'")
    ].count(dead.title) == 1


def test_a_draining_worker_gives_back_unstarted_runs(cluster: Cluster) -> None:
    with machines([f"127.0.120.{n}" for n in range(1, 17)]) as server:
        authorize_login(server, cluster.machines[0])
        slow = [
            cluster.add_target(f"slow-{n}", a, server.port, server.host_keys)
            for n, a in enumerate(server.addresses, start=1)
        ]
        os.kill(
            server.process.pid, signal.SIGSTOP
        )  # its machines accept connections, and do not respond
        try:
            quick = cluster.names(1, 32)
            mixed = [
                name for pair in zip(slow, quick[::2], quick[1::2], strict=True) for name in pair
            ]
            latch = cluster.latch()
            execution = cluster.run(
                f"echo begun; {latch.wait}; echo done", mixed, max_parallel=48, **DIRECT
            )
            cluster.started(execution, 32)
            runs = cluster.runs(execution)
            stuck_at = {
                worker.title: [r for r in of(worker.title, runs) if r["target"]["name"] in slow]
                for worker in cluster.workers
            }
            staying, leaving = sorted(
                cluster.workers, key=lambda worker: len(stuck_at[worker.title])
            )
            stuck = [run["id"] for run in stuck_at[leaving.title]]
            assert stuck
            leaving.process.send_signal(signal.SIGTERM)
            wait_until(
                lambda: (
                    {run["status"] for run in cluster.runs(execution) if run["id"] in stuck}
                    == {"waiting"}
                ),
                "it gives back",
            )
            assert leaving.alive, "it waits for its commands"
            latch.open()
            assert leaving.process.wait(SECONDS) == 0
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert cluster.ended(execution)["counts"] == {"succeeded": 48}
        ended = {run["id"]: run for run in cluster.runs(execution)}
        assert {ended[run_id]["worker"] for run_id in stuck} == {staying.title}
        # Commands that ran when it was asked to stop came to their end there.
        assert of(leaving.title, [*ended.values()])
    assert deaths(cluster, leaving) == 0


def test_a_worker_frozen_beyond_lease_expiry_is_fenced_and_starts_a_new_lease(
    cluster: Cluster,
) -> None:
    frozen, other = cluster.workers
    latch = cluster.latch()
    execution = cluster.run(
        f"echo 1; {latch.wait}; echo 2", cluster.names(1, 48), max_parallel=48, **DIRECT
    )
    cluster.started(execution, 48)
    assert of(frozen.title, cluster.runs(execution))
    frozen.freeze()
    latch.open()
    ended = cluster.ended(execution)
    runs = cluster.runs(execution)
    lost = [run for run in runs if run["status"] == "lost"]
    assert lost
    assert {run["worker"] for run in lost} == {other.title}
    assert ended["counts"] == {
        "lost": len(lost),
        **({"succeeded": 48 - len(lost)} if len(lost) < 48 else {}),
    }
    before = output_entries(cluster, execution, lost)
    lives = "select id from workers where name = %s and buried_at is null"
    assert not cluster.rows(lives, frozen.title)

    frozen.thaw()
    wait_until(lambda: cluster.rows(lives, frozen.title), "it begins a new life")
    assert frozen.said("worker_lease_expired")
    latch = cluster.latch()
    again = cluster.run(latch.wait, cluster.names(1, 48), max_parallel=48)
    cluster.started(again, 48)  # more than one of them can take
    latch.open()
    assert cluster.ended(again)["status"] == "completed"
    assert of(frozen.title, cluster.runs(again))
    assert output_entries(cluster, execution, lost) == before


def test_commands_of_a_worker_that_wakes_before_lease_expiry_are_kept(cluster: Cluster) -> None:
    cluster.workers[0].kill()
    cluster.start(
        WORKERS[0], OPSJOBS_LEASE_SECONDS="60"
    )  # however slow this test is, it wakes in time
    frozen, latch = cluster.workers[0], cluster.latch()
    execution = cluster.run(
        f"echo begun; {latch.wait}; echo done", cluster.names(1, 48), max_parallel=48, **DIRECT
    )
    cluster.started(execution, 48)
    frozen.freeze()
    latch.open()
    query = "select renewed_at < now() - interval '4 seconds' as late from workers where name = %s and buried_at is null"
    wait_until(lambda: cluster.rows(query, frozen.title)[0]["late"], "it was silent for a while")
    frozen.thaw()
    assert cluster.ended(execution)["counts"] == {"succeeded": 48}
    frozen.kill()
    assert {cluster.output(execution, name) for name in cluster.names(1, 30)} == {b"begun\ndone\n"}


def test_a_draining_worker_has_a_deadline_and_reports_abandoned_runs(cluster: Cluster) -> None:
    cluster.workers[0].kill()
    cluster.start(WORKERS[0], OPSJOBS_DRAIN_SECONDS="3")
    leaving, staying = cluster.workers
    called_lost = deaths(cluster, leaving)
    execution = cluster.run(
        "echo begun; sleep 300", cluster.names(1, 48), max_parallel=48, **DIRECT
    )
    cluster.started(execution, 48)
    left = {run["id"] for run in of(leaving.title, cluster.runs(execution))}
    assert left
    assert leaving.end(signal.SIGTERM) == 0
    runs = {run["id"]: run for run in cluster.runs(execution)}
    assert {runs[run_id]["status"] for run_id in left} == {"lost"}
    assert all("worker was stopped" in runs[run_id]["error"]["message"] for run_id in left)
    assert {run["status"] for run in runs.values() if run["id"] not in left} == {"running"}
    assert deaths(cluster, leaving) == called_lost
    cluster.post(f"/executions/{execution}/cancel", {}, 202)
    assert cluster.ended(execution)["counts"] == {"lost": len(left), "cancelled": 48 - len(left)}
    assert of(staying.title, [*runs.values()])


def test_killing_everything_at_once_leaves_a_true_record(cluster: Cluster) -> None:
    latch = cluster.latch()
    execution = cluster.run(
        f"echo begun; {latch.wait}; echo done", cluster.names(1, 60), max_parallel=40, **DIRECT
    )
    cluster.started(execution, 40)
    for process in cluster.running.values():
        process.process.kill()
    assert cluster.postgres.process is not None
    assert cluster.valkey.process is not None
    for server in (cluster.postgres.process, cluster.valkey.process):
        server.kill()
        server.wait()
    for process in cluster.running.values():
        process.process.wait()
    latch.open()
    cluster.heal()
    ended = cluster.ended(execution)
    runs = cluster.runs(execution)
    assert ended["counts"] == {"lost": 40, "succeeded": 20}
    assert {run["error"]["code"] for run in runs if run["status"] == "lost"} == {"lost"}


def test_a_process_frozen_in_a_transaction_does_not_block_others_for_ever(cluster: Cluster) -> None:
    latch = cluster.latch()
    execution = cluster.run(latch.wait, cluster.names(1, 4))
    cluster.started(execution, 4)
    # Like a worker that is frozen while it sends a flush: PostgreSQL has no timeout for a session
    # in the middle of a pipeline.
    settings = "-c idle_in_transaction_session_timeout=3s"
    with psycopg.connect(
        cluster.postgres.url, autocommit=True, application_name="opsjobs frozen", options=settings
    ) as frozen:
        pipeline = frozen.pipeline()
        pipeline.__enter__()
        frozen.execute("begin")
        assert frozen.execute(
            "select id from job_executions where id = %s for update", [execution]
        ).fetchone()
        latch.open()  # no run ends before the lock is held
        assert cluster.ended(execution)["counts"] == {"succeeded": 4}
        with pytest.raises(psycopg.OperationalError):
            pipeline.__exit__(None, None, None)
