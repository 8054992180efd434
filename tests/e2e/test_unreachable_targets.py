"""Failures have the right code and a clear message; nothing hangs, and other machines run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.breakable_proxy import open_proxy
from e2e.cluster import Cluster, authorize_login, machines
from e2e.processes import Json, wait_until
from kit.sshd import keygen


def only_run(cluster: Cluster, execution: int) -> Json:
    """Return the run of an ended execution on one target."""
    cluster.ended(execution)
    (run,) = cluster.runs(execution)
    return run


def other_key(folder: Path) -> tuple[str, str]:
    """Return a private key that no account accepts, and its public line."""
    public = keygen(folder / "other")
    return (folder / "other").read_text(), " ".join(public.split()[:2])


def test_unreachable_targets_are_explained_and_do_not_delay_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    server = cluster.machines[0]
    port, keys, addresses = (
        server.port,
        server.host_keys,
        server.addresses[8:],
    )  # the witness distinguishes machines by their address
    private, public = other_key(tmp_path)
    login = {"type": "ssh_key", "username": server.user, "private_key": private}
    cluster.post("/credentials", {"name": "stranger", **login}, 201)
    expected = {
        cluster.add_target("nowhere", "no-such-host.invalid", 22, keys): (
            "unreachable",
            "dns",
            "no-such-host.invalid",
        ),
        cluster.add_target("closed", "127.0.0.1", 1, keys): (
            "unreachable",
            "connection_refused",
            "127.0.0.1",
        ),
        cluster.add_target("strange", addresses[0], port, keys, credential="stranger"): (
            "unreachable",
            "auth_failed",
            server.user,
        ),
        cluster.add_target("changed", addresses[1], port, [public]): (
            "unreachable",
            "host_key",
            "changed",
        ),
        cluster.add_target("unpinned", addresses[2], port): ("unreachable", "host_key", "unpinned"),
        cluster.add_target("nobody", addresses[3], port, keys, credential=None): (
            "unreachable",
            "credential_missing",
            "nobody",
        ),
    }
    execution = cluster.run("echo $3", [*expected, *cluster.names(1, 4)])
    ended = cluster.ended(execution)
    runs = {run["target"]["name"]: run for run in cluster.runs(execution)}
    told = {name: (runs[name]["status"], runs[name]["error"]["code"]) for name in expected}
    assert told == {name: (status, code) for name, (status, code, _) in expected.items()}
    unclear = {
        name: runs[name]["error"]["message"]
        for name, (*_, word) in expected.items()
        if word not in runs[name]["error"]["message"]
    }
    assert not unclear
    assert (ended["status"], ended["counts"]) == (
        "partial",
        {"unreachable": len(expected), "succeeded": 4},
    )
    for result in cluster.results(execution):
        if result["target"]["name"] in expected:
            assert (result["status"], result["error"]) == (
                runs[result["target"]["name"]]["status"],
                runs[result["target"]["name"]]["error"],
            )


def test_a_target_that_dies_is_lost_and_its_output_is_kept(cluster: Cluster) -> None:
    with machines(["127.0.121.1"]) as server:
        authorize_login(server, cluster.machines[0])
        dying = cluster.add_target("dying", "127.0.121.1", server.port, server.host_keys)
        execution = cluster.run("echo begun; sleep 300", [dying], durable="off")
        cluster.started(execution, 1)
        wait_until(lambda: cluster.output(execution, dying), "its first words are stored")
        # All are stopped first: a server that outlives the command would report how it ended.
        for how in (signal.SIGSTOP, signal.SIGKILL):
            for pid in [server.process.pid, *_family(server.process.pid)]:
                with suppress(ProcessLookupError):  # it ended with the one before
                    os.kill(pid, how)
        run = only_run(cluster, execution)
    assert (run["status"], run["error"]["code"]) == ("lost", "lost")
    assert "dying" in run["error"]["message"]
    assert cluster.output(execution, dying) == b"begun\n"


def test_a_connection_cut_during_a_command_is_lost_and_the_next_run_reconnects(
    cluster: Cluster,
) -> None:
    server = cluster.machines[0]
    with open_proxy(server.host, server.port) as (way, loop):
        cut = cluster.add_target("cut", way.host, way.port, server.host_keys)
        execution = cluster.run("echo begun; sleep 300", [cut], durable="off")
        wait_until(lambda: cluster.output(execution, cut), "its first words are stored")
        loop.call_soon_threadsafe(way.reset_all)
        run = only_run(cluster, execution)
        assert (run["status"], run["error"]["code"]) == ("lost", "lost")
        assert cluster.output(execution, cut) == b"begun\n"
        assert cluster.ended(cluster.run("true", [cut], witnessed=False))["status"] == "completed"


def test_a_connection_cut_during_the_login_is_unreachable(cluster: Cluster) -> None:
    server = cluster.machines[0]
    with open_proxy(server.host, server.port) as (way, _):
        broken = cluster.add_target("broken", way.host, way.port, server.host_keys)
        way.faults.cut_after_bytes = 500  # in the key exchange
        run = only_run(cluster, cluster.run("true", [broken], witnessed=False))
    assert (run["status"], run["error"]["code"]) == ("unreachable", "connection_lost")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (
            {
                "actions": [{"type": "command", "command": "true"}],
                "targets": {"ids": ["web-1"]},
                "colour": "red",
            },
            422,
            "invalid",
        ),
        (
            {
                "actions": [{"type": "command", "command": "true\x00"}],
                "targets": {"ids": ["web-1"]},
            },
            422,
            "bad_character",
        ),
        (
            {"actions": [{"type": "command", "command": "true"}], "targets": {"ids": ["web\x001"]}},
            422,
            "bad_character",
        ),
        (
            {
                "actions": [{"type": "command", "command": "true"}],
                "targets": {"ids": ["nobody-knows-it"]},
            },
            422,
            "unknown_target",
        ),
        ({"actions": [{"type": "command", "command": "true"}], "targets": {}}, 422, "no_targets"),
        ({"actions": [], "targets": {"ids": ["web-1"]}}, 422, "invalid"),
    ],
)
def test_an_invalid_request_body_is_refused(
    cluster: Cluster, body: Json, status: int, code: str
) -> None:
    before = cluster.rows("select count(*) as n from job_executions")
    answer = cluster.http.post("/run", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    assert (answer.json()["code"], bool(answer.json()["detail"])) == (code, True)
    assert cluster.rows("select count(*) as n from job_executions") == before


def test_a_body_of_100_mb_is_refused_and_not_kept_in_memory(cluster: Cluster) -> None:
    api = cluster.running["api"]
    api.forget_peak()
    before = api.peak_kib()

    def portions() -> Iterator[bytes]:
        yield b'{"actions": [{"type": "command", "command": "'
        for _ in range(100):
            yield b"x" * 1_000_000

    answer = cluster.http.post(
        "/run", content=portions(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert api.peak_kib() - before < 16 << 10
    assert cluster.http.get("/readyz").status_code == 200


def _family(parent: int) -> list[int]:
    """Return the descendants of this process."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [below for child in map(int, children) for below in (*_family(child), child)]
