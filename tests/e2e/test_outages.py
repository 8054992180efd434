"""PostgreSQL and Redis fail while commands run, and return: everything ends the same, but later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from e2e.cluster import Cluster
from e2e.processes import still_running, wait_until


@contextmanager
def events_from_now_on(cluster: Cluster) -> Iterator[list[dict[str, object]]]:
    """Start a new Valkey and subscribe before any process publishes; then return all messages."""
    speakers = [cluster.running[name] for name in ("worker-1", "worker-2", "scheduler", "api")]
    for process in speakers:
        process.freeze()
    try:
        cluster.valkey.start()
        client: Any = redis.Redis.from_url(cluster.valkey.url)
        heard = client.pubsub()
        heard.subscribe("opsconductor.events")
        assert heard.get_message(timeout=60), "the subscription is confirmed"
    finally:
        for process in speakers:
            process.thaw()
    events: list[dict[str, object]] = []
    with client, heard:
        yield events
        while (message := heard.get_message(timeout=0.2)) is not None:
            events.append(json.loads(message["data"]))


def stop_redis(cluster: Cluster) -> None:
    """Kill it, like a crash."""
    assert cluster.valkey.process is not None
    cluster.valkey.process.kill()
    cluster.valkey.process.wait()


def test_without_redis_workers_poll_for_work(cluster: Cluster) -> None:
    stop_redis(cluster)
    execution = cluster.run("echo $3", cluster.names(1, 40), max_parallel=20)
    assert cluster.ended(execution)["counts"] == {"succeeded": 40}
    hosts = {run["target"]["name"]: run["target"]["host"] for run in cluster.runs(execution)}
    assert {name: cluster.output(execution, name) for name in hosts} == {
        name: f"{host}\n".encode() for name, host in hosts.items()
    }


def test_events_are_published_after_a_redis_outage(
    cluster: Cluster,
) -> None:
    execution = cluster.run("echo begun; sleep 1; echo done", cluster.names(1, 40), max_parallel=20)
    cluster.started(execution, 20)
    stop_redis(cluster)
    while_away = cluster.run("exit 3", cluster.names(1, 2))
    assert cluster.ended(execution)["counts"] == {"succeeded": 40}
    assert cluster.ended(while_away)["counts"] == {"failed": 2}
    untold = "select type from events where published_at is null and execution_id = %s"
    assert {row["type"] for row in cluster.rows(untold, while_away)} == {
        "execution.queued", "execution.started", "target_run", "execution.failed",
    }  # fmt: skip
    with events_from_now_on(cluster) as events:
        cluster.settle()
    told = [
        event
        for event in events
        if event["subject"] == cluster.get(f"/executions/{while_away}")["uuid"]
    ]
    assert [event["type"] for event in told] == [
        f"io.opsconductor.{kind}.v1"
        for kind in (
            "execution.queued",
            "execution.started",
            "job.started",
            "execution.failed",
            "job.failed",
        )
    ]
    assert len({event["id"] for event in events}) == len(events)
    finished = [
        event for event in events if event["type"] == "io.opsconductor.target_run.finished.v1"
    ]
    assert {run["uuid"] for run in cluster.runs(while_away)} <= {
        event["subject"] for event in finished
    }
    # and wake-ups arrive again
    assert cluster.ended(cluster.run("true", cluster.names(1, 4)))["status"] == "completed"


def test_a_postgresql_restart_loses_no_run(cluster: Cluster) -> None:
    execution = cluster.run(
        "echo begun; sleep 2; echo done; echo well >&2", cluster.names(1, 20), max_parallel=20
    )
    cluster.started(execution, 20)
    assert cluster.postgres.process is not None
    cluster.postgres.process.kill()
    cluster.postgres.process.wait()
    assert cluster.http.get("/livez").status_code == 200
    # A server process that is just at work sees only afterwards that its parent is gone.
    wait_until(lambda: cluster.http.get("/readyz").status_code == 503, "the API is not ready")
    cluster.postgres.start()
    assert cluster.ended(execution)["counts"] == {"succeeded": 20}
    for name in cluster.names(1, 20):
        assert (cluster.output(execution, name), cluster.output(execution, name, "stderr")) == (
            b"begun\ndone\n",
            b"well\n",
        )


def test_a_postgresql_outage_until_the_commands_ended_loses_nothing(cluster: Cluster) -> None:
    execution = cluster.run(
        "for n in 1 2 3 4 5; do echo $n; sleep 0.1; done", cluster.names(1, 20), max_parallel=20
    )
    cluster.started(execution, 20)
    assert cluster.postgres.process is not None
    cluster.postgres.process.kill()
    cluster.postgres.process.wait()
    mark = cluster.invariants.marks[execution]
    assert sum(key.startswith(f"{mark}.") for key in cluster.witness.starts()) == 20
    wait_until(lambda: not still_running(mark), "the commands have ended")
    cluster.postgres.start()
    assert cluster.ended(execution)["counts"] == {"succeeded": 20}
    assert {cluster.output(execution, name) for name in cluster.names(1, 20)} == {
        b"1\n2\n3\n4\n5\n"
    }
