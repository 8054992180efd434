"""TCP access to the test's PostgreSQL, through a faulty proxy or a real PgBouncer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from kit.os_accounts import needs
from kit.ports import free_port
from kit.tcp_proxy import Proxy, proxy

ROLE = "opsjobs"
START_SECONDS = 30.0


def parts_of(url: str) -> tuple[str, str]:
    """Return the socket's folder and the database's name from an embedded server's URL."""
    found = urlsplit(url)
    return parse_qs(found.query)["host"][0], found.path.lstrip("/")


@asynccontextmanager
async def over_tcp(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Run a proxy in front of this server; yield it and the database's URL through it."""
    folder, name = parts_of(url)
    async with proxy(folder, 5432) as made:
        yield made, f"postgresql://{ROLE}@127.0.0.1:{made.port}/{name}?sslmode=disable"


@asynccontextmanager
async def pgbouncer(
    url: str, *, mode: str = "transaction", connections: int = 2, **settings: str
) -> AsyncIterator[str]:
    """Run a PgBouncer in front of the server of this URL, as installed except for its mode.

    Yields the URL of the same database through it.
    """
    program, (_, name) = needs("pgbouncer"), parts_of(url)
    async with over_tcp(url) as (server, _):
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="opsjobs-pgbouncer-") as folder:
            place = Path(folder)
            place.chmod(0o755)
            (place / "users").write_text(f'"{ROLE}" ""\n')
            chosen = {
                "listen_addr": "127.0.0.1",
                "listen_port": str(port),
                "unix_socket_dir": "",
                "auth_type": "trust",
                "auth_file": str(place / "users"),
                "pool_mode": mode,
                "default_pool_size": str(connections),
                **settings,
            }
            lines = [
                "[databases]",
                f"{name} = host=127.0.0.1 port={server.port} dbname={name}",
                "[pgbouncer]",
            ]
            lines += [f"{key} = {value}" for key, value in chosen.items()]
            (place / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
            # it refuses to run as root
            user = "nobody" if os.geteuid() == 0 else None
            process = subprocess.Popen(
                [program, "-q", str(place / "pgbouncer.ini")],
                user=user,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                await _listening(port)
                yield f"postgresql://{ROLE}@127.0.0.1:{port}/{name}?sslmode=disable"
            finally:
                process.kill()
                await asyncio.to_thread(process.wait)


async def _listening(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert time.monotonic() < deadline, f"PgBouncer does not listen on {port}"
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
