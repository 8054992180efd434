"""What goes over a connection."""

from __future__ import annotations

from typing import Any

from kit.machines import small_server
from kit.sessions import heard
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.connect import CIPHERS, Connector

IGNORE, CHANNEL_OPEN, CHANNEL_REQUEST = 2, 90, 98


async def test_no_empty_packets_go_between_the_others() -> None:
    async with small_server() as server:
        connection = await Connector().connect(server.endpoint())
        wire: Any = connection.wire
        sent, encrypt = list[int](), wire._send_encryption.encrypt_packet

        def noted(seq: int, header: bytes, packet: bytes) -> Any:
            sent.append(packet[1])  # behind the length of the padding
            return encrypt(seq, header, packet)

        wire._send_encryption.encrypt_packet = noted
        said = await heard(await connection.start("echo ok"))
        connection.close()
        await connection.wait_closed()
    assert said[-1] == RemoteExit(0)
    assert {CHANNEL_OPEN, CHANNEL_REQUEST} <= set(sent)
    assert IGNORE not in sent


def test_no_cipher_is_offered_that_would_need_them() -> None:
    assert not [cipher for cipher in CIPHERS if "cbc" in cipher]
