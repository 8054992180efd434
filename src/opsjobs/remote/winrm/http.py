"""One HTTP connection: one request at a time, each with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import h11

from opsjobs.remote.winrm.messages import RESPONSE_BYTES_MAX

READ_BYTES = 64 * 1024
PATH = "/wsman"


class Broken(Exception):
    """The connection broke, or its peer did not speak HTTP.

    `silent`: no byte of a response had arrived.
    """

    def __init__(self, reason: str, *, silent: bool) -> None:
        super().__init__(reason)
        self.silent = silent


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return the values of all headers of this name, which is in lower case."""
        return [value for header, value in self.headers if header == name]

    @property
    def content_type(self) -> str:
        """The content type; empty if there is none."""
        return next(iter(self.all("content-type")), "")


class HttpStream:
    """An HTTP/1.1 connection over a stream."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host
        self._protocol = h11.Connection(h11.CLIENT)

    @property
    def usable(self) -> bool:
        """True if another request may be sent, as far as it is known."""
        return (
            self._protocol.our_state is h11.IDLE
            and not self._writer.is_closing()
            and not self._reader.at_eof()
        )

    async def post(self, headers: Mapping[str, str], body: bytes, seconds: float) -> HttpResponse:
        """Send a request and return the response.

        A connection on which this fails, or is cancelled, is closed. Raises Broken, TimeoutError.
        """
        silent = True
        try:
            async with asyncio.timeout(seconds):
                await self._send(headers, body)
                event = await self._next()
                silent = False
                return await self._read_response(event)
        except (OSError, h11.ProtocolError) as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise
            raise Broken(str(error) or type(error).__name__, silent=silent) from None
        except BaseException:
            self.close()
            raise

    async def _send(self, headers: Mapping[str, str], body: bytes) -> None:
        request = h11.Request(
            method="POST",
            target=PATH,
            headers=[
                ("Host", self._host),
                ("User-Agent", "opsjobs"),
                ("Connection", "Keep-Alive"),
                ("Content-Length", str(len(body))),
                *headers.items(),
            ],
        )
        parts = [self._protocol.send(request)]
        if body:
            parts.append(self._protocol.send(h11.Data(data=body)))
        parts.append(self._protocol.send(h11.EndOfMessage()))
        self._writer.write(b"".join(part for part in parts if part))
        await self._writer.drain()

    async def _next(self) -> h11.Event:
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(READ_BYTES)
                if not data:
                    raise ConnectionResetError("the host closed the connection")
                self._protocol.receive_data(data)
                continue
            if isinstance(event, h11.InformationalResponse):
                continue
            if not isinstance(event, h11.Event):
                raise ConnectionResetError("the host closed the connection")
            return event

    async def _read_response(self, event: h11.Event) -> HttpResponse:
        if not isinstance(event, h11.Response):
            raise ConnectionResetError("the host closed the connection")
        body = bytearray()
        while not isinstance(part := await self._next(), h11.EndOfMessage):
            if isinstance(part, h11.Data):
                body += part.data
            if len(body) > RESPONSE_BYTES_MAX:
                raise ConnectionAbortedError(
                    f"a response has more than {RESPONSE_BYTES_MAX >> 20} MiB"
                )
        headers = tuple((name.decode(), value.decode("latin-1")) for name, value in event.headers)
        if self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()
        else:
            self.close()
        return HttpResponse(event.status_code, headers, bytes(body))

    def close(self) -> None:
        """Close the connection at once."""
        transport = self._writer.transport
        if not transport.is_closing():
            transport.abort()
