"""A session on a lab machine: a command or SFTP, as the client requests."""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh
from asyncssh.stream import SSHServerStreamSession

from opsjobs.standalone.lab.session import CommandSession


class HomeFiles(asyncssh.SFTPServer):
    """The files that the lab's user can see; relative paths start at the machine's home."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        super().__init__(chan)
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        """Return the local path for a path of the client."""
        return os.path.join(self._home, path)  # noqa: PTH118  bytes, as the protocol has them


class LabSession(asyncssh.SSHServerSession[bytes]):
    """A session that becomes a command or an SFTP session when the request comes."""

    def __init__(self, machine: str, home: Path) -> None:
        self._machine = machine
        self._home = home
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._inner: asyncssh.SSHServerSession[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Store the channel, which is open now."""
        self._channel = chan

    def shell_requested(self) -> bool:
        """Run a shell that reads its commands from standard input."""
        return self._become(CommandSession(self._machine, self._home)).shell_requested()

    def exec_requested(self, command: str) -> bool:
        """Run a command."""
        return self._become(CommandSession(self._machine, self._home)).exec_requested(command)

    def subsystem_requested(self, subsystem: str) -> bool:
        """Serve SFTP, the only subsystem."""
        files: SSHServerStreamSession[bytes] = SSHServerStreamSession(
            None, lambda _: self._files(), 3
        )
        return subsystem == "sftp" and self._become(files).subsystem_requested(subsystem)

    def _become(self, inner: asyncssh.SSHServerSession[bytes]) -> asyncssh.SSHServerSession[bytes]:
        assert self._channel is not None, "a request comes over a channel"
        self._inner = inner
        inner.connection_made(self._channel)
        return inner

    def _files(self) -> HomeFiles:
        assert self._channel is not None, "a request comes over a channel"
        return HomeFiles(self._channel, self._home)

    def session_started(self) -> None:
        """Forward that all requests are answered."""
        if self._inner is not None:
            self._inner.session_started()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Forward standard input, or SFTP requests."""
        if self._inner is not None:
            self._inner.data_received(data, datatype)

    def eof_received(self) -> bool:
        """Forward the end of the input."""
        return bool(self._inner is not None and self._inner.eof_received())

    def signal_received(self, signal: str) -> None:
        """Forward a signal for the command."""
        if self._inner is not None:
            self._inner.signal_received(signal)

    def pause_writing(self) -> None:
        """Forward that the client does not read."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Forward that the client reads again."""
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward that the client has disconnected."""
        if self._inner is not None:
            self._inner.connection_lost(exc)
