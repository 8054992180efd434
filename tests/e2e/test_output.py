"""Every byte of 200 machines is stored, in downloads and in interrupted streams."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster import MACHINES, Cluster
from e2e.processes import SECONDS, Json
from e2e.viewer import Frame, Viewer, streams
from kit.backing_servers import open_folder

MIB = 1 << 20
BREAKS = 10
VIEWERS = 3
# The most that a viewer reads between two breaks: ten breaks are then spread over the whole stream
# of some 4 MiB.
BYTES_BETWEEN_BREAKS = 500_000


@dataclass(frozen=True)
class ExpectedOutput:
    """The output of one machine, and its end."""

    stdout: bytes
    stderr: bytes
    exit_code: int


@dataclass(frozen=True)
class ObservedExecution:
    """An execution on all machines, their output, and what viewers saw of it while it ran."""

    execution: Json
    said: dict[str, ExpectedOutput]
    runs: dict[str, Json]
    seen: list[list[Frame]]
    connections: list[int]


class Memory:
    """Measure the workers' memory from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self._workers = cluster.workers
        for worker in self._workers:
            worker.forget_peak()
        self._before = [worker.peak_kib() for worker in self._workers]

    def has_grown_by_at_most(self, mib: int) -> None:
        """Check that none of them ever had so much more."""
        grown = [
            worker.peak_kib() - before
            for worker, before in zip(self._workers, self._before, strict=True)
        ]
        assert max(grown) <= mib << 10, f"{grown} KiB"


def hostile_outputs(number: int) -> ExpectedOutput:
    """Return all kinds of difficult output, each on some machine.

    These are NUL, invalid UTF-8, cut characters, no last newline, chunk borders, nothing.
    """
    chance = random.Random(number)
    kinds = [
        chance.randbytes(chance.randint(1, 40_000)),
        b"\x00" * 70_000 + b"\xff\xfe",
        ("ä€😀" * 9_000).encode()[: -1 - number % 3],
        b"\r\n\x1b[31mred\x1b[0m \xc3\x28 no last newline",
        b"x" * (65_536 - 1 + number % 3),
        b"",
        b"\n\n: comment\n\nid: 7\ndata: not a frame\n\nevent: end\n\n",
        bytes(range(256)) * 3,
    ]
    out, err = kinds[number % 8], kinds[(number // 8 + 3) % 8]
    return ExpectedOutput(out + str(number).encode(), err, number % 4 * 85 % 256)


@pytest.fixture(scope="module")
def told(_cluster: Cluster) -> ObservedExecution:
    cluster = _cluster
    cluster.heal()
    names = cluster.names(1, MACHINES)
    said = {name: hostile_outputs(number) for number, name in enumerate(names, start=1)}
    with open_folder() as folder:
        hosts = {run["name"]: run["host"] for run in _targets(cluster)}
        for name, its in said.items():
            _write(folder / hosts[name], its)
        speak = f"cat {folder}/$3.out; cat {folder}/$3.err >&2; exit $(cat {folder}/$3.exit)"
        execution = cluster.run(speak, names, max_parallel=100)
        viewers = [
            Viewer(
                cluster.client, execution, breaks=BREAKS, seed=n, bytes_at_most=BYTES_BETWEEN_BREAKS
            )
            for n in range(VIEWERS)
        ]
        for viewer in viewers:
            viewer.start()
        ended = cluster.ended(execution)
        seen = [viewer.watched(SECONDS) for viewer in viewers]
    runs = {run["target"]["name"]: run for run in cluster.runs(execution)}
    return ObservedExecution(ended, said, runs, seen, [viewer.connections for viewer in viewers])


def _targets(cluster: Cluster) -> list[Json]:
    first = cluster.get("/targets", limit=200)
    rest = (
        cluster.get("/targets", limit=200, cursor=first["next"])["items"] if first["next"] else []
    )
    return [*first["items"], *rest]


def _write(base: Path, its: ExpectedOutput) -> None:
    for ending, content in (
        ("out", its.stdout),
        ("err", its.stderr),
        ("exit", str(its.exit_code).encode()),
    ):
        Path(f"{base}.{ending}").write_bytes(content)


@pytest.mark.long
def test_200_targets_have_their_own_results(told: ObservedExecution, cluster: Cluster) -> None:
    expected = {
        name: ("failed" if its.exit_code else "succeeded", its.exit_code)
        for name, its in told.said.items()
    }
    assert {name: (run["status"], run["exit_code"]) for name, run in told.runs.items()} == expected
    assert told.execution["status"] == "partial"
    assert {run["error"]["code"] for run in told.runs.values() if run["error"]} == {"nonzero_exit"}


def test_both_workers_share_the_runs(told: ObservedExecution, cluster: Cluster) -> None:
    assert len({run["worker"] for run in told.runs.values()}) == 2


def test_every_byte_of_200_machines_is_in_the_download(
    told: ObservedExecution, cluster: Cluster
) -> None:
    wrong = [
        (name, stream)
        for name, its in told.said.items()
        for stream, expected in (("stdout", its.stdout), ("stderr", its.stderr))
        if cluster.output(told.execution["id"], name, stream) != expected
    ]
    assert not wrong


def test_results_hold_the_output(told: ObservedExecution, cluster: Cluster) -> None:
    for result in cluster.results(told.execution["id"]):
        its = told.said[result["target"]["name"]]
        assert (result["exit_code"], result["stdout_bytes"], result["stderr_bytes"]) == (
            its.exit_code,
            len(its.stdout),
            len(its.stderr),
        )
        assert result["stdout_truncated"] == (len(its.stdout) > 64 << 10)
        if not result["stderr_truncated"]:
            assert result["stderr"] == its.stderr.decode("utf-8", "replace")


def test_viewers_that_reconnect_ten_times_see_each_event_once_and_in_order(
    told: ObservedExecution, cluster: Cluster
) -> None:
    last = told.seen[0][-1][0]
    assert min(told.connections) > BREAKS
    for frames in told.seen:
        assert [position for position, _, _ in frames] == [*range(1, last + 1)]
        assert frames == told.seen[0]
    assert [kind for _, kind, _ in told.seen[0]].count("end") == 1


def test_viewers_see_exact_bytes(told: ObservedExecution, cluster: Cluster) -> None:
    seen = streams(told.seen[0])
    for name, its in told.said.items():
        target = told.runs[name]["target"]["id"]
        assert seen.get((target, "stdout"), b"") == its.stdout
        assert seen.get((target, "stderr"), b"") == its.stderr


def test_the_end_event_is_repeated_for_late_viewers(
    told: ObservedExecution, cluster: Cluster
) -> None:
    viewer = Viewer(cluster.client, told.execution["id"], breaks=0, seed=0, bytes_at_most=1)
    viewer.frames.append((told.seen[0][-1][0], "", {}))
    viewer.start()
    assert viewer.watched(SECONDS)[1:] == [told.seen[0][-1]]


def test_50_mb_of_output_are_kept_within_the_limit_and_memory_stays_small(
    cluster: Cluster,
) -> None:
    data = os.urandom(50_000_000)
    with open_folder() as folder:
        (folder / "large").write_bytes(data)
        memory = Memory(cluster)
        execution = cluster.run(f"cat {folder}/large", cluster.names(1, 1), output_limit="64MiB")
        assert cluster.ended(execution)["status"] == "completed"
        memory.has_grown_by_at_most(64)
    got = hashlib.sha256()
    query = {"format": "text", "target": "web-1", "stream": "stdout"}
    with cluster.http.stream("GET", f"/executions/{execution}/log", params=query) as answer:
        for portion in answer.iter_raw():
            got.update(portion)
    assert got.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.long
def test_output_of_1_gib_keeps_head_and_tail_and_reports_the_rest(cluster: Cluster) -> None:
    memory = Memory(cluster)
    execution = cluster.run(
        "head -c 1G /dev/zero; echo the end", cluster.names(2, 2), output_limit="10MiB"
    )
    assert cluster.ended(execution)["status"] == "completed"
    memory.has_grown_by_at_most(64)
    sizes = """
select coalesce(octet_length(data), 0) as kept, dropped from execution_log where execution_id = %s and event = 'output' order by seq"""
    chunks = cluster.rows(sizes, execution)
    gap = next(at for at, chunk in enumerate(chunks) if chunk["dropped"])
    head, tail = sum(c["kept"] for c in chunks[:gap]), sum(c["kept"] for c in chunks[gap:])
    total = (1 << 30) + len("the end\n")
    assert (head, tail) == (10 * MIB, 64 << 10)
    assert head + chunks[gap]["dropped"] + tail == total
    (result,) = cluster.results(execution)
    assert result["stdout_bytes"] == total
    assert cluster.output(execution, "web-2").endswith(b"\x00the end\n")
