"""A cancel of many machines leaves no process of families that fork and ignore TERM.

They also daemonise. Each cancel has a proof.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from chaos.machines import Machine, keep_mounts_to_ourselves, machines
from e2e.cluster import ADDRESSES_A_SERVER, Cluster, start_cluster
from e2e.processes import wait_until
from kit import backing_servers
from kit.sshd import needs_sshd

pytestmark = pytest.mark.long  # tests/e2e/test_durable_runs.py cancels one family

FAMILIES = int(os.environ.get("TESTS_FAMILIES", "80"))
"""One on each address. The figure in docs/concepts/durable-commands.md is of 200."""
LONG_SECONDS = 180.0
"""Far more than any of it takes on an idle machine."""

# A child, an orphan, one with a session of its own, and a daemon with a child: all of them ignore
# TERM.
FAMILY = """trap '' TERM HUP INT
(trap '' TERM; exec sleep 3001) &
( (trap '' TERM HUP; exec sleep 3002) & )
setsid sh -c 'trap "" TERM HUP; exec sleep 3003' </dev/null >/dev/null 2>&1 &
( setsid sh -c 'trap "" TERM HUP; sleep 3004 & exec sleep 3005' </dev/null >/dev/null 2>&1 & )
echo begun
while :; do sleep 1000; done"""
MEMBERS = 7
"""With the command's own shell and its last `sleep`."""


class OneWorkerCluster(Cluster):
    """A cluster whose workers take all its machines at once."""

    @property
    def environment(self) -> dict[str, str]:
        """The settings of every process."""
        return {**super().environment, "OPSJOBS_CONCURRENCY": str(FAMILIES)}


@pytest.fixture
def fleet() -> Iterator[list[Machine]]:
    """Create machines with processes of their own, together with an address for each family.

    Each cancel reads all processes of its machine.
    """
    needs_sshd()
    _needs_namespaces()
    keep_mounts_to_ourselves()
    with ExitStack() as stack:
        yield stack.enter_context(
            machines(_shares(), stack.enter_context(backing_servers.open_folder()))
        )


@pytest.fixture
def cluster(fleet: list[Machine]) -> Iterator[OneWorkerCluster]:
    """Run the whole service over these machines."""
    with ExitStack() as stack:
        found = start_cluster(stack, [machine.server for machine in fleet], OneWorkerCluster)
        found.furnish()
        yield found


def test_a_cancel_of_many_families_leaves_no_survivor_and_proves_each(
    cluster: OneWorkerCluster, fleet: list[Machine]
) -> None:
    execution = cluster.run(
        FAMILY, cluster.names(1, FAMILIES), max_parallel=FAMILIES, witnessed=False
    )
    wait_until(
        lambda: [*_members(fleet).values()] == [MEMBERS] * FAMILIES,
        "all families are complete",
        LONG_SECONDS,
    )
    cluster.post(f"/executions/{execution}/cancel", {}, 202)
    began = time.monotonic()
    assert cluster.ended(execution, LONG_SECONDS)["counts"] == {"cancelled": FAMILIES}
    print(f"{time.monotonic() - began:.1f} s")  # noqa: T201  the figure of docs/operations/reliability.md
    # A proof is no promise: a process that was reported as killed has ended by then.
    assert _members(fleet) == {}
    results = [*cluster.results(execution)]
    assert Counter(result["cancel_proof"] for result in results) == {"killed": FAMILIES}
    assert {run["cancel_proof"] for run in cluster.runs(execution)} == {"killed"}
    assert {cluster.output(execution, name) for name in cluster.names(1, FAMILIES)} == {b"begun\n"}


def _members(fleet: list[Machine]) -> Counter[str]:
    """Return the number of processes of each run on all machines.

    They have its mark in their environment.
    """
    return Counter(key for machine in fleet for key in machine.durable_processes().values())


def _shares() -> list[list[str]]:
    """Return the addresses of a network that depends on the process."""
    network = 20 + os.getpid() % 80
    addresses = [f"127.{network}.{1 + n // 200}.{1 + n % 200}" for n in range(FAMILIES)]
    return [
        addresses[at : at + ADDRESSES_A_SERVER] for at in range(0, FAMILIES, ADDRESSES_A_SERVER)
    ]


def _needs_namespaces() -> None:
    unshare = shutil.which("unshare")
    command = [unshare or "unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    if (
        os.geteuid() != 0
        or unshare is None
        or subprocess.run(command, check=False, capture_output=True).returncode
    ):
        pytest.skip(
            "this machine cannot give machines processes of their own: that needs root and unshare"
        )
