"""Point 25: silent and slow connections take no room from others."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from kit.ports import free_port
from opsjobs.api.connections import ConnectionLimits, HttpConnection, backlog_of, most_of
from opsjobs.store.envelope import new_key

START_SECONDS = 90
SERVE = "import sys; from opsjobs.settings import load; from opsjobs.api.app import serve; sys.exit(serve(load()))"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Respond to every request with two bytes."""
    assert scope["type"] == "http"
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(**how: Any) -> AsyncIterator[int]:
    """Serve `hello`; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            hello,
            http=partial(HttpConnection, **how),
            lifespan="off",
            log_config=None,
            access_log=False,
        )  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def dropped(port: int, first: bytes, drip: bytes) -> bool:
    """Send `first`, then a byte of `drip` repeatedly; return True if the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)

    async def go_on() -> None:
        while True:
            writer.write(drip)
            await writer.drain()
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(go_on())
    try:
        async with asyncio.timeout(60):
            while await reader.read(1_000):
                pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()


WAYS = {
    "nothing": (b"", b""),
    "headers without an end": (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"a"),
    "a second request without an end": (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX: ",
        b"a",
    ),
    "a body that goes on after the answer": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n",
        b"a",
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_on_which_no_request_is_served_is_closed_in_time(
    way: str,
) -> None:
    async with served(header_seconds=0.3) as port:
        assert await dropped(port, *WAYS[way])


async def test_a_request_that_is_being_served_has_no_such_time() -> None:
    begun, go_on, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await go_on.wait()
        await hello(scope, receive, send)

    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), timeout=30) as client,
    ):
        # It is all there before the server looks: no pause of this machine comes in between.
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        client.setblocking(False)
        factory: Any = partial(HttpConnection, header_seconds=0.05)
        server = uvicorn.Server(
            uvicorn.Config(slow, http=factory, lifespan="off", log_config=None, access_log=False)
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        async with asyncio.timeout(60):
            await begun.wait()
            await asyncio.sleep(0.5)
            go_on.set()
            answer = b""
            while piece := await loop.sock_recv(client, 1_000):
                answer += piece
        assert answer.endswith(b"\r\n\r\nok")
        server.should_exit = True
        await serving


class NumberedConnections:
    """Return limits with numbered connections, and a list of those that were dropped."""

    def __init__(self, **how: Any) -> None:
        self.limits = ConnectionLimits(**how)
        self.gone: list[int] = []
        self.count = 0

    def enter(self, address: str) -> Any:
        self.count += 1
        number = self.count
        return self.limits.enter(address, lambda: self.gone.append(number))


def test_an_address_has_a_share_and_its_oldest_silent_connection_makes_room() -> None:
    table = NumberedConnections(most=100, per_address=2)
    first, _ = table.enter("203.0.113.1"), table.enter("203.0.113.1")
    table.limits.serves(first)
    assert table.enter("203.0.113.1") is not None
    assert table.gone == [2], "the one that is served stays"
    other = table.enter("203.0.113.2")
    table.limits.leave(other)
    table.limits.leave(other)
    assert table.enter("203.0.113.2") is not None
    assert table.gone == [2]


def test_where_all_of_an_address_are_served_one_more_is_refused_and_others_come_in() -> None:
    table = NumberedConnections(most=100, per_address=1)
    table.limits.serves(table.enter("2001:db8::1"))
    assert table.enter("2001:db8::2") is None, "one /64 is one address"
    assert table.gone == [2]
    assert table.enter("2001:db8:0:1::1") is not None


def test_loopback_and_trusted_proxies_speak_for_many_and_share_the_whole() -> None:
    table = NumberedConnections(most=4, per_address=1, trusted=[ipaddress.ip_network("10.0.0.0/8")])
    for address in ("127.0.0.1", "10.0.0.1", "127.0.0.1", "10.0.0.1"):
        assert table.enter(address) is not None
    assert table.gone == []
    assert table.enter("198.51.100.7") is not None
    assert table.gone == [1], "the process as a whole is full: the oldest silent one goes"


def test_what_a_process_takes_leaves_descriptors_for_everything_else() -> None:
    for descriptors in (300, 1_024, 4_096, 1 << 20):
        assert most_of(descriptors) + backlog_of(descriptors) < descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_probes_are_answered_while_1100_silent_connections_are_open(
    database_url: str, tmp_path: Path
) -> None:
    token, port = "opsc_" + "a" * 43, free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OPSJOBS_")},
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DATABASE_URL": database_url,
        "ENCRYPTION_KEYS": new_key().reveal(),
        "OPSJOBS_ADMIN_TOKEN": token,
        "OPSJOBS_API_PORT": str(port),
    }
    command = ["/bin/sh", "-c", 'ulimit -n 1024; exec "$@"', "-", sys.executable, "-c", SERVE]
    silent: list[socket.socket] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            until_it_answers(process, http, tmp_path / "log")
            for _ in range(1_100):
                silent.append(socket.create_connection(("127.0.0.1", port), timeout=30))
        for _ in range(3):
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                assert http.get("/livez").status_code == 200
                assert http.get("/readyz").status_code == 200
                assert (
                    http.get("/jobs", headers={"Authorization": f"Bearer {token}"}).status_code
                    == 200
                )
        assert len([*Path(f"/proc/{process.pid}/fd").iterdir()]) < 1_024
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        for one in silent:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    logged = (tmp_path / "log").read_text()
    assert "Traceback" not in logged
    assert "connections_dropped" in logged
    assert len(logged) < 100_000


def until_it_answers(process: subprocess.Popen[bytes], http: httpx2.Client, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if http.get("/readyz").status_code == 200:
                return
        except httpx2.ConnectError:
            time.sleep(0.05)
    raise AssertionError(f"no answer within {START_SECONDS} s: {log.read_text()}")
