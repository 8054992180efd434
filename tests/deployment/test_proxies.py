"""The proxy files of deploy/proxy, run: streams pass at once in both directions.

No address can be forged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from kit.ports import free_port
from opsjobs.standalone.spawn import bare_environment

PROXY = Path(__file__).parents[2] / "deploy" / "proxy"
SECONDS = 60.0


class Upstream:
    """A stand-in for the API: reports what it was sent, and keeps a stream and an upload open."""

    def __init__(self) -> None:
        self.port = 0
        self.go_on = asyncio.Event()
        self.first_bytes = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await self._respond(head, reader, writer)
        writer.close()

    async def _respond(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if head.startswith("GET /events"):
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            writer.write(b"9\r\ndata: 1\n\n\r\n")
            await writer.drain()
            await self.go_on.wait()
            writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
            return
        if head.startswith("POST /files"):
            size = int(re.findall(r"(?im)^content-length: (\d+)", head)[0])
            first = await reader.read(1)
            self.first_bytes.set()
            await reader.readexactly(size - len(first))
        lines = (line.partition(": ") for line in head.split("\r\n")[1:] if line)
        body = json.dumps({name.lower(): value for name, _, value in lines}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@contextmanager
def running(*command: str, folder: Path) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            command,
            cwd=folder,
            stdout=out,
            stderr=out,
            env={**bare_environment(), "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        )
    try:
        yield
    finally:
        ended_by_itself = started.poll() is not None
        started.terminate()
        started.wait(SECONDS)
        assert not ended_by_itself, log.read_text()


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[tuple[int, ssl.SSLContext | None]]:
    """Run nginx with our file, except for its ports and certificates."""
    port, plain = free_port(), free_port()
    key, certificate = folder / "privkey.pem", folder / "fullchain.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-subj", "/CN=jobs.example.org", "-days", "2"],
        check=True, capture_output=True,
    )  # fmt: skip
    ours = (PROXY / "nginx.conf").read_text()
    for found, instead in (
        (r"listen \[::\].*\n", ""),
        (r"listen 80;", f"listen 127.0.0.1:{plain};"),
        (r"listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (r"/etc/ssl/opsjobs", str(folder)),
        (r"127\.0\.0\.1:8003", f"127.0.0.1:{upstream}"),
    ):
        ours, times = re.subn(found, instead, ours)
        assert times, found
    paths = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; user root; events {{}}"
        f" http {{ access_log off; {paths}\n{ours}\n}}"
    )
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    with running("nginx", "-c", str(folder / "nginx.conf"), folder=folder):
        yield port, context


@contextmanager
def caddy(folder: Path, upstream: int) -> Iterator[tuple[int, ssl.SSLContext | None]]:
    """Run Caddy with our file, except for its address, which has no TLS.

    That would need a public name.
    """
    port = free_port()
    ours = (PROXY / "Caddyfile").read_text()
    assert "\njobs.example.org {" in ours
    ours = ours.replace("\njobs.example.org {", f"\nhttp://:{port} {{\n\tbind 127.0.0.1")
    ours = ours.replace("127.0.0.1:8003", f"127.0.0.1:{upstream}")
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + ours)
    with running(
        "caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile",
        folder=folder,
    ):  # fmt: skip
        yield port, None


Proxy = Callable[[Path, int], contextlib.AbstractContextManager[tuple[int, ssl.SSLContext | None]]]


@asynccontextmanager
async def proxied(
    proxy: Proxy, folder: Path
) -> AsyncIterator[tuple[Upstream, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield the upstream, and a connection to the proxy in front of it."""
    name = proxy.__name__
    if shutil.which(name) is None:
        pytest.skip(f"this machine cannot run {name}: it is not installed")
    upstream = Upstream()
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    with proxy(folder, upstream.port) as (port, context):
        reader, writer = await connect(port, context)
        try:
            yield upstream, reader, writer
        finally:
            writer.transport.abort()
            upstream.go_on.set()
            server.close()


async def connect(
    port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port, ssl=context)
            except OSError:
                await asyncio.sleep(0.05)


async def read(reader: asyncio.StreamReader, end: bytes) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await reader.readuntil(end)


BOTH = pytest.mark.parametrize("proxy", [nginx, caddy], ids=["nginx", "caddy"])


@BOTH
async def test_an_event_passes_while_the_stream_is_open(proxy: Proxy, tmp_path: Path) -> None:
    async with proxied(proxy, tmp_path) as (upstream, reader, writer):
        writer.write(
            b"GET /events HTTP/1.1\r\nHost: jobs.example.org\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        assert b" 200 " in await read(reader, b"\r\n")
        await read(reader, b"data: 1\n\n")
        assert not upstream.go_on.is_set()
        upstream.go_on.set()
        await read(reader, b"data: 2\n\n")


@BOTH
async def test_a_client_cannot_forge_its_address(proxy: Proxy, tmp_path: Path) -> None:
    async with proxied(proxy, tmp_path) as (_, reader, writer):
        writer.write(
            b"GET /headers HTTP/1.1\r\nHost: jobs.example.org\r\nX-Forwarded-For: 198.51.100.7\r\n"
            b"X-Forwarded-Proto: gopher\r\n\r\n"
        )
        head = (await read(reader, b"\r\n\r\n")).decode().lower()
        size = int(re.findall(r"content-length: (\d+)", head)[0])
        sent = json.loads(await reader.readexactly(size))
        assert sent["x-forwarded-for"] == "127.0.0.1"
        assert sent["x-forwarded-proto"] == ("https" if proxy is nginx else "http")
        assert sent["host"] == "jobs.example.org"
        assert "strict-transport-security: max-age=31536000" in head


@BOTH
async def test_an_upload_passes_as_it_comes(proxy: Proxy, tmp_path: Path) -> None:
    size = 4 << 20
    async with proxied(proxy, tmp_path) as (upstream, reader, writer):
        writer.write(
            b"POST /files HTTP/1.1\r\nHost: jobs.example.org\r\nContent-Length: %d\r\n\r\n" % size
        )
        writer.write(b"x" * (size // 2))
        async with asyncio.timeout(SECONDS):
            await upstream.first_bytes.wait()
        writer.write(b"x" * (size // 2))
        assert b" 200 " in await read(reader, b"\r\n")
