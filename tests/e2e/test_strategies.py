"""Each strategy of an execution once, by the HTTP API, on real machines."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from e2e.cluster import Cluster, authorize_login
from e2e.processes import wait_until
from e2e.workload import SECONDS, Workload, work
from kit.sshd import BINARY, Sshd, sshd


@pytest.fixture
def workload(cluster: Cluster) -> Iterator[Workload]:
    with work(cluster) as found:
        yield found


def host(cluster: Cluster, name: str) -> str:
    """Return a target's address."""
    return str(cluster.rows("select host from targets where name = %s", name)[0]["host"])


@contextmanager
def machine_down(cluster: Cluster, address: str) -> Iterator[Sshd]:
    """A machine whose server is down; `come_up` starts it."""
    with sshd(addresses=(address,), host_key_types=("ed25519",)) as server:
        authorize_login(server, cluster.machines[0])
        server.stop()
        yield server


@contextmanager
def listening_again(server: Sshd) -> Iterator[None]:
    """Listen at its former address until the block ends."""
    command = [
        str(BINARY),
        "-D",
        "-f",
        f"{server.folder}/sshd_config",
        "-E",
        f"{server.folder}/sshd.log",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: server.log.count("Server listening") == 2, "the machine is up", SECONDS)
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


def end_waits(cluster: Cluster, execution: int) -> None:
    """Move the time for which its runs wait into the past."""
    shorter = """
with due as (update job_execution_results set again_at = opsjobs_now() where execution_id = %s and again_at > opsjobs_now())
update target_runs set not_before = opsjobs_now() where execution_id = %s returning id"""
    cluster.rows(shorter, execution, execution)


def test_max_parallel_limits_concurrent_runs(cluster: Cluster, workload: Workload) -> None:
    execution = workload.launch(
        [workload.step("walk", "sleep 0.1")], cluster.names(1, 9), {"max_parallel": 3}
    )
    assert workload.ended(execution)["status"] == "completed"
    assert len(workload.began("walk")) == 9
    assert workload.at_once("walk") <= 3


@pytest.mark.parametrize(
    ("order", "expected"),
    [("name", "abcd"), ("reverse", "dbca"), ("inventory", "acbd"), ("label:rack", "cadb")],
)
def test_targets_start_in_the_order_of_the_policy(
    cluster: Cluster, workload: Workload, order: str, expected: str
) -> None:
    first, tag = cluster.machines[0], order.replace(":", "-")
    racks = {"a": "2", "c": "1", "b": "4", "d": "3"}
    names = {letter: f"order-{tag}-{letter}" for letter in racks}
    for (letter, name), address in zip(names.items(), first.addresses, strict=False):
        cluster.add_target(
            name, address, first.port, first.host_keys, labels={"rack": racks[letter]}
        )
    execution = workload.launch(
        [workload.step("walk")], list(names.values()), {"max_parallel": 1, "order": order}
    )
    assert workload.ended(execution)["status"] == "completed"
    letter_at = dict(zip(first.addresses, names, strict=False))
    assert "".join(letter_at[address] for address in workload.began("walk")) == expected


def test_exceeding_max_fail_stops_the_rest(cluster: Cluster, workload: Workload) -> None:
    names = cluster.names(1, 6)
    hosts = [host(cluster, name) for name in names]
    workload.break_(hosts[0], hosts[2])
    execution = workload.launch(
        [workload.step("walk", workload.sound)], names, {"max_parallel": 1, "max_fail": 1}
    )
    ended = workload.ended(execution)
    assert (ended["status"], ended["counts"]) == (
        "partial",
        {"failed": 2, "skipped": 3, "succeeded": 1},
    )
    assert "max_fail" in ended["error"]
    assert workload.began("walk") == hosts[:3]


def test_a_max_fail_share_counts_per_wave(cluster: Cluster, workload: Workload) -> None:
    names = cluster.names(1, 20)
    hosts = [host(cluster, name) for name in names]
    # One of ten may fail in the first wave, and no second one.
    workload.break_(hosts[3])
    policy = {"waves": ["50%", "100%"], "max_fail": "10%"}
    assert workload.ended(workload.launch([workload.step("few", workload.sound)], names, policy))[
        "counts"
    ] == {
        "failed": 1,
        "succeeded": 19,
    }
    workload.break_(hosts[7])
    ended = workload.ended(workload.launch([workload.step("many", workload.sound)], names, policy))
    assert ended["status"] == "partial"
    assert ended["counts"]["failed"] == 2
    assert ended["counts"]["skipped"] >= 10
    assert not {*workload.began("many")} & {*hosts[10:]}


def test_a_gate_waits_for_confirmation(cluster: Cluster, workload: Workload) -> None:
    names = cluster.names(1, 4)
    execution = workload.launch(
        [workload.step("walk")], names, {"waves": [1, "50%", "100%"], "gate": {"confirm": True}}
    )
    for wave, reached in enumerate([1, 2], start=1):
        stands = workload.paused(execution)
        assert stands["waiting_on"]["kind"] == "confirm"
        assert stands["waves"] == {"open": wave, "total": 3}
        assert len(workload.began("walk")) == reached
        cluster.post(f"/executions/{execution}/resume", {"reason": f"wave {wave} looks well"})
        wait_until(
            lambda wave=wave: workload.shown(execution)["waves"]["open"] > wave,
            "the next wave",
            SECONDS,
        )
    assert workload.ended(execution)["status"] == "completed"
    assert len(workload.began("walk")) == 4


@pytest.mark.parametrize("pauses", [True, False])
def test_a_failing_check_closes_the_gate(
    cluster: Cluster, workload: Workload, pauses: bool
) -> None:
    names = cluster.names(1, 4)
    hosts = [host(cluster, name) for name in names]
    workload.break_(hosts[1])
    check = {
        "type": "command",
        "command": workload.witness.from_start_to_end("check", workload.sound),
    }
    gate = {"check": check, "pause_on_fail": pauses}
    execution = workload.launch(
        [workload.step("walk")], names, {"waves": ["50%", "100%"], "gate": gate}
    )
    if pauses:
        assert workload.paused(execution)["waiting_on"]["kind"] == "max_fail"
        assert workload.statuses(execution) == dict(
            zip(names, ["succeeded", "failed", "waiting", "waiting"], strict=True)
        )
        cluster.post(f"/executions/{execution}/resume", {"reason": "never mind"})
    ended = workload.ended(execution)
    rest = {"succeeded": 3} if pauses else {"succeeded": 1, "skipped": 2}
    assert (ended["status"], ended["counts"]) == ("partial", {"failed": 1, **rest})
    assert {*workload.began("walk")} == {*(hosts if pauses else hosts[:2])}
    # The check of a wave begins when all of it has ended.
    assert min(workload.stamps("check", "start")) >= sorted(workload.stamps("walk", "end"))[1]


def test_a_paused_execution_starts_nothing_new(cluster: Cluster, workload: Workload) -> None:
    names = cluster.names(1, 3)
    execution = workload.launch([workload.step("walk", workload.held)], names, {"max_parallel": 1})
    wait_until(lambda: workload.began("walk"), "the first is at work", SECONDS)
    cluster.post(f"/executions/{execution}/pause", {"reason": "lunch"})
    workload.leave()
    stands = workload.paused(execution)
    assert (stands["waiting_on"]["kind"], stands["pause_reason"]) == ("pause", "lunch")
    assert workload.statuses(execution) == dict(
        zip(names, ["succeeded", "waiting", "waiting"], strict=True)
    )
    cluster.post(f"/executions/{execution}/resume", {})
    assert workload.ended(execution)["status"] == "completed"
    assert len(workload.began("walk")) == 3


def test_hold_offline_waits_for_an_offline_target(cluster: Cluster, workload: Workload) -> None:
    with machine_down(cluster, "127.0.122.1") as server:
        name = cluster.add_target("offline-1", server.host, server.port, server.host_keys)
        execution = workload.launch(
            [workload.step("walk")], [name, "web-1"], {"hold_offline": "1h"}
        )
        held = workload.waits(execution, name, "hold")
        assert held["error"] is None
        wait_until(
            lambda: workload.statuses(execution)["web-1"] == "succeeded",
            "the other one is not held up",
            SECONDS,
        )
        with listening_again(server):
            end_waits(cluster, execution)
            assert workload.ended(execution)["status"] == "completed"
        assert sorted(workload.began("walk")) == sorted([server.host, host(cluster, "web-1")])


def test_a_refused_connection_is_retried_by_policy(cluster: Cluster, workload: Workload) -> None:
    with machine_down(cluster, "127.0.122.2") as server:
        name = cluster.add_target("refused-1", server.host, server.port, server.host_keys)
        # Never exhausted however slow the machine is: the test cuts its waits short below.
        retry = {
            "max_attempts": 4,
            "on": ["connection_refused"],
            "backoff": "constant",
            "base": "1h",
        }
        again = workload.launch([workload.step("again")], [name], {"retry": retry})
        assert workload.waits(again, name, "backoff")["not_before"]
        once = workload.launch(
            [workload.step("once")], [name], {"retry": {**retry, "on": ["connect_timeout"]}}
        )
        assert workload.ended(once)["counts"] == {"unreachable": 1}
        assert workload.runs(once)[name]["error"]["code"] == "connection_refused"
        with listening_again(server):
            end_waits(cluster, again)
            assert workload.ended(again)["status"] == "completed"
    told = [
        (r["attempt"], r["status"], (r["error"] or {}).get("code")) for r in cluster.results(again)
    ]
    assert [one[1:] for one in sorted(told)][:1] == [("unreachable", "connection_refused")]
    assert [one[1:] for one in sorted(told)][-1:] == [("succeeded", None)]
    assert (workload.began("again"), workload.began("once")) == (["127.0.122.2"], [])


def test_a_failed_command_is_retried_by_policy(cluster: Cluster, workload: Workload) -> None:
    workload.break_(host(cluster, "web-1"))
    retry = {"max_attempts": 3, "on": ["nonzero_exit"], "backoff": "constant", "base": 0.1}
    execution = workload.launch([workload.step("walk", workload.sound, retry=retry)], ["web-1"])
    assert workload.ended(execution)["counts"] == {"dead": 1}
    assert [
        r["attempt"] for r in sorted(cluster.results(execution), key=lambda r: r["attempt"])
    ] == [
        1,
        2,
        3,
    ]
    ends = [workload.stamps("walk", what) for what in ("start", "end")]
    assert len(ends[0]) == 3
    assert all(later > before for before, later in pairwise(ends[0]))


def test_an_exclusive_name_keeps_two_jobs_apart(cluster: Cluster, workload: Workload) -> None:
    first = workload.launch(
        [workload.step("first", workload.held)], ["web-1"], {"exclusive": ["balancer"]}
    )
    wait_until(lambda: workload.began("first"), "the first is at work", SECONDS)
    second = workload.launch(
        [workload.step("second")], ["web-2"], {"exclusive": ["balancer", "other"]}
    )
    wait_until(
        lambda: (workload.shown(second)["waiting_on"] or {}).get("kind") == "exclusive",
        "the second says for what it waits",
        SECONDS,
    )
    assert workload.shown(second)["status"] == "queued"
    assert (
        workload.ended(workload.launch([workload.step("third")], ["web-2"]))["status"]
        == "completed"
    )
    assert workload.began("second") == []
    workload.leave()
    assert [workload.ended(execution)["status"] for execution in (first, second)] == [
        "completed",
        "completed",
    ]
    assert workload.stamps("second", "start") > workload.stamps("first", "end")


def test_a_target_under_maintenance_is_held_and_the_others_go_on(
    cluster: Cluster, workload: Workload
) -> None:
    maintenance = f"/targets/{cluster.rows('select id from targets where name = %s', 'web-3')[0]['id']}/maintenance"
    cluster.post(maintenance, {"reason": "new disk"})
    execution = workload.launch([workload.step("walk")], ["web-3", "web-4"])
    assert "new disk" in workload.waits(execution, "web-3", "hold")["awaits"]
    wait_until(
        lambda: workload.statuses(execution)["web-4"] == "succeeded",
        "the other one is not held up",
        SECONDS,
    )
    assert workload.began("walk") == [host(cluster, "web-4")]
    cluster.post(maintenance, {"off": True})
    assert workload.ended(execution)["status"] == "completed"


def test_a_target_is_served_by_a_worker_of_its_zone(cluster: Cluster, workload: Workload) -> None:
    server = cluster.machines[0]
    name = cluster.add_target(
        "far-1", server.addresses[1], server.port, server.host_keys, zone="far"
    )
    execution = workload.launch([workload.step("walk")], [name, "web-1"])
    wait_until(
        lambda: workload.statuses(execution)["web-1"] == "succeeded", "the near one", SECONDS
    )
    assert workload.runs(execution)[name]["worker"] is None
    cluster.start("worker-far", OPSJOBS_ZONE="far")
    far = cluster.running["worker-far"]
    try:
        assert workload.ended(execution)["status"] == "completed"
        assert workload.runs(execution)[name]["worker"] == far.title
    finally:
        far.end(seconds=SECONDS)
        del cluster.running["worker-far"]
