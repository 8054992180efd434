"""Machines that can be switched off, each with an sshd.

As root, each also has processes, a home and a boot id of its own.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster import authorize_login
from e2e.processes import wait_until
from kit import sshd as kit
from kit.sshd import Sshd
from opsjobs.standalone.spawn import bare_environment, spawn

HOME_MIB = 24
LARGE_BYTES = 4_096
IS_ROOT = os.geteuid() == 0
"""Only root can create such machines; without root, all of them share this one."""

# The first process of a machine: it mounts home and boot id, and reaps orphans.
_INIT = """
import os, subprocess, sys, time
for source, place in zip(sys.argv[1::2], sys.argv[2::2]):
    subprocess.run(["mount", "--bind", source, place], check=True)
print("up", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
"""
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS
_PRIVATE = 0x44000  # MS_REC | MS_PRIVATE
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass
class Machine:
    """A machine with several addresses; `folder` holds what stays when it is switched off."""

    server: Sshd
    folder: Path
    _init: subprocess.Popen[bytes] | None = None
    _filler: Path = field(init=False)
    booted_at: float = field(default=0.0, init=False)
    """The time when it was last switched on (monotonic)."""

    def __post_init__(self) -> None:
        self._filler = self.home / "filler"
        self.server.stop()
        self.boot()

    @property
    def addresses(self) -> Sequence[str]:
        """The addresses where it listens."""
        return self.server.addresses

    @property
    def home(self) -> Path:
        """The home of the account that logs in, seen from outside."""
        return self.folder / "home" if IS_ROOT else Path.home()

    @property
    def runs(self) -> list[Path]:
        """The folder of its durable runs: in the home, or elsewhere if that is read-only."""
        return [self.home / ".opsjobs" / "runs", *(self.folder / "tmp").glob("opsjobs-*/runs")]

    # Power.

    def boot(self) -> None:
        """Switch it on, with a new boot id."""
        if IS_ROOT:
            (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
            home = pwd.getpwnam(self.server.user).pw_dir
            binds = [
                str(self.home),
                home,
                str(self.folder / "tmp"),
                "/var/tmp",
                str(self.folder / "boot_id"),
                _BOOT_ID,
            ]
            isolated = [
                "/usr/bin/unshare",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "--kill-child",
            ]
            log = self.folder / "init.log"
            log.unlink(missing_ok=True)
            command = [*isolated, sys.executable, "-ISc", _INIT, *binds]
            self._init = spawn(command, log=log, environment=bare_environment())
            wait_until(lambda: "up" in log.read_text(), "a machine is up")
            self.booted_at = time.monotonic()
        self.start_sshd()

    def power_off(self) -> None:
        """End all its processes at once, without a goodbye."""
        if self._init is not None:
            self._init.kill()
            self._init.wait()
            self._init = None
            return
        for pid in [*self.sessions(), *self.listeners()]:
            kill(pid)

    # sshd.

    def start_sshd(self) -> None:
        """Start to listen."""
        folder = self.server.folder
        command = [str(kit.BINARY), "-f", f"{folder}/sshd_config", "-E", f"{folder}/sshd.log"]
        subprocess.run([*self._inside(), *command], check=True, stdin=subprocess.DEVNULL)
        wait_until(self._listens, f"sshd listens: {self.server.log}")

    def _listens(self) -> bool:
        with (
            suppress(OSError),
            socket.create_connection((self.server.host, self.server.port), timeout=1),
        ):
            return True
        return False

    def stop_sshd(self, *, sessions: bool) -> None:
        """Kill the listener, and if requested the open sessions."""
        kill_all([*self.listeners(), *(self.sessions() if sessions else ())], "sshd")
        wait_until(lambda: not self.listeners(), "sshd is gone")

    def listeners(self) -> list[int]:
        """Return the processes that accept connections."""
        mark = f"{self.server.folder}/sshd_config".encode()
        return [
            pid
            for pid in self.processes()
            if mark in _read(pid, "cmdline") and _name(pid) == "sshd"
        ]

    def sessions(self) -> list[int]:
        """Return the processes of connections."""
        listeners = self.listeners()
        return [
            pid
            for pid in self.processes()
            if _name(pid).startswith("sshd") and pid not in listeners and self._ours(pid)
        ]

    def processes(self) -> list[int]:
        """Return all its processes, by their ids on this machine.

        If the machines share one, these are all of that.
        """
        pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
        if not IS_ROOT:
            return pids
        inside = self._space()
        return [pid for pid in pids if _link(pid, "ns/pid") == inside] if inside else []

    def _ours(self, pid: int) -> bool:
        return IS_ROOT or any(
            str(self.server.folder).encode() in _read(p, "cmdline") for p in _ancestors(pid)
        )

    def _space(self) -> str:
        init = self._init_pid()
        return _link(init, "ns/pid") if init else ""

    def _init_pid(self) -> int:
        if self._init is None:
            return 0
        children = _read(self._init.pid, f"task/{self._init.pid}/children").split()
        return int(children[0]) if children else 0

    def _inside(self) -> list[str]:
        return (
            ["/usr/bin/nsenter", "-t", str(self._init_pid()), "-m", "-p", "--"] if IS_ROOT else []
        )

    # Disk.

    def fill_disk(self) -> None:
        """Fill its home to the last block. Only if the home is its own."""
        assert IS_ROOT
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def free_disk(self) -> None:
        """Free the space again."""
        self._filler.unlink(missing_ok=True)

    def forget_output(self) -> None:
        """Remove the files of ended runs, so that the disk does not fill by itself."""
        for path in (path for runs in self.runs for path in runs.glob("*.[12]")) if IS_ROOT else ():
            if path.stat().st_size > LARGE_BYTES:
                path.unlink(missing_ok=True)

    def copy_records(self, place: Path) -> None:
        """Return the files of its runs, without their output."""
        for number, runs in enumerate(self.runs):
            if runs.exists():
                shutil.copytree(runs, place / str(number), ignore=shutil.ignore_patterns("*.[12]"))

    def written(self, key: str) -> tuple[bytes, bytes]:
        """Return the output of a run that the machine keeps."""
        for runs in self.runs:
            first, second = (runs / f"{key}.{number}" for number in (1, 2))
            if first.exists() and second.exists():
                return first.read_bytes(), second.read_bytes()
        return b"", b""

    # Runs.

    def lose_store(self) -> None:
        """Replace the spool, as if its home were a new one."""
        (self.home / ".opsjobs").rename(self.home / f".opsjobs.{uuid.uuid4()}")

    def keepers(self) -> dict[int, str]:
        """Return the processes that wait for a command's end, each with its run's key."""
        commands = self.durable_processes()
        parents = {pid: parent_of(pid) for pid in commands}
        return {
            parents[pid]: key
            for pid, key in commands.items()
            if parents[pid] not in commands and parents[pid] > 1
        }

    def durable_processes(self) -> dict[int, str]:
        """Return the processes of durable runs, each with the run's key."""
        found = {}
        for pid in self.processes():
            environment = _read(pid, "environ").split(b"\0")
            key = next(
                (entry[12:].decode() for entry in environment if entry.startswith(b"OPSJOBS_RUN=")),
                "",
            )
            if key:
                found[pid] = key
        return found

    def heal(self) -> None:
        """Restore what was taken away."""
        self.free_disk()
        if IS_ROOT and self._init is None:
            self.boot()
        elif not self.listeners():
            self.start_sshd()


@contextmanager
def machines(shares: Sequence[Sequence[str]], folder: Path) -> Iterator[list[Machine]]:
    """Run machines with these addresses, all with the first one's key to log in."""
    with ExitStack() as stack:
        found: list[Machine] = []
        for number, addresses in enumerate(shares, start=1):
            server = stack.enter_context(kit.sshd(addresses=addresses, host_key_types=("ed25519",)))
            place = folder / f"machine-{number}"
            _furnish(place, server.user, stack)
            machine = Machine(server, place)
            stack.callback(machine.power_off)
            found.append(machine)
        for machine in found[1:]:
            authorize_login(machine.server, found[0].server)
        yield found


def _furnish(place: Path, user: str, stack: ExitStack) -> None:
    place.mkdir(mode=0o755)
    if not IS_ROOT:
        return
    home, account = place / "home", pwd.getpwnam(user)
    home.mkdir()
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o1777)
    owner = f"uid={account.pw_uid},gid={account.pw_gid},mode=700"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={HOME_MIB}m,{owner}", "tmpfs", str(home)], check=True
    )
    stack.callback(subprocess.run, ["umount", "--lazy", str(home)], check=False)


def keep_mounts_to_ourselves() -> None:
    """Mount in a namespace of this thread and its children from now on.

    The mounts disappear with them, whatever ends them.
    """
    if IS_ROOT:
        libc = ctypes.CDLL(None, use_errno=True)
        private = (
            libc.unshare(_NEW_MOUNTS) == 0 and libc.mount(b"none", b"/", None, _PRIVATE, None) == 0
        )
        assert private, os.strerror(ctypes.get_errno())


def kill(pid: int) -> None:
    """Kill it at once, if it still exists."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all(pids: Sequence[int], name: str) -> None:
    """Kill at once those that still have this name.

    One that has become a login's shell meanwhile may keep a run.
    """
    stopped = [pid for pid in pids if _send(pid, signal.SIGSTOP)]
    wait_until(lambda: all(_standing(pid) for pid in stopped), "they stand still")
    for pid in stopped:
        _send(pid, signal.SIGKILL if _name(pid).startswith(name) else signal.SIGCONT)


def _standing(pid: int) -> bool:
    return _read(pid, "stat").rpartition(b") ")[2][:1] in (b"T", b"Z", b"X", b"")


def _send(pid: int, what: signal.Signals) -> bool:
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def _name(pid: int) -> str:
    return _read(pid, "comm").decode(errors="replace").strip()


def _link(pid: int, what: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/{what}").readlink())
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    """Return the process that started it, or has adopted it; 0 if there is none."""
    status = _read(pid, "status").decode(errors="replace").splitlines()
    return next((int(line.split()[1]) for line in status if line.startswith("PPid:")), 0)


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        pid = parent_of(pid)
