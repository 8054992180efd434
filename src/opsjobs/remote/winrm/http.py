"""One HTTP connection: one request at a time, each with a deadline."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

import h11

from opsjobs.remote.winrm.http_head import Head, read_head
from opsjobs.remote.winrm.messages import RESPONSE_BYTES_MAX

READ_BYTES = 64 * 1024
PATH = "/wsman"

_STATUS = re.compile(r"HTTP/1\.1 ([2-5][0-9]{2})(?: .*)?")
_WITHOUT_BODY = frozenset({204, 304})
_CLOSED = "the host closed the connection"


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
        self._is_free = True

    @property
    def usable(self) -> bool:
        """True if another request may be sent, as far as it is known."""
        return (
            self._is_free
            and not self._writer.is_closing()
            and not self._reader.at_eof()
            and not self._has_unread
        )

    @property
    def _has_unread(self) -> bool:
        """True if bytes came that no request asked for: the next one must not get them."""
        return bool(self._reader._buffer)  # type: ignore[attr-defined]  # no other way to see them

    async def post(self, headers: Mapping[str, str], body: bytes, seconds: float) -> HttpResponse:
        """Send a request and return the response.

        A connection on which this fails, or is cancelled, is closed. Raises Broken, TimeoutError.
        """
        if self._has_unread:
            self.close()
            raise Broken("the host sent a response to no request", silent=True)
        silent, self._is_free = True, False
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(self._render(headers, body))
                await self._writer.drain()
                data = await self._read()
                silent = False
                response = await self._read_response(data)
        except (OSError, h11.ProtocolError) as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise
            raise Broken(str(error) or type(error).__name__, silent=silent) from None
        except BaseException:
            self.close()
            raise
        self._is_free = True
        return response

    def _render(self, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = [f"POST {PATH} HTTP/1.1\r\n"]
        for name, value in (
            ("Host", self._host),
            ("User-Agent", "opsjobs"),
            ("Connection", "Keep-Alive"),
            ("Content-Length", str(len(body))),
            *headers.items(),
        ):
            if not (value.isascii() and value.isprintable()):
                raise ConnectionAbortedError(f"the header {name} cannot be sent")
            lines.append(f"{name}: {value}\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("ascii") + body

    async def _read(self) -> bytes:
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise ConnectionResetError(_CLOSED)
        return data

    async def _read_response(self, data: bytes) -> HttpResponse:
        """Return the response that begins with this."""
        head = read_head(data)
        status = _STATUS.fullmatch(head.line) if head is not None else None
        if head is None or status is None or int(status[1]) in _WITHOUT_BODY:
            return await self._read_by_h11(data)
        return HttpResponse(int(status[1]), head.fields, await self._read_body(head, data))

    async def _read_body(self, head: Head, data: bytes) -> bytes:
        size = head.end - head.begin
        _check_size(size)
        body = data[head.begin :]
        if len(body) < size:
            received = bytearray(body)
            while len(received) < size:
                received += await self._read()
            body = bytes(received)
        if len(body) > size:
            raise ConnectionAbortedError("more than one response came for one request")
        return body

    async def _read_by_h11(self, data: bytes) -> HttpResponse:
        """Return a response of any form that HTTP allows."""
        protocol = h11.Connection(h11.CLIENT)
        protocol.send(h11.Request(method="POST", target=PATH, headers=[("Host", "host")]))
        protocol.send(h11.EndOfMessage())
        protocol.receive_data(data)
        head = await self._next_event(protocol)
        while isinstance(head, h11.InformationalResponse):
            head = await self._next_event(protocol)
        if not isinstance(head, h11.Response):
            raise ConnectionResetError(_CLOSED)
        body = bytearray()
        while not isinstance(part := await self._next_event(protocol), h11.EndOfMessage):
            if isinstance(part, h11.Data):
                body += part.data
            _check_size(len(body))
        is_kept = protocol.our_state is h11.DONE and protocol.their_state is h11.DONE
        if not is_kept or protocol.trailing_data[0]:
            self.close()
        headers = tuple((name.decode(), value.decode("latin-1")) for name, value in head.headers)
        return HttpResponse(head.status_code, headers, bytes(body))

    async def _next_event(self, protocol: h11.Connection) -> h11.Event:
        has_ended = False
        try:
            while (event := protocol.next_event()) is h11.NEED_DATA:
                # The end of the connection is the end of a body that has no length.
                data = await self._reader.read(READ_BYTES)
                has_ended = not data
                protocol.receive_data(data)
        except h11.RemoteProtocolError:
            if has_ended:
                raise ConnectionResetError(_CLOSED) from None
            raise
        if not isinstance(event, h11.Event):
            raise ConnectionResetError(_CLOSED)
        return event

    def close(self) -> None:
        """Close the connection at once."""
        transport = self._writer.transport
        if not transport.is_closing():
            transport.abort()


def _check_size(size: int) -> None:
    if size > RESPONSE_BYTES_MAX:
        raise ConnectionAbortedError(f"a response has more than {RESPONSE_BYTES_MAX >> 20} MiB")
