"""An execution on very many machines, in waves; one in twenty fails, and is retried.

TESTS_MACHINES is their number: 300 by default, for two busy cores; 1000 has been shown, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e.cluster import Cluster
from e2e.processes import Json
from e2e.workload import Workload, work
from kit.sshd import sshd

pytestmark = pytest.mark.long  # 1,000 targets

MACHINES = int(os.environ.get("TESTS_MACHINES", "300"))
FAILING = MACHINES // 20
SECONDS = 600.0
WAVES = [1, "10%", "100%"]


@dataclass(frozen=True, slots=True)
class Crowd:
    """The targets, and their addresses."""

    at: Workload
    names: list[str]
    hosts: list[str]

    def run(self, actions: list[Json], **policy: object) -> Json:
        """Launch on all of them; return the ended execution."""
        return self.follow(
            self.at.launch(actions, self.names, {"waves": WAVES, "max_parallel": 48, **policy})
        )

    def follow(self, execution: int) -> Json:
        return self.at.cluster.ended(execution, SECONDS)


@pytest.fixture
def crowd(cluster: Cluster) -> Iterator[Crowd]:
    with sshd(addresses=("0.0.0.0",), host_key_types=("ed25519",)) as server, work(cluster) as at:
        login = {"type": "ssh_key", "username": server.user, "private_key": server.private_key}
        cluster.post("/credentials", {"name": "crowd", **login})
        hosts = [f"127.9.{n // 250}.{1 + n % 250}" for n in range(MACHINES)]
        names = [f"crowd-{n:04}" for n in range(MACHINES)]
        known = {"port": server.port, "host_keys": list(server.host_keys), "credential": "crowd"}
        # a body has a limit
        targets = [
            {"name": name, "host": host, **known} for name, host in zip(names, hosts, strict=True)
        ]
        for first in range(0, MACHINES, 500):
            cluster.post("/targets/import", {"targets": targets[first : first + 500]})
        yield Crowd(at, names, hosts)


def test_one_in_twenty_fails_and_a_retry_touches_just_those_and_a_limit_stops_in_its_wave(
    cluster: Cluster, crowd: Crowd
) -> None:
    at = crowd.at
    failing = crowd.hosts[7::20][:FAILING]
    at.break_(*failing)
    whole = crowd.run([at.step("first"), at.step("second", at.sound)])
    assert (whole["status"], whole["counts"]) == (
        "partial",
        {"failed": FAILING, "succeeded": MACHINES - FAILING},
    )
    assert sorted(at.began("second")) == sorted(crowd.hosts)
    waves = at.began("first")
    tenth = -(-MACHINES // 10)
    assert waves[0] == crowd.hosts[0]
    assert {*waves[1:tenth]} == {*crowd.hosts[1:tenth]}

    at.mend()
    retry = cluster.post(f"/executions/{whole['id']}/retry", {"which": "failed"}, 202)
    again = crowd.follow(retry["id"])
    assert (again["status"], again["counts"]) == ("completed", {"succeeded": FAILING})
    assert len(at.began("first")) == MACHINES
    assert sorted(at.began("second")[MACHINES:]) == sorted(failing)

    # Three of the tenth fail, of which a fiftieth may: the current wave is stopped, the last one is
    # never begun.
    broken = crowd.hosts[1 : 1 + max(3, tenth // 10)]
    at.break_(*broken)
    stopped = crowd.run([at.step("limited", at.sound)], max_fail="2%")
    touched = {*at.began("limited")}
    assert stopped["status"] == "partial"
    assert touched <= {*crowd.hosts[:tenth]}
    assert stopped["counts"]["skipped"] == MACHINES - len(touched)
    statuses = at.statuses(stopped["id"])
    untouched = {
        name for name, host in zip(crowd.names, crowd.hosts, strict=True) if host not in touched
    }
    assert {name for name, status in statuses.items() if status == "skipped"} == untouched
