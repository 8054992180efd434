"""One flood: a target writes text without a pause while viewers poll and follow it. MB/s, CPU per MB, and memory.

`.venv/bin/python bench/floods.py [--mb 500] [--rounds 3] [--pollers 5] [--followers 1] [--durable off]` prints; nothing is
written. Exit code 1 under 60 MB/s (the median of the rounds).
"""

from __future__ import annotations

import argparse
import http.client
import random
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import ours
from machines import machines
from processes import busy_cores
from transfers import peak

GOAL_MB = 60
FILE_MB = 20
SECONDS_MAX = 300
POLL_SECONDS = 1.0
LINE = "2026-11-29T07:43:38.{:06d}Z web-1 nginx[{}]: {:032x} GET /api/v1/orders/{} 200 {}\n"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--mb", type=int, default=500)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--pollers", type=int, default=5)
    asked.add_argument("--followers", type=int, default=1)
    asked.add_argument("--durable", default="auto")
    options = asked.parse_args()
    limits = {"OPSJOBS_OUTPUT_LIMIT_BYTES": "4GiB", "OPSJOBS_SPOOL_LIMIT_BYTES": "8GiB"}
    with tempfile.TemporaryDirectory(prefix="opsjobs-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        text = folder / "text"
        text.write_text(lines(FILE_MB * 1_000_000))
        text.chmod(0o644)
        with machines(1, folder) as found, ours.service(folder / "data", limits) as running:
            ours.register(running, found)
            print(f"{busy_cores(2):.2f} cores busy before anything is measured", flush=True)
            times = options.mb // FILE_MB
            command = f"n=0; while [ $n -lt {times} ]; do cat {text}; n=$((n+1)); done"
            flood = Flood(running, found.all[0].name, command, times * text.stat().st_size)
            rates = [
                flood.measure(options.durable, options.pollers, options.followers)
                for _ in range(options.rounds)
            ]
    middle = statistics.median(rates)
    print(f"median: {middle:.1f} MB/s, goal {GOAL_MB}")
    sys.exit(middle < GOAL_MB)


def lines(size_bytes: int) -> str:
    """Return text as in a log, with repeated and unique parts."""
    draw, written, made = random.Random(1), [], 0
    while made < size_bytes:
        line = LINE.format(
            draw.randrange(10**6),
            draw.randrange(9_999),
            draw.getrandbits(128),
            *draw.sample(range(10**5), 2),
        )
        written.append(line)
        made += len(line)
    return "".join(written)[: size_bytes - 1] + "\n"


class Flood:
    """One command that writes so many bytes, and its viewers."""

    def __init__(self, running: ours.Service, target: str, command: str, size_bytes: int) -> None:
        self.running, self.target, self.command, self.size = running, target, command, size_bytes
        self.api = running.api()

    def measure(self, durable: str, pollers: int, followers: int) -> float:
        """Run it once; return the rate in MB/s, from the start of the command to its end, as seen by the worker."""
        body = {
            "actions": [{"command": self.command, "durable": durable, "timeout": "10m"}],
            "targets": {"ids": [self.target]},
        }
        (worker,) = self.running.children()["worker"]
        before, over = self.running.cpu(), threading.Event()
        with ExitStack() as stack:
            memory = stack.enter_context(peak(worker))
            execution = self.api.call("POST", "/run", body)["id"]
            threads = [
                threading.Thread(target=watch, args=(self.running, execution, over), daemon=True)
                for watch, count in ((poll, pollers), (follow, followers))
                for _ in range(count)
            ]
            for thread in threads:
                thread.start()
            self._wait(execution)
            after = self.running.cpu()
        over.set()
        for thread in threads:
            thread.join()
        (result,) = self.api.call("GET", f"/executions/{execution}/results")["items"]
        assert result["status"] == "succeeded", result["error"]
        assert result["stdout_bytes"] == self.size, result["stdout_bytes"]
        begun, ended = (
            datetime.fromisoformat(result[name]) for name in ("started_at", "finished_at")
        )
        mb = self.size / 1e6
        rate = mb / (ended - begun).total_seconds()
        spent = ", ".join(
            f"{kind} {(after[kind] - before.get(kind, 0.0)) / mb * 1_000:.1f}"
            for kind in ("worker", "postgres", "api")
        )
        grown = (memory.most - memory.before) >> 20
        print(f"{rate:.1f} MB/s; ms of CPU for a MB: {spent}; worker + {grown} MiB", flush=True)
        return rate

    def _wait(self, execution: int) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while self.api.call("GET", f"/executions/{execution}")["finished_at"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def poll(running: ours.Service, execution: int, over: threading.Event) -> None:
    """Send the requests of a page of the console once a second."""
    api = running.api()
    while not over.wait(POLL_SECONDS):
        for path in ("", "/targets", "/results", "/log?limit=200"):
            api.call("GET", f"/executions/{execution}{path}")
    api.close()


def follow(running: ours.Service, execution: int, over: threading.Event) -> None:
    """Read the stream to its end, or until the measurement is over."""
    connection = http.client.HTTPConnection(running.host, running.port, timeout=60)
    headers = {"Authorization": f"Bearer {running.token}", "Accept": "text/event-stream"}
    connection.request("GET", f"/executions/{execution}/events", None, headers)
    answer = connection.getresponse()
    while not over.is_set() and answer.read1(1 << 16):
        pass
    connection.close()


if __name__ == "__main__":
    main()
