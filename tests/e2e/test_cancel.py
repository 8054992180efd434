"""A cancel has a proof: what it reports as killed has ended, what never started never did."""

from __future__ import annotations

from e2e.cluster import Cluster
from e2e.processes import still_running, wait_until


def test_a_cancel_kills_20_commands_on_their_machines_and_starts_no_other(cluster: Cluster) -> None:
    execution = cluster.run(
        "echo begun; sleep 300; echo survived", cluster.names(1, 30), max_parallel=20
    )
    cluster.started(execution, 20)
    mark = cluster.invariants.marks[execution]
    # A command testifies before its `sleep` is there, by which it is seen.
    wait_until(lambda: len(still_running(mark)) >= 20, "20 commands are at work")
    cluster.post(f"/executions/{execution}/cancel", {"reason": "ben said so"}, 202)
    ended = cluster.ended(execution)
    assert not still_running(mark)
    assert (ended["status"], ended["counts"]) == ("cancelled", {"cancelled": 30})
    runs = cluster.runs(execution)
    assert [run["cancel_proof"] for run in runs] == ["killed"] * 20 + ["never_started"] * 10
    assert {run["error"]["code"] for run in runs} == {"cancelled"}
    assert {result["cancel_proof"] for result in cluster.results(execution)} == {
        "killed",
        "never_started",
    }
    assert {cluster.output(execution, run["target"]["name"]) for run in runs} == {b"begun\n", b""}
    again = cluster.http.post(f"/executions/{execution}/cancel", json={})
    assert (again.status_code, again.json()["code"]) == (409, "execution_ended")


def test_a_cancel_kills_a_process_tree_that_ignores_signals(cluster: Cluster) -> None:
    # The shell and its children ignore TERM; the kill that follows ends the whole group.
    stubborn = "trap '' TERM; (sleep 300; echo e2e-child) & sleep 300; wait"
    execution = cluster.run(stubborn, cluster.names(1, 2))
    cluster.started(execution, 2)
    mark = cluster.invariants.marks[execution]
    cluster.post(f"/executions/{execution}/cancel", {}, 202)
    assert cluster.ended(execution)["counts"] == {"cancelled": 2}
    assert [run["cancel_proof"] for run in cluster.runs(execution)] == ["killed", "killed"]
    assert not still_running(mark)


def test_a_cancel_works_without_redis(cluster: Cluster) -> None:
    assert cluster.valkey.process is not None
    cluster.valkey.process.kill()
    cluster.valkey.process.wait()
    execution = cluster.run("sleep 300", cluster.names(1, 4), max_parallel=2)
    cluster.started(execution, 2)
    cluster.post(f"/executions/{execution}/cancel", {}, 202)
    assert cluster.ended(execution)["counts"] == {"cancelled": 4}
    assert not still_running(cluster.invariants.marks[execution])


def test_a_command_that_ended_before_the_cancel_keeps_its_outcome(cluster: Cluster) -> None:
    execution = cluster.run("case $3 in *.1) exit 7;; *) sleep 300;; esac", cluster.names(1, 2))
    wait_until(lambda: cluster.runs(execution)[0]["status"] == "failed", "the first one has ended")
    cluster.started(execution, 2)
    cluster.post(f"/executions/{execution}/cancel", {}, 202)
    assert cluster.ended(execution)["counts"] == {"failed": 1, "cancelled": 1}
    assert [(run["exit_code"], run["cancel_proof"]) for run in cluster.runs(execution)] == [
        (7, None),
        (None, "killed"),
    ]
