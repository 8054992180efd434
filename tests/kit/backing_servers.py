"""Real servers: a PostgreSQL and a Valkey per process, a database per test.

TESTS_POSTGRES and TESTS_REDIS (`make test PG=15 REDIS=redis-server`) choose installed servers instead of the embedded ones.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg

from opsjobs.model.secret import Secret
from opsjobs.standalone.postgres import Postgres
from opsjobs.standalone.spawn import Owner
from opsjobs.standalone.valkey import Valkey
from opsjobs.store.migrations import runner

# The data is deleted after the tests, so nothing has to reach the disk.
CARELESS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "log_min_messages": "fatal",
}


_MEMORY = Path("/dev/shm")
_MEMORY_BYTES_AT_LEAST = 2 << 30


@contextmanager
def open_folder(place: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder that every user may enter, including the user of PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="opsjobs-test-", dir=place))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class InstalledPostgres(Postgres):
    """An installed PostgreSQL, 15 or later, managed like the embedded one."""

    _EMBEDDED_MAJOR_ONLY = ("io_method", "autovacuum_worker_slots")

    def __init__(self, data_dir: Path, *, binaries: Path, settings: Mapping[str, str]) -> None:
        super().__init__(data_dir, settings=settings)
        self._installed = binaries
        said = subprocess.run(
            [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"\d+", said)
        assert found is not None, said
        self._version = found[0]
        if int(self._version) < 18:
            self._settings = {
                k: v for k, v in self._settings.items() if k not in self._EMBEDDED_MAJOR_ONLY
            }
        if int(self._version) < 17:  # no provider `builtin`
            self._locale = ("--locale=C.UTF-8",)

    @property
    def _major(self) -> str:
        return self._version

    def _find_binaries(self, owner: Owner) -> Path:
        return self._installed


class InstalledRedis(Valkey):
    """An installed Redis, managed like the embedded Valkey."""

    def __init__(self, data_dir: Path, *, binary: Path) -> None:
        super().__init__(data_dir)
        self._installed = binary

    def _find_binary(self) -> Path:
        return self._installed


def make_postgres(folder: Path, settings: Mapping[str, str] = CARELESS) -> Postgres:
    """Return the chosen PostgreSQL, not started.

    It is the embedded one, Debian's (`15`), or that of a folder of programs.
    """
    chosen = os.environ.get("TESTS_POSTGRES", "")
    if not chosen:
        return Postgres(folder, settings=settings)
    binaries = Path(f"/usr/lib/postgresql/{chosen}/bin" if chosen.isdigit() else chosen)
    return InstalledPostgres(folder, binaries=binaries, settings=settings)


def make_valkey(folder: Path) -> Valkey:
    """Return the chosen Valkey or Redis, not started:

    the embedded one, or a program by name or path.
    """
    chosen = os.environ.get("TESTS_REDIS", "")
    if not chosen:
        return Valkey(folder)
    binary = shutil.which(chosen)
    assert binary is not None, f"TESTS_REDIS: there is no program {chosen}"
    return InstalledRedis(folder, binary=Path(binary))


# Signs the audit log of every database here; a test that seals rows has it among its keys.
AUDIT_KEY = Secret("YXVkaXRhdWRpdGF1ZGl0YXVkaXRhdWRpdGF1ZGl0YXU")


class Databases:
    """Clones of one migrated database, which is made anew after midnight: its partitions begin with its day."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count(1)
        self._day = self._migrate()
        self._admin = psycopg.connect(self.url_of("postgres"), autocommit=True)

    def _migrate(self) -> date:
        day = datetime.now(UTC).date()
        runner.upgrade(self._url, [AUDIT_KEY])
        return day

    def url_of(self, name: str) -> str:
        """Return the URL of another database on the same server."""
        return self._url.replace("@/opsjobs?", f"@/{name}?", 1)

    def create(self) -> str:
        """A new database with the schema of this release and nothing in it; its name."""
        if self._day != datetime.now(UTC).date():
            self.drop("opsjobs")
            self._admin.execute("create database opsjobs")
            self._day = self._migrate()
        name = f"test_{next(self._numbers)}"
        self._admin.execute(f"create database {name} template opsjobs strategy file_copy")
        return name

    def drop(self, name: str) -> None:
        """Drop the database, even if clients are still connected."""
        self._admin.execute(f"drop database if exists {name} with (force)")

    def close(self) -> None:
        """Close the connection to the server."""
        self._admin.close()


def memory() -> Path | None:
    """Return a folder in memory that is large enough for a test database, or None.

    Cloning there takes 13 ms, but 300 ms on a busy disk.
    """
    if not os.access(_MEMORY, os.W_OK):
        return None
    found = os.statvfs(_MEMORY)
    large = found.f_bavail * found.f_frsize >= _MEMORY_BYTES_AT_LEAST
    return _MEMORY if large and not found.f_flag & os.ST_NOEXEC else None


@contextmanager
def databases() -> Iterator[Databases]:
    """Yield a PostgreSQL with the migrated template; stop it after the block."""
    with open_folder(memory()) as folder:
        server = make_postgres(folder)
        made = None
        try:
            made = Databases(server.start())
            yield made
        finally:
            if made:
                made.close()
            server.stop(5)


@contextmanager
def valkey() -> Iterator[str]:
    """Start a Valkey for the test; yield its URL."""
    with open_folder() as folder:
        server = make_valkey(folder)
        try:
            yield server.start()
        finally:
            server.stop()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL that a test may kill and restart; its database `opsjobs` is empty."""
    with open_folder(memory()) as folder:
        server = make_postgres(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop(5)
