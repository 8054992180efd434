"""Responses over HTTP: the usual form, which is read without h11, and all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opsjobs.remote.winrm.http import Broken, HttpStream
from opsjobs.remote.winrm.http_head import read_head
from opsjobs.remote.winrm.messages import RESPONSE_BYTES_MAX

USUAL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@asynccontextmanager
async def stream(
    pieces: Sequence[bytes], *, ends: bool = False, unasked: asyncio.Event | None = None
) -> AsyncIterator[HttpStream]:
    """Connect to a host that answers each request with these pieces, one after the other.

    `unasked`: it sends another response once this is set.
    """

    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                if unasked is not None:
                    await unasked.wait()
                    writer.write(USUAL)
                if ends:
                    break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield HttpStream(reader, writer, f"127.0.0.1:{port}")
    finally:
        writer.transport.abort()
        server.close()
        await asyncio.gather(*answering)


@pytest.mark.parametrize(
    "pieces",
    [
        [USUAL],
        [USUAL[:70], USUAL[70:]],
        [USUAL[:20], USUAL[20:]],
        [CHUNKED],
        [CHUNKED[:50], CHUNKED[50:60], CHUNKED[60:]],
        [b"HTTP/1.1 100 Continue\r\n\r\n", USUAL],
        [USUAL.replace(b"\r\nContent-Type", b"\r\nX-Folded: a\r\n b\r\nContent-Type")],
    ],
    ids=["at-once", "body-later", "head-in-two", "chunked", "chunks-later", "continue", "folded"],
)
async def test_a_response_is_read_whatever_its_form_and_the_connection_is_kept(
    pieces: list[bytes],
) -> None:
    async with stream(pieces) as http:
        for _ in range(3):
            response = await http.post({"Content-Type": "text/plain"}, b"body", 60.0)
            assert (response.status, response.body) == (200, b"hello")
            assert http.usable


@pytest.mark.parametrize(
    "response",
    [
        USUAL.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        CHUNKED.replace(b"\r\n\r\n5", b"\r\nConnection: close\r\n\r\n5"),
    ],
)
async def test_a_connection_that_the_host_ends_is_not_used_again(response: bytes) -> None:
    async with stream([response]) as http:
        assert (await http.post({}, b"", 60.0)).body == b"hello"
        assert not http.usable


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.0 200 OK\r\n\r\nhello"],
        [b"HTTP/1.0 200 OK\r\n\r\n", b"hel", b"lo"],
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhel", b"lo"],
    ],
)
async def test_a_body_without_a_length_ends_with_the_connection(pieces: list[bytes]) -> None:
    async with stream(pieces, ends=True) as http:
        assert (await http.post({}, b"", 60.0)).body == b"hello"
        assert not http.usable


async def test_a_response_to_no_request_is_not_taken_for_that_to_the_next_one() -> None:
    unasked = asyncio.Event()
    async with stream([USUAL], unasked=unasked) as http:
        assert (await http.post({}, b"", 60.0)).body == b"hello"
        assert http.usable
        unasked.set()
        async with asyncio.timeout(60):
            while http.usable:
                await asyncio.sleep(0.01)
        with pytest.raises(Broken) as broken:
            await http.post({}, b"", 60.0)
        assert (str(broken.value), broken.value.silent) == (
            "the host sent a response to no request",
            True,
        )


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (CHUNKED[:-3], "the host closed the connection"),
        (CHUNKED[:50], "the host closed the connection"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello", "the host closed the connection"),
        (USUAL[:-1], "the host closed the connection"),
        (USUAL[:30], "the host closed the connection"),
        (USUAL + b"x", "more than one response came for one request"),
        (USUAL.replace(b": 5", b": 8388609"), "a response has more than 8 MiB"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "illegal request line"),
        (USUAL.replace(b"5", b"5\r\nContent-Length: 6"), "conflicting Content-Length headers"),
    ],
)
async def test_a_broken_response_ends_the_connection(response: bytes, words: str) -> None:
    assert RESPONSE_BYTES_MAX == 8 << 20
    async with stream([response], ends=True) as http:
        with pytest.raises(Broken) as broken:
            await http.post({}, b"", 60.0)
        assert (str(broken.value), broken.value.silent) == (words, False)
        assert not http.usable


async def test_a_host_that_answers_nothing_is_silent() -> None:
    async with stream([], ends=True) as http:
        with pytest.raises(Broken) as broken:
            await http.post({}, b"", 60.0)
        assert broken.value.silent


async def test_a_header_cannot_hold_another_one() -> None:
    async with stream([USUAL]) as http:
        with pytest.raises(Broken, match="the header X cannot be sent"):
            await http.post({"X": "a\r\nY: b"}, b"", 60.0)


NAMES = st.sampled_from(
    [
        "Content-Length",
        "content-length",
        "Connection",
        "Transfer-Encoding",
        "Date",
        "X-a",
        "",
        "a b",
    ]
)
VALUES = st.sampled_from(
    ["3", " 3 ", "03", "+3", "3, 3", "x" * 3, "", "\tKeep-Alive", "close", "chunked", "\x7f", "é"]
)
LINES = st.sampled_from(["HTTP/1.1 200 OK", "HTTP/1.1 500", "HTTP/1.0 200 OK", "HTTP/2 200 OK", ""])
ENDS = st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r\n "])


@given(LINES, st.lists(st.tuples(NAMES, VALUES, ENDS), max_size=4), st.binary(max_size=6))
@example("HTTP/1.1 200 OK", [("Content-Length", " 3 ", "\r\n")], b"abc")
def test_a_head_that_is_accepted_means_the_same_to_h11(
    line: str, fields: list[tuple[str, str, str]], body: bytes
) -> None:
    text = "".join(f"{name}:{value}{end}" for name, value, end in fields)
    data = f"{line}\r\n{text}\r\n".encode("latin-1") + body
    head = read_head(data)
    if head is None or not line.startswith("HTTP/1.1"):
        return
    protocol = h11.Connection(h11.CLIENT)
    protocol.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    protocol.send(h11.EndOfMessage())
    protocol.receive_data(data)
    event = protocol.next_event()
    assert isinstance(event, h11.Response)
    assert head.fields == tuple((name.decode(), value.decode()) for name, value in event.headers)
    found = bytearray()
    while isinstance(part := protocol.next_event(), h11.Data):
        found += part.data
    assert found == data[head.begin : head.end]
