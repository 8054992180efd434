"""apprise in a process of its own, against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest

from opsjobs.integrations.apprise_sender import (
    PROCESSES_PER_URL,
    AppriseBusy,
    AppriseRefused,
    AppriseSender,
    AppriseUnavailable,
    is_installed,
)
from opsjobs.model.addresses import Network, is_allowed, networks
from opsjobs.model.secret import Secret

LOOPBACK = [ip_network("127.0.0.0/8")]
pytestmark = pytest.mark.skipif(
    not is_installed(), reason="this machine cannot load the extra apprise"
)


def patient(allow: Sequence[Network] = ()) -> AppriseSender:
    """One that gives its process a minute: on a busy machine it takes long to start."""
    return AppriseSender(allow, timeout_seconds=60)


@asynccontextmanager
async def receiver(
    answer: str = "HTTP/1.1 200 OK", *headers: str
) -> AsyncIterator[tuple[int, list[bytes]]]:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().splitlines()
            if line.startswith(b"content-length")
        )
        got.append(await reader.readexactly(length))
        lines = [answer, *headers, "Content-Length: 0", "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], got


async def test_a_notification_arrives() -> None:
    async with receiver() as (port, got):
        url = Secret(f"json://127.0.0.1:{port}/hook")
        await patient(LOOPBACK).send(url, "backup failed", "web-1: no space\nleft")
    (body,) = got
    sent = json.loads(body)
    assert (sent["title"], sent["message"]) == ("backup failed", "web-1: no space\nleft")


GUARDED = r"is not public.*OPSJOBS_APPRISE_ALLOW"
NO_HOST = "does not know this kind of URL"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", GUARDED),
        ("localhost", GUARDED),
        ("[::1]", GUARDED),
        ("2130706433", GUARDED),
        ("0177.0.0.1", NO_HOST),
        ("[::ffff:127.0.0.1]", NO_HOST),
    ],
)
async def test_a_private_address_is_not_connected_to(host: str, reason: str) -> None:
    async with receiver() as (port, got):
        # Because of the guard or the name of the host, not because nothing listens there.
        with pytest.raises(AppriseRefused, match=reason):
            await patient().send(Secret(f"json://{host}:{port}/hook"), "t", "b")
    assert got == []


async def test_the_refusal_names_the_setting() -> None:
    with pytest.raises(AppriseRefused, match=r"127\.0\.0\.1.*OPSJOBS_APPRISE_ALLOW"):
        await patient().send(Secret("json://127.0.0.1:9/hook"), "t", "b")


async def test_a_redirect_does_not_lead_to_a_private_address() -> None:
    async with receiver() as (inner, reached):
        answer = "HTTP/1.1 307 Temporary Redirect"
        async with receiver(answer, f"Location: http://127.0.0.2:{inner}/") as (port, _):
            url = Secret(f"json://127.0.0.1:{port}/hook")
            with pytest.raises((AppriseRefused, AppriseUnavailable)):
                await patient([ip_network("127.0.0.1/32")]).send(url, "t", "b")
    assert reached == []


async def test_a_server_error_is_tried_again_and_names_no_part_of_the_url() -> None:
    async with receiver("HTTP/1.1 500 Internal Server Error") as (port, _):
        url = Secret(f"json://127.0.0.1:{port}/hook-token-123456")
        with pytest.raises(AppriseUnavailable) as failed:
            await patient(LOOPBACK).send(url, "t", "b")
    assert "hook-token-123456" not in str(failed.value)
    assert "500" in str(failed.value)


async def test_an_unknown_url_is_refused() -> None:
    with pytest.raises(AppriseRefused, match="does not know"):
        await patient().send(Secret("pigeon://loft/tok"), "t", "b")


async def test_a_receiver_that_hangs_is_given_up() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        url = Secret(f"json://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook")
        with pytest.raises(AppriseUnavailable, match="did not end within"):
            await AppriseSender(LOOPBACK, timeout_seconds=3).send(url, "t", "b")


async def test_a_url_that_hangs_leaves_places_to_the_others() -> None:
    released = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    dead = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with dead, receiver() as (port, got):
        sender = AppriseSender(LOOPBACK, timeout_seconds=60)
        url = Secret(f"json://127.0.0.1:{dead.sockets[0].getsockname()[1]}/hook")
        waiting = [asyncio.create_task(sender.send(url, "t", "b")) for _ in range(5)]
        await asyncio.sleep(0)
        await sender.send(Secret(f"json://127.0.0.1:{port}/hook"), "t", "b")
        assert len(got) == 1
        with pytest.raises(AppriseBusy):
            await waiting[-1]
        assert [task.done() for task in waiting[:PROCESSES_PER_URL]] == [False, False]
        released.set()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [AppriseUnavailable] * 2 + [AppriseBusy] * 3
        # the places are free again
        await sender.send(Secret(f"json://127.0.0.1:{port}/hook"), "t", "b")


def test_which_addresses_are_allowed() -> None:
    listed = networks(["10.1.0.0/16"])
    assert is_allowed("9.9.9.9", ())
    assert is_allowed("10.1.2.3", listed)
    assert is_allowed("::ffff:10.1.2.3", listed)
    for address in ("10.2.0.1", "169.254.169.254", "127.0.0.1", "::1", "64:ff9b::a00:1"):
        assert not is_allowed(address, listed)
