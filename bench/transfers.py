"""File transfers: one machine compared with OpenSSH's sftp and bare asyncssh, then one file to many machines, with the worker's memory.

`.venv/bin/python bench/transfers.py [--mib 100] [--machines 20] [--rounds 5] [--cut]` prints; nothing is written. `--cut`: every
machine's connection is broken once in the middle of the fan-out, and has to be resumed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncssh
import ours
from machines import Machines, machines
from processes import busy_cores, pss_bytes

SECONDS_MAX = 600
SAMPLE_SECONDS = 0.1


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--mib", type=int, default=100)
    asked.add_argument("--machines", type=int, default=20)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--cut", action="store_true")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="opsjobs-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        folder.chmod(0o755)
        place = folder / "targets"
        place.mkdir()
        place.chmod(0o777)
        with machines(options.machines, folder) as found, ours.service(folder / "data") as running:
            ours.register(running, found)
            print(f"{busy_cores(2):.2f} cores busy before anything is measured", flush=True)
            Bench(folder, place, found, running, options.mib).measure(
                options.rounds, options.machines, cut=options.cut
            )


class Bench:
    """One file of so many MiB, and the tools that transfer it."""

    def __init__(
        self, folder: Path, place: Path, found: Machines, running: ours.Service, mib: int
    ) -> None:
        self.folder, self.place, self.found, self.running, self.mib = (
            folder,
            place,
            found,
            running,
            mib,
        )
        self.api = running.api()
        self.cut = 0
        self.due_seconds = 0.0
        self.file = folder / "file"
        self.file.write_bytes(random.Random(1).randbytes(mib << 20))

    def measure(self, rounds: int, count: int, *, cut: bool) -> None:
        began = time.perf_counter()
        source = self.post()
        print(f"POST /files: {self.mib / (time.perf_counter() - began):.0f} MiB/s", flush=True)
        for what in ("upload", "download"):
            rows = [
                (self.sftp(what, n), self.bare(what, n), self.ours(what, source, n))
                for n in range(rounds + 1)
            ][1:]
            rates = " MiB/s, ".join(
                f"{who} {self.mib / statistics.median(column):.0f}"
                for who, column in zip(
                    ("sftp", "bare asyncssh", "opsjobs"), zip(*rows, strict=True), strict=True
                )
            )
            of_sftp, of_bare = (statistics.median(row[n] / row[2] for row in rows) for n in (0, 1))
            print(
                f"{what}: {rates} MiB/s: {of_sftp:.2f} of sftp, {of_bare:.2f} of bare asyncssh",
                flush=True,
            )
        self.fan_out(source, count, cut=cut)

    def post(self) -> str:
        connection = http.client.HTTPConnection(self.running.host, self.running.port, timeout=300)
        headers = {
            "Authorization": f"Bearer {self.running.token}",
            "Content-Type": "application/octet-stream",
        }
        with self.file.open("rb") as body:
            connection.request("POST", "/files?name=bench", body, headers)
            answer = connection.getresponse()
            stored: dict[str, Any] = json.loads(answer.read())
        assert answer.status == 201, stored
        return str(stored["id"])

    def sftp(self, what: str, n: int) -> float:
        """Run OpenSSH's sftp over a new connection; return the seconds for the file, without the login."""
        machine = self.found.all[0]
        there, here = self.place / f"sftp-{what}-{n}", self.folder / f"got-{n}"
        if what == "download":
            there.write_bytes(self.file.read_bytes())
            there.chmod(0o644)
        line = f"put {self.file} {there}" if what == "upload" else f"get {there} {here}"
        spent = self._sftp(machine, line) - self._sftp(machine, "pwd")
        for made in (there, here):
            made.unlink(missing_ok=True)
        return spent

    def _sftp(self, machine: Any, line: str) -> float:
        known = f"UserKnownHostsFile={self.found.known_hosts}"
        options = [
            "-o",
            known,
            "-o",
            "Ciphers=aes128-gcm@openssh.com",
            "-o",
            f"IdentityFile={self.found.key_file}",
        ]
        command = [
            "sftp",
            "-q",
            "-F",
            "none",
            *options,
            "-P",
            str(machine.port),
            "-b",
            "-",
            f"{self.found.user}@{machine.host}",
        ]
        began = time.perf_counter()
        subprocess.run(command, input=line.encode(), check=True, capture_output=True)
        return time.perf_counter() - began

    def bare(self, what: str, n: int) -> float:
        """Copy by bare asyncssh with its defaults and without checks; return the seconds without the login."""
        there, here = self.place / f"bare-{what}-{n}", self.folder / f"got-{n}"
        if what == "download":
            there.write_bytes(self.file.read_bytes())
            there.chmod(0o644)
        spent = asyncio.run(self._bare(what, there, here))
        for made in (there, here):
            made.unlink(missing_ok=True)
        return spent

    async def _bare(self, what: str, there: Path, here: Path) -> float:
        machine = self.found.all[0]
        to = {
            "username": self.found.user,
            "client_keys": [str(self.found.key_file)],
            "known_hosts": str(self.found.known_hosts),
        }
        ciphers = ["aes128-gcm@openssh.com"]
        async with asyncssh.connect(
            machine.host, machine.port, **to, encryption_algs=ciphers, config=None, agent_path=None
        ) as wire:
            began = time.perf_counter()
            async with wire.start_sftp_client() as client:
                await (
                    client.put(str(self.file), str(there))
                    if what == "upload"
                    else client.get(str(there), str(here))
                )
            return time.perf_counter() - began

    def ours(self, what: str, source: str, n: int) -> float:
        """Execute on one machine; return the seconds from start to end of the action, as seen by the worker."""
        there = self.place / f"ours-{what}-{n}"
        if what == "upload":
            action = {"direction": "upload", "source": source, "destination": str(there)}
        else:
            there.write_bytes(
                random.Random(n).randbytes(self.mib << 20)
            )  # known content would be stored only once
            there.chmod(0o644)
            action = {"direction": "download", "source": str(there)}
        (seconds,) = self._transfer(action, [self.found.all[0].name], self.due_seconds).values()
        self.due_seconds = seconds
        there.unlink()
        return seconds

    def _transfer(
        self, action: dict[str, Any], names: list[str], due_seconds: float = 0.0
    ) -> dict[str, float]:
        """Return the seconds of each machine's action, as seen by the worker. Polls only when the end is due, to save CPU."""
        body = {
            "actions": [{"type": "file_transfer", "timeout": "10m", **action}],
            "targets": {"ids": names},
        }
        execution = self.api.call("POST", "/run", {**body, "policy": {"max_parallel": len(names)}})
        deadline = time.monotonic() + SECONDS_MAX
        time.sleep(due_seconds)
        while self.api.call("GET", f"/executions/{execution['id']}")["finished_at"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        items = self.api.call("GET", f"/executions/{execution['id']}/results?limit=200")["items"]
        assert all(item["status"] == "succeeded" for item in items), [
            item["error"] for item in items
        ]
        return {item["target"]["name"]: _seconds(item) for item in items}

    def fan_out(self, source: str, count: int, *, cut: bool) -> None:
        names = [machine.name for machine in self.found.all[:count]]
        (worker,) = self.running.children()["worker"]
        with peak(worker) as memory, self._cuts(cut):
            began = time.perf_counter()
            self._transfer(
                {
                    "direction": "upload",
                    "source": source,
                    "destination": str(self.place / "fan-${target.name}"),
                },
                names,
            )
            seconds = time.perf_counter() - began
        wanted = self.file.read_bytes()
        assert all((self.place / f"fan-{name}").read_bytes() == wanted for name in names)
        rate = self.mib * count / seconds
        grown = (memory.most - memory.before) / (1 << 20)
        cuts = f", {self.cut} connections cut in the middle" if cut else ""
        print(
            f"one file to {count} machines{cuts}: {rate:.0f} MiB/s in all, worker {memory.most >> 20} MiB, grown by {grown:.0f} MiB"
        )

    @contextmanager
    def _cuts(self, wanted: bool) -> Iterator[None]:
        """End every connection's server process once, when the first drafts are half written."""
        if not wanted:
            yield
            return
        thread = threading.Thread(target=self._cut_all, daemon=True)
        thread.start()
        yield
        thread.join(1)

    def _cut_all(self) -> None:
        half, deadline = (self.mib << 20) // 2, time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(size(draft) > half for draft in self.place.glob(".opsjobs-*.part")):
                for pid, command in _processes():
                    if command.startswith("sshd") and f"{self.found.user}@notty" in command:
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, 9)
                            self.cut += 1
                return
            time.sleep(0.02)


def size(path: Path) -> int:
    """Return the size; 0 if the file is deleted."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _processes() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield (
                    int(entry.name),
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"),
                )


class Memory:
    """Memory of a process: before, and its maximum."""

    def __init__(self, before: int) -> None:
        self.before = self.most = before


@contextmanager
def peak(pid: int) -> Iterator[Memory]:
    """Sample the memory of a process."""
    memory, over = Memory(pss_bytes(pid)), threading.Event()

    def look() -> None:
        while not over.wait(SAMPLE_SECONDS):
            memory.most = max(memory.most, pss_bytes(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield memory
    over.set()
    thread.join()


def _seconds(item: dict[str, Any]) -> float:
    begun, ended = (datetime.fromisoformat(item[name]) for name in ("started_at", "finished_at"))
    return (ended - begun).total_seconds()


if __name__ == "__main__":
    main()
