"""A machine that refuses logins is tried once by all workers together, and delays no other.

Later it is tried again automatically.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from e2e.cluster import Cluster
from e2e.processes import Json
from kit.sshd import Sshd, sshd

PASSWORD = {"type": "password", "username": "nobody-of-ours", "password": "canary-wrong"}


@contextmanager
def guarded(address: str) -> Iterator[Sshd]:
    """Run a machine that asks for passwords."""
    with sshd(
        addresses=(address,), host_key_types=("ed25519",), settings=["PasswordAuthentication yes"]
    ) as server:
        yield server


def codes(runs: Sequence[Json]) -> list[str]:
    return [run["error"]["code"] for run in runs if run["error"] is not None]


def circuit(cluster: Cluster, name: str) -> Json | None:
    found = cluster.get("/circuits", target=name)["items"]
    return dict(found[0]) if found else None


def events(cluster: Cluster, name: str) -> list[str]:
    query = "select type from events where type like 'circuit.%%' and data->'target'->>'name' = %s order by id"
    return [row["type"] for row in cluster.rows(query, name)]


def test_an_open_circuit_makes_one_login_attempt_for_all_workers(cluster: Cluster) -> None:
    with guarded("127.0.121.1") as server:
        cluster.post("/credentials", {"name": "wrong-1", **PASSWORD}, 201)
        name = cluster.add_target(
            "guarded-1", server.host, server.port, server.host_keys, credential="wrong-1", slots=40
        )
        at_once = [cluster.run("true", [name], witnessed=False) for _ in range(20)]
        others = cluster.run("true", cluster.names(1, 40), max_parallel=40)
        assert cluster.ended(others)["status"] == "completed"
        ended = [cluster.ended(execution) for execution in at_once]
        assert {execution["status"] for execution in ended} == {"failed"}
        runs = [cluster.runs(execution)[0] for execution in at_once]
        assert {run["status"] for run in runs} == {"unreachable"}
        assert set(codes(runs)) <= {"auth_failed", "circuit_open"}
        again = cluster.run("true", [name], witnessed=False)
        cluster.ended(again)
        (refused,) = cluster.runs(again)
        assert refused["error"]["code"] == "circuit_open"
        assert "refused the login" in refused["error"]["message"]
        assert server.log.count("Failed password") == 1
        assert events(cluster, name) == ["circuit.opened"]


def test_a_circuit_reset_allows_one_more_login(cluster: Cluster) -> None:
    with guarded("127.0.121.2") as server:
        cluster.post("/credentials", {"name": "wrong-2", **PASSWORD}, 201)
        name = cluster.add_target(
            "guarded-2", server.host, server.port, server.host_keys, credential="wrong-2", slots=40
        )
        cluster.ended(cluster.run("true", [name], witnessed=False))
        found = circuit(cluster, name)
        assert found is not None
        assert (found["state"], found["credential"], found["error"]["code"]) == (
            "open",
            "wrong-2",
            "auth_failed",
        )
        answer = cluster.post(f"/circuits/{found['target']['id']}/reset", {})
        assert [c["target"]["name"] for c in answer["items"]] == [name]
        for execution in [cluster.run("true", [name], witnessed=False) for _ in range(10)]:
            cluster.ended(execution)
        assert server.log.count("Failed password") == 2
        assert events(cluster, name) == ["circuit.opened", "circuit.closed", "circuit.opened"]


def test_half_open_recovers_by_itself(cluster: Cluster) -> None:
    with guarded("127.0.121.3") as server:
        mine = (server.folder / "login").read_text()
        cluster.post(
            "/credentials",
            {"name": "late", "type": "ssh_key", "username": server.user, "private_key": mine},
            201,
        )
        server.authorize(server.user, "# nobody yet")
        name = cluster.add_target(
            "guarded-3", server.host, server.port, server.host_keys, credential="late", slots=40
        )
        cluster.ended(cluster.run("true", [name], witnessed=False))
        assert circuit(cluster, name) is not None
        server.authorize(server.user, (server.folder / "login.pub").read_text().strip())
        cluster.ended(still := cluster.run("true", [name], witnessed=False))
        assert codes(cluster.runs(still)) == ["circuit_open"]
        # Move the circuit's time by a quarter of an hour.
        cluster.rows(
            "update circuits set until = opsjobs_now() where message like %s returning id",
            f"%{name}%",
        )
        at_once = [cluster.run("true", [name], witnessed=False) for _ in range(10)]
        assert {cluster.ended(execution)["status"] for execution in at_once} == {"completed"}
        assert circuit(cluster, name) is None
        assert events(cluster, name) == ["circuit.opened", "circuit.closed"]
