"""Two jobs share machines with one slot each: never both on one.

Neither waits for the end of the other.
"""

from __future__ import annotations

from e2e.cluster import Cluster
from e2e.processes import wait_until
from e2e.workload import SECONDS, work

MACHINES = 50
AT_ONCE = 10


def test_two_jobs_on_targets_with_one_slot_never_overlap(cluster: Cluster) -> None:
    pairs = [(server, address) for server in cluster.machines for address in server.addresses][
        :MACHINES
    ]
    names = [
        cluster.add_target(f"shared-{n}", address, server.port, server.host_keys, slots=1)
        for n, (server, address) in enumerate(pairs, start=1)
    ]
    with work(cluster) as at:
        keys = ("left", "right")
        then = f"{at.held}; sleep 0.1"
        # They begin at different ends, and both run before one of them can continue.
        policies = [{"max_parallel": AT_ONCE, "order": order} for order in ("inventory", "reverse")]
        executions = [
            at.launch([at.step(key, then)], names, policy)
            for key, policy in zip(keys, policies, strict=True)
        ]
        wait_until(
            lambda: all(len(at.began(key)) == AT_ONCE for key in keys), "both are at work", SECONDS
        )
        at.leave()
        assert [at.ended(execution)["status"] for execution in executions] == [
            "completed",
            "completed",
        ]
        starts, ends = at.witness.starts(), at.witness.ends()
        for _, address in pairs:
            visits = sorted(
                (starts[f"{key}.{address}"][0].at, ends[f"{key}.{address}"][0].at) for key in keys
            )
            assert len(visits) == 2
            assert visits[0][1] <= visits[1][0], f"both at once on {address}"
        # Neither had to wait for the end of the other.
        assert min(at.stamps("right", "start")) < max(at.stamps("left", "end"))
        assert min(at.stamps("left", "start")) < max(at.stamps("right", "end"))
