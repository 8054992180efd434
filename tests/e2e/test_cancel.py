"""A cancel comes with proof: what it says was killed is gone, and what it says never started never did."""

from __future__ import annotations

from e2e.house import House
from e2e.processes import still_running, until


def test_a_cancel_kills_20_commands_on_their_machines_and_starts_no_other(house: House) -> None:
    execution = house.run(
        "echo begun; sleep 300; echo survived", house.names(1, 30), max_parallel=20
    )
    house.started(execution, 20)
    mark = house.invariants.marks[execution]
    assert len(still_running(mark)) >= 20
    house.post(f"/executions/{execution}/cancel", {"reason": "ben said so"}, 202)
    ended = house.ended(execution)
    assert not still_running(mark)
    assert (ended["status"], ended["counts"]) == ("cancelled", {"cancelled": 30})
    runs = house.runs(execution)
    assert [run["cancel_proof"] for run in runs] == ["killed"] * 20 + ["never_started"] * 10
    assert {run["error"]["code"] for run in runs} == {"cancelled"}
    assert {result["cancel_proof"] for result in house.results(execution)} == {
        "killed",
        "never_started",
    }
    assert {house.output(execution, run["target"]["name"]) for run in runs} == {b"begun\n", b""}
    again = house.http.post(f"/executions/{execution}/cancel", json={})
    assert (again.status_code, again.json()["code"]) == (409, "execution_ended")


def test_a_cancel_ends_a_whole_family_that_does_not_want_to(house: House) -> None:
    # The shell and its children ignore TERM; the kill that follows takes all of the group.
    stubborn = "trap '' TERM; (sleep 300; echo e2e-child) & sleep 300; wait"
    execution = house.run(stubborn, house.names(1, 2))
    house.started(execution, 2)
    mark = house.invariants.marks[execution]
    house.post(f"/executions/{execution}/cancel", {}, 202)
    assert house.ended(execution)["counts"] == {"cancelled": 2}
    assert [run["cancel_proof"] for run in house.runs(execution)] == ["killed", "killed"]
    assert not still_running(mark)


def test_a_cancel_works_without_redis(house: House) -> None:
    assert house.valkey.process is not None
    house.valkey.process.kill()
    house.valkey.process.wait()
    execution = house.run("sleep 300", house.names(1, 4), max_parallel=2)
    house.started(execution, 2)
    house.post(f"/executions/{execution}/cancel", {}, 202)
    assert house.ended(execution)["counts"] == {"cancelled": 4}
    assert not still_running(house.invariants.marks[execution])


def test_a_command_that_ended_before_the_cancel_keeps_its_outcome(house: House) -> None:
    execution = house.run("case $3 in *.1) exit 7;; *) sleep 300;; esac", house.names(1, 2))
    until(lambda: house.runs(execution)[0]["status"] == "failed", "the first one has ended")
    house.started(execution, 2)
    house.post(f"/executions/{execution}/cancel", {}, 202)
    assert house.ended(execution)["counts"] == {"failed": 1, "cancelled": 1}
    assert [(run["exit_code"], run["cancel_proof"]) for run in house.runs(execution)] == [
        (7, None),
        (None, "killed"),
    ]
