"""A session on a lab machine: a command, or the machine's files over SFTP, whichever the client asks for."""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh
from asyncssh.stream import SSHServerStreamSession

from opsjobs.standalone.lab.session import CommandSession


class HomeFiles(asyncssh.SFTPServer):
    """Files as the user that the lab runs as sees them; paths that are not absolute begin at the machine's home."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        super().__init__(chan)
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        """Where a path of the client's is."""
        return os.path.join(self._home, path)  # noqa: PTH118  bytes, as the protocol has them


class LabSession(asyncssh.SSHServerSession[bytes]):
    """Becomes one or the other when the request comes; until then only the channel is known."""

    def __init__(self, machine: str, home: Path) -> None:
        self._machine = machine
        self._home = home
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._inner: asyncssh.SSHServerSession[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is open."""
        self._channel = chan

    def shell_requested(self) -> bool:
        """A shell that reads its commands from standard input."""
        return self._become(CommandSession(self._machine, self._home)).shell_requested()

    def exec_requested(self, command: str) -> bool:
        """A command."""
        return self._become(CommandSession(self._machine, self._home)).exec_requested(command)

    def subsystem_requested(self, subsystem: str) -> bool:
        """The only subsystem is SFTP."""
        files: SSHServerStreamSession[bytes] = SSHServerStreamSession(None, lambda _: self._files(), 3)
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
        """All requests are answered."""
        if self._inner is not None:
            self._inner.session_started()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Standard input, or requests for files."""
        if self._inner is not None:
            self._inner.data_received(data, datatype)

    def eof_received(self) -> bool:
        """The end of them."""
        return bool(self._inner is not None and self._inner.eof_received())

    def signal_received(self, signal: str) -> None:
        """A signal for the command."""
        if self._inner is not None:
            self._inner.signal_received(signal)

    def pause_writing(self) -> None:
        """The client does not read."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._inner is not None:
            self._inner.connection_lost(exc)
