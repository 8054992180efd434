"""Short forms of running commands over sessions."""

from __future__ import annotations

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Output, RemoteExit, RemoteProcess, Sessions


async def read_to_end(process: RemoteProcess) -> tuple[bytes, bytes, RemoteExit]:
    """Return both streams and the exit."""
    streams = {"stdout": bytearray(), "stderr": bytearray()}
    async for piece in process:
        if isinstance(piece, Output):
            streams[piece.stream] += piece.data
        else:
            return bytes(streams["stdout"]), bytes(streams["stderr"]), piece
    raise AssertionError("the output ended without an Exit")


async def run(
    sessions: Sessions, endpoint: Endpoint, command: str, stdin: bytes = b""
) -> tuple[bytes, bytes, RemoteExit]:
    """Run one command in a session of its own."""
    async with sessions.session(endpoint) as session:
        return await read_to_end(await session.start(command, stdin=stdin))


async def failure_of(
    sessions: Sessions, endpoint: Endpoint, command: str = "true"
) -> RemoteFailure:
    """Return the failure of a command that must not succeed."""
    try:
        result = await run(sessions, endpoint, command)
    except RemoteFailure as failure:
        return failure
    raise AssertionError(f"it should have failed, but gave {result}")


async def code_of(sessions: Sessions, endpoint: Endpoint, command: str = "true") -> ErrorCode:
    """Return the code of that failure."""
    return (await failure_of(sessions, endpoint, command)).code
