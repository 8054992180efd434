"""`opsjobs run` as a person uses it: its streams, its exit codes, Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from e2e.cluster import Cluster
from e2e.processes import SECONDS, wait_until

OPSJOBS = [sys.executable, "-m", "opsjobs"]


def opsjobs(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        [*OPSJOBS, *arguments],
        env=cluster.environment,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


def executions(cluster: Cluster) -> int:
    """Return the number of executions."""
    return int(cluster.rows("select count(*) as n from job_executions")[0]["n"])


def test_exit_codes_follow_the_execution_status(cluster: Cluster) -> None:
    before = executions(cluster)
    with ThreadPoolExecutor(5) as pool:
        good, bad, slow, unknown, forbidden = pool.map(
            lambda words: opsjobs(cluster, "run", *words),
            [
                ("printf 'no newline'; echo well >&2", "-t", "web-1"),
                ("exit 3", "-t", "web-1,web-2"),
                ("sleep 30", "-t", "web-3", "--timeout", "500ms"),
                ("echo never", "-t", "web-1,nobody-knows-it"),
                ("echo never",),
            ],
        )
    assert (good.returncode, good.stdout) == (0, b"no newline")
    assert b"\nwell\n" in good.stderr
    assert bad.returncode == 3
    assert b"2 failed" in bad.stderr
    assert slow.returncode == 124
    assert (unknown.returncode, unknown.stdout) == (4, b"")
    assert b"nobody-knows-it" in unknown.stderr
    assert forbidden.returncode == 2
    assert executions(cluster) == before + 3


def test_output_lines_of_many_targets_are_prefixed(cluster: Cluster) -> None:
    done = opsjobs(cluster, "run", "echo one; echo two >&2", "-t", ",".join(cluster.names(1, 5)))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.decode().splitlines()) == [f"web-{n} | one" for n in range(1, 6)]
    assert {f"web-{n} | two" for n in range(1, 6)} <= {*done.stderr.decode().splitlines()}


def test_ctrl_c_cancels_and_waits_for_the_proof(cluster: Cluster) -> None:
    command = cluster.witness.command("ctrl-c", "echo begun; sleep 300")
    with subprocess.Popen(
        [*OPSJOBS, "run", command, "-t", "web-1"],
        env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as person:  # fmt: skip
        assert person.stdout is not None
        assert person.stdout.readline() == b"begun\n"
        person.send_signal(signal.SIGINT)
        _, said = person.communicate(timeout=SECONDS)
    assert person.returncode == 130, said
    assert b"cancelling execution" in said
    (newest,) = cluster.get("/executions", limit=1)["items"]
    assert newest["status"] == "cancelled"
    (run,) = cluster.runs(newest["id"])
    assert run["cancel_proof"] == "killed"
    assert (
        cluster.rows(
            "select cancel_reason from execution_specs where execution_id = %s", newest["id"]
        )[0]["cancel_reason"]
        == "Ctrl-C"
    )


def test_a_run_survives_an_api_restart(cluster: Cluster) -> None:
    command = cluster.witness.command("api-restart", "echo begun; sleep 3; echo done")
    with subprocess.Popen(
        [*OPSJOBS, "run", command, "-t", "web-1"],
        env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as person:  # fmt: skip
        wait_until(lambda: "api-restart" in cluster.witness.starts(), "the command has begun")
        cluster.running["api"].kill()
        cluster.start("api")
        out, said = person.communicate(timeout=SECONDS)
    assert (person.returncode, out) == (0, b"begun\ndone\n"), said
