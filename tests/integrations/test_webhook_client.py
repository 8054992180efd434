"""The client of webhooks: checked addresses only, limits, and no settings of the environment."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from kit.webhook_receiver import receiver
from opsjobs.integrations.caller_urls import NotDelivered, WebhookClient
from opsjobs.model.addresses import networks
from opsjobs.model.errors import Invalid

LOOPBACK = networks(["127.0.0.0/8"])
REFUSED = r"has no public address; list its network in OPSJOBS_WEBHOOK_ALLOW if it is meant"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "2852039166", "[fe80::1]", "[fd00:ec2::254]", "[fc00::1]", "224.0.0.1", "255.255.255.255", "100.100.100.200",
    ],
)  # fmt: skip
async def test_an_address_that_is_not_public_is_refused_in_every_spelling(host: str) -> None:
    client = WebhookClient()
    with pytest.raises(NotDelivered, match=REFUSED):
        await client.post(f"http://{host}:1/", b"{}", {})
    await client.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254"])
def test_a_literal_address_is_refused_when_a_webhook_is_written(host: str) -> None:
    with pytest.raises(Invalid, match="is not a public address"):
        WebhookClient().check_url(f"https://{host}/hook")
    WebhookClient().check_url("https://example.org/hook")
    WebhookClient(allow=LOOPBACK).check_url("https://127.0.0.1/hook")


async def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolves("93.184.216.34", "10.0.0.1"))
    with pytest.raises(NotDelivered, match=f"mixed.example.org {REFUSED}"):
        await WebhookClient().post("https://mixed.example.org/", b"{}", {})


async def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that resolves to another address a moment later does not get the message."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *rest: Any, **kept: Any) -> Any:
        asked.append(str(host))
        if host != "rebind.example.org":
            return real(host, *rest, **kept)
        return resolves("127.0.0.1" if asked.count(host) == 1 else "10.0.0.1")(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    client = WebhookClient(allow=LOOPBACK)
    async with receiver() as server:
        url = f"http://rebind.example.org:{server.port}/hook"
        assert (await client.post(url, b"{}", {})).status == 204
        assert server.received[0].headers["host"] == f"rebind.example.org:{server.port}"
    await client.close()
    assert asked.count("rebind.example.org") == 1


def resolves(*addresses: str) -> Any:
    return lambda host, port, *_, **__: [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
    ]


async def test_a_public_address_needs_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolves("93.184.216.34"))
    with pytest.raises(NotDelivered, match="needs https"):
        await WebhookClient().post("http://example.org/", b"{}", {})


async def test_redirects_are_not_followed_and_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = WebhookClient(allow=LOOPBACK)
    async with receiver() as server:
        server.reply = lambda _: (302, {"location": server.url("/elsewhere")}, b"")
        assert (await client.post(server.url(), b"{}", {})).status == 302
        assert [got.path for got in server.received] == ["/hook"]
    await client.close()


async def test_a_response_is_read_up_to_64_kib_and_for_a_limited_time() -> None:
    client, hasty = (WebhookClient(allow=LOOPBACK, seconds=seconds) for seconds in (60.0, 1.0))
    async with receiver() as server:
        server.reply = lambda _: (200, {"content-encoding": "gzip"}, b"x" * 1_000_000)
        assert len((await client.post(server.url(), b"{}", {})).text) == 64 << 10
        server.reply = lambda _: None
        with pytest.raises(NotDelivered, match="no response within 1 s"):
            await hasty.post(server.url(), b"{}", {})
    with pytest.raises(NotDelivered, match=r"attempts failed|refused|connect"):
        await client.post(server.url(), b"{}", {})
    await client.close()
    await hasty.close()


async def test_a_name_server_that_hangs_delays_no_other_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, real = threading.Event(), socket.getaddrinfo

    def slow(host: Any, *rest: Any, **kept: Any) -> Any:
        if host == "slow.example.org":
            release.wait(30)
        return real(host, *rest, **kept)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    client = WebhookClient(allow=LOOPBACK, seconds=20.0)
    async with receiver() as server:
        hanging = [
            asyncio.create_task(client.post("https://slow.example.org/", b"{}", {}))
            for _ in range(50)
        ]
        await asyncio.sleep(0)
        assert (await client.post(server.url(), b"{}", {})).status == 204
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
    release.set()
    await client.close()
