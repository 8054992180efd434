"""The peers: bare asyncssh, parallel-ssh, OpenSSH under xargs, ansible raw, each in processes of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from machines import Machines

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opsjobs-bench"
ROUND_SECONDS_MAX = 120


@dataclass(frozen=True, slots=True)
class Lap:
    """One round over all machines: wall seconds, and CPU seconds of the client's processes."""

    seconds: float
    cpu: float


def environment() -> Path | None:
    """The `bin` folder of the peers' own environment, created at the first run; None if it cannot be created."""
    wanted = HERE / "requirements.txt"
    mark = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:16]
    home = CACHE / f"venv-{mark}"
    if not (home / "complete").exists():
        print(f"bench: installing the peers into {home}", file=sys.stderr)
        try:
            subprocess.run(
                [sys.executable, "-m", "venv", "--clear", str(home)],
                check=True,
                capture_output=True,
            )
            subprocess.run(
                [str(home / "bin/pip"), "install", "-q", "-r", str(wanted)],
                check=True,
                capture_output=True,
            )
        except subprocess.CalledProcessError as failed:
            print(
                f"bench: without ansible and parallel-ssh: {failed.stderr.decode(errors='replace')[-300:]}",
                file=sys.stderr,
            )
            return None
        (home / "complete").touch()
    return home / "bin"


class Holder:
    """A peer that can hold its connections between rounds."""

    def __init__(self, process: subprocess.Popen[str], count: int) -> None:
        self._process = process
        self._count = count

    def cold(self, parallel: int) -> Lap:
        """Run a round that begins without any connection."""
        return self._ask(f"cold {parallel}")

    def warm(self, parallel: int) -> Lap:
        """Run a round over the connections of the last one."""
        return self._ask(f"warm {parallel}")

    def let_go(self) -> None:
        """Close the connections."""
        self._ask("close")

    def _ask(self, order: str) -> Lap:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer died during {order}: exit code {self._process.wait()}")
        answer = json.loads(line)
        if answer["bad"]:
            raise RuntimeError(
                f"{order}: {len(answer['bad'])} of {self._count} machines did not say ok: {answer['bad'][:3]}"
            )
        return Lap(answer["seconds"], answer["cpu"])


@contextmanager
def holder(kind: str, python: str, machines: Machines, folder: Path) -> Iterator[Holder]:
    """asyncssh or parallel-ssh, for the length of the block."""
    plan = folder / "machines.json"
    plan.write_text(
        json.dumps(
            {"user": machines.user, "machines": [asdict(machine) for machine in machines.all]}
        )
    )
    command = [python, str(HERE / "holding.py"), kind, str(machines.key_file), str(plan)]
    with (folder / f"{kind}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield Holder(process, len(machines.all))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def xargs_ssh(machines: Machines, folder: Path, parallel: int) -> Lap:
    """Run one `ssh` process for each machine, always cold."""
    script = (
        f'exec ssh -F none -p "$1" -i {machines.key_file} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes '
        f'-o UserKnownHostsFile={machines.known_hosts} -o ControlPath=none {machines.user}@"$0" echo ok'
    )
    lines = "".join(f"{machine.host} {machine.port}\n" for machine in machines.all)
    said, lap = _timed(
        ["xargs", "-P", str(parallel), "-L", "1", "sh", "-c", script], {}, folder, lines
    )
    _all_said_ok("ssh", said.count("ok\n"), len(machines.all), said)
    return lap


@dataclass(frozen=True, slots=True)
class Ansible:
    """`ansible -m raw`, with its own defaults: a first run connects, the next ones use OpenSSH's ControlPersist."""

    program: Path
    machines: Machines
    folder: Path

    def run(self, forks: int) -> Lap:
        """Run `echo ok` on every machine."""
        inventory = self.folder / "inventory.ini"
        inventory.write_text(
            "[all]\n" + "".join(f"{m.host} ansible_port={m.port}\n" for m in self.machines.all)
        )
        command = [
            str(self.program),
            "all",
            "-i",
            str(inventory),
            "-m",
            "raw",
            "-a",
            "echo ok",
            "-f",
            str(forks),
            "-o",
        ]
        said, lap = _timed(
            [*command, "-u", self.machines.user, "--private-key", str(self.machines.key_file)],
            self._environment(),
            self.folder,
        )
        _all_said_ok("ansible", said.count("rc=0"), len(self.machines.all), said)
        return lap

    def let_go(self) -> None:
        """End OpenSSH's masters."""
        sockets = [str(path) for path in (self.folder / "cp").glob("*")]
        end = 'ssh -F none -O exit -o ControlPath="$0" nobody >/dev/null 2>&1 || true'
        if sockets:
            subprocess.run(
                ["xargs", "-P", "8", "-L", "1", "sh", "-c", end],
                input="\n".join(sockets),
                text=True,
                check=False,
            )

    def _environment(self) -> dict[str, str]:
        known = f"-o UserKnownHostsFile={self.machines.known_hosts} -o IdentitiesOnly=yes"
        (self.folder / "ansible.cfg").write_text("[defaults]\n")
        return {
            "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "ansible"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
            "ANSIBLE_SSH_COMMON_ARGS": known,
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }


def _timed(
    command: Sequence[str], environment: dict[str, str], folder: Path, given: str = ""
) -> tuple[str, Lap]:
    """Run it; return its output, its wall time, and the CPU time of it and its children."""
    with (folder / "said").open("w+") as said, (folder / "given").open("w+") as stdin:
        stdin.write(given)
        stdin.seek(0)
        before, began = os.times(), time.perf_counter()
        subprocess.run(
            command,
            stdin=stdin,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            timeout=ROUND_SECONDS_MAX,
            check=False,
        )
        seconds, after = time.perf_counter() - began, os.times()
        said.seek(0)
        cpu = (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        return said.read(), Lap(seconds, cpu)


def _all_said_ok(who: str, good: int, count: int, said: str) -> None:
    if good != count:
        raise RuntimeError(f"{who}: {good} of {count} machines said ok: {said[-500:]}")
