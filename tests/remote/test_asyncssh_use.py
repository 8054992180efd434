"""asyncssh is used through its public interface; none of its methods is replaced."""

from __future__ import annotations

from kit.command_runs import read_to_end
from kit.machines import small_server
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.connect import CIPHERS, Connector


async def test_no_method_of_an_open_connection_is_replaced() -> None:
    async with small_server() as server:
        connection = await Connector().connect(server.endpoint())
        said = await read_to_end(await connection.start("echo ok"))
        replaced = [name for name in vars(connection.wire) if hasattr(type(connection.wire), name)]
        connection.close()
        await connection.wait_closed()
    assert said[-1] == RemoteExit(0)
    assert replaced == []


def test_no_cipher_in_cbc_mode_is_offered() -> None:
    assert not [cipher for cipher in CIPHERS if "cbc" in cipher]
