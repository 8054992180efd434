"""PostgreSQL and Redis go away while commands run, and come back: everything ends as it would have, only later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from e2e.house import House
from e2e.processes import still_running, until


@contextmanager
def events_from_now_on(house: House) -> Iterator[list[dict[str, object]]]:
    """A new Valkey and who listens there before anybody else speaks; afterwards all that was published until then."""
    speakers = [house.running[name] for name in ("worker-1", "worker-2", "scheduler", "api")]
    for process in speakers:
        process.freeze()
    try:
        house.valkey.start()
        client: Any = redis.Redis.from_url(house.valkey.url)
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


def stop_redis(house: House) -> None:
    """As a crash does it."""
    assert house.valkey.process is not None
    house.valkey.process.kill()
    house.valkey.process.wait()


def test_without_redis_work_is_found_by_looking_for_it(house: House) -> None:
    stop_redis(house)
    execution = house.run("echo $3", house.names(1, 40), max_parallel=20)
    assert house.ended(execution)["counts"] == {"succeeded": 40}
    hosts = {run["target"]["name"]: run["target"]["host"] for run in house.runs(execution)}
    assert {name: house.output(execution, name) for name in hosts} == {
        name: f"{host}\n".encode() for name, host in hosts.items()
    }


def test_redis_may_die_while_commands_run_and_what_was_to_be_told_is_told_when_it_is_back(
    house: House,
) -> None:
    execution = house.run("echo begun; sleep 1; echo done", house.names(1, 40), max_parallel=20)
    house.started(execution, 20)
    stop_redis(house)
    while_away = house.run("exit 3", house.names(1, 2))
    assert house.ended(execution)["counts"] == {"succeeded": 40}
    assert house.ended(while_away)["counts"] == {"failed": 2}
    untold = "select type from events where published_at is null and execution_id = %s"
    assert {row["type"] for row in house.rows(untold, while_away)} == {
        "execution.queued", "execution.started", "target_run", "execution.failed",
    }  # fmt: skip
    with events_from_now_on(house) as events:
        house.settle()
    told = [
        event
        for event in events
        if event["subject"] == house.get(f"/executions/{while_away}")["uuid"]
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
    assert {run["uuid"] for run in house.runs(while_away)} <= {
        event["subject"] for event in finished
    }
    # And bells ring again.
    assert house.ended(house.run("true", house.names(1, 4)))["status"] == "completed"


def test_postgresql_killed_and_started_again_costs_no_run(house: House) -> None:
    execution = house.run(
        "echo begun; sleep 2; echo done; echo well >&2", house.names(1, 20), max_parallel=20
    )
    house.started(execution, 20)
    assert house.postgres.process is not None
    house.postgres.process.kill()
    house.postgres.process.wait()
    assert [house.http.get(path).status_code for path in ("/livez", "/readyz")] == [200, 503]
    house.postgres.start()
    assert house.ended(execution)["counts"] == {"succeeded": 20}
    for name in house.names(1, 20):
        assert (house.output(execution, name), house.output(execution, name, "stderr")) == (
            b"begun\ndone\n",
            b"well\n",
        )


def test_postgresql_away_until_the_commands_have_ended_loses_nothing(house: House) -> None:
    execution = house.run(
        "for n in 1 2 3 4 5; do echo $n; sleep 0.1; done", house.names(1, 20), max_parallel=20
    )
    house.started(execution, 20)
    assert house.postgres.process is not None
    house.postgres.process.kill()
    house.postgres.process.wait()
    mark = house.invariants.marks[execution]
    assert sum(key.startswith(f"{mark}.") for key in house.witness.starts()) == 20
    until(lambda: not still_running(mark), "the commands have ended")
    house.postgres.start()
    assert house.ended(execution)["counts"] == {"succeeded": 20}
    assert {house.output(execution, name) for name in house.names(1, 20)} == {b"1\n2\n3\n4\n5\n"}
