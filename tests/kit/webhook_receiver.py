"""A receiver of webhooks: real HTTP on loopback, verified as Standard Webhooks prescribes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks.webhooks import Webhook

Reply = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Received:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The CloudEvent."""
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def type(self) -> str:
        """Its type, `<noun>.<verb>`."""
        kind: str = self.event["type"]
        return kind.removeprefix("io.opsconductor.").removesuffix(".v1")

    def verify(self, secret: str) -> None:
        """Raise WebhookVerificationError unless it is signed with this secret."""
        Webhook(secret).verify(self.body, self.headers)


@dataclass
class ReceiverServer:
    """The received requests, and the responses:

    a default one, or one of the path; None: no response.
    """

    port: int = 0
    received: list[Received] = field(default_factory=list)
    reply: Callable[[Received], Reply | None] = lambda _: (204, {}, b"")

    def url(self, path: str = "/hook") -> str:
        """Return the URL of this path."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request, and respond."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (each.partition(":") for each in lines if each)
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            received = Received(line.split(" ")[1], headers, body)
            self.received.append(received)
            reply = self.reply(received)
            if reply is None:
                await asyncio.Event().wait()
                return
            status, extra, content = reply
            told = {"content-length": str(len(content)), "connection": "close", **extra}
            writer.write(f"HTTP/1.1 {status} Said\r\n".encode())
            writer.write("".join(f"{name}: {value}\r\n" for name, value in told.items()).encode())
            writer.write(b"\r\n" + content)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def receiver() -> AsyncIterator[ReceiverServer]:
    """Yield a receiver that listens on a free port of loopback."""
    made = ReceiverServer()
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(made.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tuple(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
