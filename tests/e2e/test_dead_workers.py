"""Workers die, freeze and leave in the middle of their work: no target run is lost from sight, and none is done twice."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from e2e.house import WORKERS, House, let_in, machines
from e2e.processes import SECONDS, Json, Running, until

DIRECT = {"durable": "off"}
"""These are about commands that live with their worker; those that outlive it are in test_durable_runs."""


def of(worker: str, runs: list[Json]) -> list[Json]:
    """The runs that this worker has, or had last."""
    return [run for run in runs if run["worker"] == worker]


def deaths(house: House, worker: Running) -> int:
    """How often the world was told that it is lost."""
    return len(
        house.rows(
            "select 1 from events where type = 'worker.lost' and data ->> 'name' = %s", worker.title
        )
    )


def output_entries(house: House, execution: int, runs: list[Json]) -> list[object]:
    """What the log holds of these runs."""
    query = "select seq, event, body, octet_length(data) as bytes from execution_log where target_run_id = any(%s) order by seq"
    return [*house.rows(query, [run["id"] for run in runs])]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_at_work_loses_no_run_and_doubles_none(house: House, victim: int) -> None:
    dead, other = house.workers[victim], house.workers[1 - victim]
    latch = house.latch()
    execution = house.run(
        f"echo begun; {latch.wait}; echo done", house.names(1, 60), max_parallel=48, **DIRECT
    )
    house.started(execution, 48)
    held = of(dead.title, [run for run in house.runs(execution) if run["status"] == "running"])
    dead.kill()
    latch.open()
    ended = house.ended(execution)
    runs = house.runs(execution)
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
    # What the lost ones had said before is there, and the command itself was started once (the fixture looks).
    assert all(
        house.output(execution, run["target"]["name"]) in (b"", b"begun\n", b"begun\ndone\n")
        for run in lost[:5]
    )
    assert [
        event["data"]["name"]
        for event in house.rows("select data from events where type = 'worker.lost'")
    ].count(dead.title) == 1


def test_a_worker_that_is_asked_to_leave_gives_back_what_has_not_begun(house: House) -> None:
    with machines([f"127.0.120.{n}" for n in range(1, 17)]) as server:
        let_in(server, house.machines[0])
        slow = [
            house.add_target(f"slow-{n}", a, server.port, server.host_keys)
            for n, a in enumerate(server.addresses, start=1)
        ]
        os.kill(
            server.process.pid, signal.SIGSTOP
        )  # its machines take connections, and say nothing
        try:
            quick = house.names(1, 32)
            mixed = [
                name for pair in zip(slow, quick[::2], quick[1::2], strict=True) for name in pair
            ]
            latch = house.latch()
            execution = house.run(
                f"echo begun; {latch.wait}; echo done", mixed, max_parallel=48, **DIRECT
            )
            house.started(execution, 32)
            runs = house.runs(execution)
            stuck_at = {
                worker.title: [r for r in of(worker.title, runs) if r["target"]["name"] in slow]
                for worker in house.workers
            }
            staying, leaving = sorted(house.workers, key=lambda worker: len(stuck_at[worker.title]))
            stuck = [run["id"] for run in stuck_at[leaving.title]]
            assert stuck
            leaving.process.send_signal(signal.SIGTERM)
            until(
                lambda: (
                    {run["status"] for run in house.runs(execution) if run["id"] in stuck}
                    == {"waiting"}
                ),
                "it gives back",
            )
            assert leaving.alive, "it waits for its commands"
            latch.open()
            assert leaving.process.wait(SECONDS) == 0
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert house.ended(execution)["counts"] == {"succeeded": 48}
        ended = {run["id"]: run for run in house.runs(execution)}
        assert {ended[run_id]["worker"] for run_id in stuck} == {staying.title}
        # Commands that were at work when it was asked to leave came to their end there.
        assert of(leaving.title, [*ended.values()])
    assert deaths(house, leaving) == 0


def test_a_worker_frozen_beyond_its_lease_writes_nothing_late_and_begins_a_new_life(
    house: House,
) -> None:
    frozen, other = house.workers
    latch = house.latch()
    execution = house.run(
        f"echo 1; {latch.wait}; echo 2", house.names(1, 48), max_parallel=48, **DIRECT
    )
    house.started(execution, 48)
    assert of(frozen.title, house.runs(execution))
    frozen.freeze()
    latch.open()
    ended = house.ended(execution)
    runs = house.runs(execution)
    lost = [run for run in runs if run["status"] == "lost"]
    assert lost
    assert {run["worker"] for run in lost} == {other.title}
    assert ended["counts"] == {
        "lost": len(lost),
        **({"succeeded": 48 - len(lost)} if len(lost) < 48 else {}),
    }
    before = output_entries(house, execution, lost)
    lives = "select id from workers where name = %s and buried_at is null"
    assert not house.rows(lives, frozen.title)

    frozen.thaw()
    until(lambda: house.rows(lives, frozen.title), "it begins a new life")
    assert frozen.said("worker_lease_expired")
    latch = house.latch()
    again = house.run(latch.wait, house.names(1, 48), max_parallel=48)
    house.started(again, 48)  # more than one of them can take
    latch.open()
    assert house.ended(again)["status"] == "completed"
    assert of(frozen.title, house.runs(again))
    assert output_entries(house, execution, lost) == before


def test_commands_of_a_frozen_worker_that_wakes_in_time_are_not_lost(house: House) -> None:
    house.workers[0].kill()
    house.start(
        WORKERS[0], OPSJOBS_LEASE_SECONDS="60"
    )  # however slow this test is, it wakes in time
    frozen, latch = house.workers[0], house.latch()
    execution = house.run(
        f"echo begun; {latch.wait}; echo done", house.names(1, 48), max_parallel=48, **DIRECT
    )
    house.started(execution, 48)
    frozen.freeze()
    latch.open()
    query = "select renewed_at < now() - interval '4 seconds' as late from workers where name = %s and buried_at is null"
    until(lambda: house.rows(query, frozen.title)[0]["late"], "it was silent for a while")
    frozen.thaw()
    assert house.ended(execution)["counts"] == {"succeeded": 48}
    frozen.kill()
    assert {house.output(execution, name) for name in house.names(1, 30)} == {b"begun\ndone\n"}


def test_a_worker_that_leaves_does_not_wait_for_ever_and_says_what_it_left(house: House) -> None:
    house.workers[0].kill()
    house.start(WORKERS[0], OPSJOBS_DRAIN_SECONDS="3")
    leaving, staying = house.workers
    called_lost = deaths(house, leaving)
    execution = house.run("echo begun; sleep 300", house.names(1, 48), max_parallel=48, **DIRECT)
    house.started(execution, 48)
    left = {run["id"] for run in of(leaving.title, house.runs(execution))}
    assert left
    assert leaving.end(signal.SIGTERM) == 0
    runs = {run["id"]: run for run in house.runs(execution)}
    assert {runs[run_id]["status"] for run_id in left} == {"lost"}
    assert all("worker was stopped" in runs[run_id]["error"]["message"] for run_id in left)
    assert {run["status"] for run in runs.values() if run["id"] not in left} == {"running"}
    assert deaths(house, leaving) == called_lost
    house.post(f"/executions/{execution}/cancel", {}, 202)
    assert house.ended(execution)["counts"] == {"lost": len(left), "cancelled": 48 - len(left)}
    assert of(staying.title, [*runs.values()])


def test_a_power_cut_of_everything_at_once_leaves_a_true_record(house: House) -> None:
    latch = house.latch()
    execution = house.run(
        f"echo begun; {latch.wait}; echo done", house.names(1, 60), max_parallel=40, **DIRECT
    )
    house.started(execution, 40)
    for process in house.running.values():
        process.process.kill()
    assert house.postgres.process is not None
    assert house.valkey.process is not None
    for server in (house.postgres.process, house.valkey.process):
        server.kill()
        server.wait()
    for process in house.running.values():
        process.process.wait()
    latch.open()
    house.heal()
    ended = house.ended(execution)
    runs = house.runs(execution)
    assert ended["counts"] == {"lost": 40, "succeeded": 20}
    assert {run["error"]["code"] for run in runs if run["status"] == "lost"} == {"lost"}


def test_who_freezes_within_a_transaction_does_not_hold_the_others_for_ever(house: House) -> None:
    execution = house.run("sleep 0.5", house.names(1, 4))
    house.started(execution, 4)
    # As a worker that is frozen while it sends a flush: PostgreSQL has no timer for a session in the middle of a pipeline.
    settings = "-c idle_in_transaction_session_timeout=3s"
    with psycopg.connect(
        house.postgres.url, autocommit=True, application_name="opsjobs frozen", options=settings
    ) as frozen:
        pipeline = frozen.pipeline()
        pipeline.__enter__()
        frozen.execute("begin")
        assert frozen.execute(
            "select id from job_executions where id = %s for update", [execution]
        ).fetchone()
        assert house.ended(execution)["counts"] == {"succeeded": 4}
        with pytest.raises(psycopg.OperationalError):
            pipeline.__exit__(None, None, None)
