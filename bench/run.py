"""`make bench`: opsjobs as a user runs it, compared in one run with tools that do the same or less.

--quick: fewer rounds, under two minutes, RESULTS.md untouched unless --output names a file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import dispatch
import ours
import peers
import report
from machines import Machines, machines
from processes import busy_cores
from report import Figures

HERE = Path(__file__).resolve().parent
TARGETS = 200
WIDTHS = (32, 64, 200)
IDLE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of measurements of each kind, and the time limit of all."""

    warm: int
    cold: int
    ansible: int
    restarts: int
    posts: int
    streams: int
    seconds_at_most: int


FULL = Plan(warm=9, cold=5, ansible=3, restarts=3, posts=400, streams=200, seconds_at_most=480)
QUICK = Plan(warm=5, cold=1, ansible=1, restarts=1, posts=120, streams=60, seconds_at_most=120)


def main() -> int:
    options = _options()
    plan = QUICK if options.quick else FULL
    _end_in_time(plan.seconds_at_most)
    began = time.monotonic()
    seen = Figures(TARGETS, _commit(), _versions())
    try:
        _measure(seen, plan)
    except TimeUpError:
        seen.remark = (
            f"Ended early, after {plan.seconds_at_most} s: this machine was too busy for all of it."
        )
        say(seen.remark)
    signal.alarm(0)
    seen.seconds = time.monotonic() - began
    text = report.markdown(seen)
    print(text)
    output = options.output or (None if options.quick else HERE / "RESULTS.md")
    if output is not None:
        output.write_text(text)
        say(f"written to {output}")
    return 0


def _measure(seen: Figures, plan: Plan) -> None:
    with _folder() as folder, machines(TARGETS, folder) as fleet:
        say(f"{TARGETS} machines on loopback are up")
        _stack(seen, plan, folder, fleet)
        with _bench(seen, plan, folder, fleet) as bench:
            bench.warm()
            bench.ansible()
            bench.answers()
            bench.cold()


def _stack(seen: Figures, plan: Plan, folder: Path, fleet: Machines) -> None:
    """Start it new, leave it idle, restart it on its data."""
    data = folder / "data"
    with ours.service(data) as running:
        seen.ready_new.append(running.ready_seconds)
        ours.register(running, fleet)
        time.sleep(IDLE_SECONDS / 2)
        before = sum(running.cpu().values())
        time.sleep(IDLE_SECONDS)
        seen.idle_cpu = (sum(running.cpu().values()) - before) / IDLE_SECONDS
        seen.idle_pss = running.pss()
    say(f"ready in {seen.ready_new[0]:.1f} s, idle {sum(seen.idle_pss.values()) >> 20} MiB")
    for _ in range(plan.restarts):
        with ours.service(data) as running:
            seen.ready_existing.append(running.ready_seconds)


@dataclass(slots=True)
class Bench:
    """The started competitors: the service, its API, the peers."""

    seen: Figures
    plan: Plan
    folder: Path
    fleet: Machines
    running: ours.Service
    api: ours.Api
    jobs: dict[int, int]
    durable_jobs: dict[int, int]
    ceiling: peers.Holder
    parallel_ssh: peers.Holder | None
    programs: Path | None

    def warm(self) -> None:
        """Measure rounds in turn over connections that are kept."""
        self.ceiling.cold(32)
        for job in self.durable_jobs.values():  # connects to the machines and creates their spools
            ours.fan_out(self.running, self.api, job, TARGETS)
        due = {
            width: ours.fan_out(self.running, self.api, job, TARGETS).seconds
            for width, job in self.jobs.items()
        }
        durable_due = {
            w: ours.fan_out(self.running, self.api, job, TARGETS).seconds
            for w, job in self.durable_jobs.items()
        }
        if self.parallel_ssh:
            self.parallel_ssh.cold(32)
        for turn in range(self.plan.warm):
            for width, job in self.jobs.items():

                def we(width: int = width, job: int = job) -> None:
                    done = ours.fan_out(
                        self.running, self.api, job, TARGETS, due_seconds=due[width]
                    )
                    due[width] = done.seconds
                    self.seen.round("warm", report.OURS, width, done)

                def they(width: int = width) -> None:
                    self.seen.lap("warm", "asyncssh", width, self.ceiling.warm(width))

                _both(turn, we, they)
            for width, job in self.durable_jobs.items():
                done = ours.fan_out(
                    self.running, self.api, job, TARGETS, due_seconds=durable_due[width]
                )
                durable_due[width] = done.seconds
                self.seen.round("warm", report.DURABLE, width, done)
            if self.parallel_ssh:
                self.seen.lap("warm", "parallel-ssh", 32, self.parallel_ssh.warm(32))
            self._tell("warm", turn)
        self.ceiling.let_go()
        if self.parallel_ssh:
            self.parallel_ssh.let_go()

    def cold(self) -> None:
        """Measure rounds with new connections: the worker is restarted each time."""
        for turn in range(self.plan.cold):
            for width in (32, 200):

                def we(width: int = width) -> None:
                    self.running.forget_connections(self.api)
                    time.sleep(1)  # waits for the end of its start-up
                    done = ours.fan_out(
                        self.running, self.api, self.jobs[width], TARGETS, due_seconds=2.0
                    )
                    self.seen.round("cold", report.OURS, width, done)

                def they(width: int = width) -> None:
                    self.seen.lap("cold", "asyncssh", width, self.ceiling.cold(width))
                    self.ceiling.let_go()

                _both(turn, we, they)
            self.seen.lap("cold", "ssh", 32, peers.xargs_ssh(self.fleet, self.folder, 32))
            if self.parallel_ssh:
                self.seen.lap("cold", "parallel-ssh", 32, self.parallel_ssh.cold(32))
                self.parallel_ssh.let_go()
            self._tell("cold", turn)

    def ansible(self) -> None:
        """Measure a first run, and a second one over the connections that OpenSSH keeps."""
        if self.programs is None:
            return
        ansible = peers.Ansible(self.programs / "ansible", self.fleet, self.folder)
        for turn in range(self.plan.ansible):
            try:
                self.seen.lap("cold", "ansible", 32, ansible.run(32))
                self.seen.lap("warm", "ansible", 32, ansible.run(32))
            finally:
                ansible.let_go()
            self.seen.strangers.append(busy_cores(0.5))
            say(
                f"ansible, round {turn + 1} of {self.plan.ansible}: {self.seen.rate('warm', 'ansible', 32):.0f}/s"
            )

    def answers(self) -> None:
        """Measure the latency for a single caller."""
        one = {"ids": [ours.SPARE]}
        for durable in ("off", "required"):
            job = ours.job(self.api, f"true-{durable}", one, 1, durable=durable, command="true")
            self.seen.commands[durable] = [
                ours.command_seconds(self.api, job) for _ in range(self.plan.streams)
            ]
        self.seen.dispatch = dispatch.posts(self.running, self.plan.posts)
        self.seen.first_bytes = dispatch.streams(self.running, self.plan.streams)
        say(
            f"POST {self.seen.dispatch.sequential.p50:.1f} ms, first output {self.seen.first_bytes.output.p50:.0f} ms"
        )

    def _tell(self, temperature: str, turn: int) -> None:
        self.seen.strangers.append(busy_cores(0.5))
        ratios = (self.seen.ratio(temperature, report.OURS, width) for width in (32, 200))
        so_far = ", ".join(f"{ratio:.2f}" for ratio in ratios if ratio is not None)
        say(f"{temperature}, round {turn + 1}: of bare asyncssh {so_far} (32, 200 parallel)")


def _both(turn: int, we: Callable[[], None], they: Callable[[], None]) -> None:
    """Measure both in turn; the order changes with each round."""
    for one in (we, they) if turn % 2 else (they, we):
        one()


@contextmanager
def _bench(seen: Figures, plan: Plan, folder: Path, fleet: Machines) -> Iterator[Bench]:
    programs = peers.environment()
    with ExitStack() as stack:
        running = stack.enter_context(ours.service(folder / "data"))
        seen.ready_existing.append(running.ready_seconds)
        api = running.api()
        jobs = {
            width: ours.job(api, f"echo-{width}", {"groups": ["bench"]}, width, durable="off")
            for width in WIDTHS
        }
        durable = {
            w: ours.job(api, f"durable-{w}", {"groups": ["bench"]}, w, durable="required")
            for w in (32, 200)
        }
        ceiling = stack.enter_context(peers.holder("asyncssh", sys.executable, fleet, folder))
        python = str(programs / "python") if programs else None
        other = (
            stack.enter_context(peers.holder("parallel-ssh", python, fleet, folder))
            if python
            else None
        )
        yield Bench(
            seen, plan, folder, fleet, running, api, jobs, durable, ceiling, other, programs
        )


@contextmanager
def _folder() -> Iterator[Path]:
    """Return a folder that PostgreSQL's user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="opsjobs-bench-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TimeUpError(BaseException):
    """The time is up: the report has the measurements so far."""


def _end_in_time(seconds: int) -> None:
    """Turn signals into an orderly end, so that everything started is ended."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise TimeUpError if number == signal.SIGALRM else SystemExit("bench: ended")

    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, leave)
    signal.alarm(seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="opsjobs beside bare asyncssh, OpenSSH, parallel-ssh and ansible"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under two minutes")
    parser.add_argument(
        "--output",
        type=Path,
        help="where the figures go (default: bench/RESULTS.md, with --quick nowhere)",
    )
    return parser.parse_args()


def _versions() -> dict[str, str]:
    ssh = (
        subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)
        .stderr.split(",")[0]
        .strip()
    )
    return {"asyncssh": importlib.metadata.version("asyncssh"), "": ssh.replace("_", " ")}


def _commit() -> str:
    asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return (
        subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        or "unknown"
    )


def say(line: str) -> None:
    """Print progress, apart from the figures."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
