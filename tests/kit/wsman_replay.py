"""A host that responds like a recorded one: over a real socket, with TLS and a login."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import h11

from kit.backing_servers import open_folder
from kit.windows_hosts import PASSWORD, USER, authority, password_credential, server_tls
from kit.wsman_recording import BLOB, Exchange
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.model.winrm import WinrmOptions

_GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_TOKEN = re.compile(rb'"(?:nonce|place|key)": ?"(?:\\u001e)?([0-9A-Za-z._-]+)"')
_POOL_AT, _PIPELINE_AT = 21 + 8, 21 + 24
ANY_POOL, ANY_PIPELINE = UUID(int=1), UUID(int=2)
"""In a response that was written by hand: the ids that the client chose."""
ORDER_SECONDS = 2.0
"""The time to wait for requests that came earlier in the recording."""
_NOTHING_LEFT = (
    '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body><s:Fault><s:Code>'
    "<s:Value>s:Receiver</s:Value></s:Code><s:Reason><s:Text>The recording has no answer to this."
    "</s:Text></s:Reason></s:Fault></s:Body></s:Envelope>"
)


class ReplayedHost:
    """One recorded host: each request gets the next recorded response to a request of its shape."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._left = dict(enumerate(exchanges))
        self._asked = asyncio.Event()
        self._names: dict[bytes, bytes] = {}
        self.unexpected: list[str] = []
        """Requests that are not in the recording."""
        self.requests: list[str] = []

    @property
    def left(self) -> list[str]:
        """The actions of the recording that were not requested."""
        return [exchange.action for exchange in self._left.values()]

    async def answer(self, request: str) -> tuple[int, bytes, bool]:
        """Return the status and the body of the response, and whether it is sent in chunks.

        Requests that come before it in the recording must come before it here, too: one may be the
        input of which this is the output.
        """
        self.requests.append(request)
        asked, action = shape(request), _action(request)
        position = next(
            (
                position
                for position, one in self._left.items()
                if one.action == action and (one.request == "" or shape(one.request) == asked)
            ),
            None,
        )
        if position is None:
            self.unexpected.append(asked)
            return 500, _NOTHING_LEFT.encode(), False
        exchange = self._left.pop(position)
        if exchange.request:
            self._learn(exchange.request, request)
        else:
            self._learn_ids(request)
        self._asked.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ORDER_SECONDS):
                while any(earlier < position for earlier in self._left):
                    self._asked.clear()
                    await self._asked.wait()
        return exchange.status, self._translate(exchange.response).encode(), exchange.chunked

    def _learn(self, recorded: str, actual: str) -> None:
        """Learn which id of the client corresponds to which id of the recording."""
        pairs = zip(
            _GUID.findall(BLOB.sub("", recorded)), _GUID.findall(BLOB.sub("", actual)), strict=False
        )
        for old, new in pairs:
            self._names[old.upper().encode()] = new.upper().encode()
        for old_blob, new_blob in zip(_blobs(recorded), _blobs(actual), strict=False):
            olds, news = _TOKEN.findall(old_blob), _TOKEN.findall(new_blob)
            self._names.update(zip(olds, news, strict=False))
            for at in (_POOL_AT, _PIPELINE_AT):
                old_id, new_id = old_blob[at : at + 16], new_blob[at : at + 16]
                if _is_fragment(old_blob) and any(old_id):
                    self._names[old_id] = new_id

    def _learn_ids(self, actual: str) -> None:
        """Learn the ids of the client's pool and pipeline."""
        for blob in _blobs(actual):
            if _is_fragment(blob):
                for name, at in ((ANY_POOL, _POOL_AT), (ANY_PIPELINE, _PIPELINE_AT)):
                    if any(found := blob[at : at + 16]):
                        self._names[name.bytes_le] = found

    def _translate(self, response: str) -> str:
        def blob(found: re.Match[str]) -> str:
            data = base64.b64decode(found["data"])
            for old, new in self._names.items():
                data = data.replace(old, new)
            return base64.b64encode(data).decode()

        def guid(found: re.Match[str]) -> str:
            known = self._names.get(found[0].upper().encode())
            return known.decode() if known is not None else found[0]

        parts, at = list[str](), 0
        for found in BLOB.finditer(response):
            parts += [_GUID.sub(guid, response[at : found.start()]), blob(found)]
            at = found.end()
        return "".join([*parts, _GUID.sub(guid, response[at:])])


def _blobs(text: str) -> list[bytes]:
    return [base64.b64decode(found["data"]) for found in BLOB.finditer(text)]


def _is_fragment(data: bytes) -> bool:
    return len(data) > _PIPELINE_AT + 16 and data[:7] == bytes(7)


def _action(request: str) -> str:
    found = re.search(r"Action[^>]*>([^<]*)<", request)
    return found[1].rpartition("/")[2] if found is not None else ""


def shape(envelope: str) -> str:
    """Return a request without the parts that differ each time:

    ids, base64, addresses and times.
    """
    root = ET.fromstring(BLOB.sub("", envelope))
    lines = []
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if name in ("To", "MessageID", "Address", "SessionId"):
            continue
        attributes = " ".join(f"{key.rpartition('}')[2]}={value}" for key, value in element.items())
        lines.append(_GUID.sub("ID", f"{name} {attributes} {(element.text or '').strip()}"))
    return "\n".join(lines)


@asynccontextmanager
async def replayed(
    exchanges: Sequence[Exchange], **options: Any
) -> AsyncIterator[tuple[ReplayedHost, Endpoint]]:
    """Run a replayed host on 127.0.0.1; yield it and its endpoint.

    `options` are those of WinRM.
    """
    host = ReplayedHost(exchanges)
    tasks: set[asyncio.Task[None]] = set()
    with open_folder() as folder:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None, "a connection has a task"
            tasks.add(task)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await _serve(host, reader, writer)
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls(folder))
        try:
            yield host, _endpoint(server.sockets[0].getsockname()[1], options)
        finally:
            server.close()
            for task in tasks:
                task.cancel()


def _endpoint(port: int, options: dict[str, Any]) -> Endpoint:
    chosen = {"scheme": "https", "auth": "basic", "ca": authority().ca.certificate, **options}
    target = Target(
        id="id-win-1",
        name="win-1",
        host="127.0.0.1",
        port=port,
        transport=Transport.WINRM,
        platform="windows",
        winrm=WinrmOptions(**chosen),
    )
    return Endpoint(target, password_credential())


async def _serve(
    host: ReplayedHost, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    protocol = h11.Connection(h11.SERVER)
    while True:
        body, headers = bytearray(), list[tuple[bytes, bytes]]()
        while not isinstance(event := protocol.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                if not data:
                    return
                protocol.receive_data(data)
            elif isinstance(event, h11.Request):
                headers = list(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
        if (b"authorization", login.encode()) not in headers:
            status, answer, chunked = 401, b"", False
        elif not body:
            status, answer, chunked = 200, b"", False
        else:
            status, answer, chunked = await host.answer(body.decode())
        writer.write(b"".join(_respond(protocol, status, answer, chunked=chunked)))
        await writer.drain()
        protocol.start_next_cycle()


def _respond(protocol: h11.Connection, status: int, body: bytes, *, chunked: bool) -> list[bytes]:
    headers = [("Server", "Microsoft-HTTPAPI/2.0")]
    if body:
        headers.append(("Content-Type", "application/soap+xml;charset=UTF-8"))
    if status == 401:
        headers += [("WWW-Authenticate", "Negotiate"), ("WWW-Authenticate", 'Basic realm="WSMAN"')]
    headers.append(
        ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))
    )
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)] if chunked else [body]
    sent = [protocol.send(h11.Response(status_code=status, headers=headers))]
    sent += [protocol.send(h11.Data(data=piece)) for piece in pieces if piece]
    sent.append(protocol.send(h11.EndOfMessage()))
    return [part for part in sent if part]
