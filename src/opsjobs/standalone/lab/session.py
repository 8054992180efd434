"""Sessions on a lab machine: a command as under sshd, or SFTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
from asyncio import transports
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.stream import SSHServerStreamSession

_STDIN, _STDERR = 0, 2
# RFC 4254 section 6.10, without terminal signals.
_SIGNALS = ("HUP", "INT", "QUIT", "KILL", "TERM", "USR1", "USR2")
_ACCEPTED = ("LANG", "LC_")  # the client's environment variables that Debian's sshd accepts


class CommandSession(asyncssh.SSHServerSession[bytes]):
    """A command session without a terminal, as sshd runs `ssh host COMMAND`."""

    def __init__(self, machine: str, home: Path) -> None:
        self._machine = machine
        self._home = home
        self._command: str | None = None
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._process: asyncio.SubprocessTransport | None = None
        self._starting: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._ended_input = False

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Store the channel, which is open now."""
        self._channel = chan

    def shell_requested(self) -> bool:
        """Accept a shell that reads its commands from standard input."""
        return True

    def exec_requested(self, command: str) -> bool:
        """Accept the command, which is run once the session starts."""
        self._command = command
        return True

    def session_started(self) -> None:
        """Start the process, as all requests are answered."""
        self._starting = asyncio.get_running_loop().create_task(self._start())

    def data_received(self, data: bytes, _: asyncssh.DataType) -> None:
        """Write to standard input; data that arrives before the process exists is kept for it."""
        if self._process is None:
            self._early.append(data)
        elif stdin := self._stdin():
            stdin.write(data)

    def eof_received(self) -> bool:
        """End standard input; the channel stays open for the output."""
        self._ended_input = True
        if self._process is not None and (stdin := self._stdin()):
            stdin.write_eof()
        return True

    def signal_received(self, signal: str) -> None:
        """Signal the command and all processes of its group."""
        if self._process is not None and signal in _SIGNALS:
            _signal_group(self._process.get_pid(), signal)

    def pause_writing(self) -> None:
        """Stop reading the output while the client does not read: the command waits at its pipe."""
        self._each_output("pause_reading")

    def resume_writing(self) -> None:
        """Resume reading the output."""
        self._each_output("resume_reading")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Close the pipes. As under sshd the command continues; its writes find a broken pipe."""
        self._channel = None
        if self._process is not None:
            for descriptor in (0, 1, 2):
                if pipe := self._process.get_pipe_transport(descriptor):
                    pipe.close()

    async def _start(self) -> None:
        program = ["/bin/sh", "-c", self._command] if self._command is not None else ["/bin/sh"]
        loop = asyncio.get_running_loop()
        try:
            process, _ = await loop.subprocess_exec(
                lambda: _Output(self),
                *program,
                env=self._environment(),
                cwd=self._home,
                start_new_session=True,
            )
        except OSError as error:
            self.output(_STDERR, f"lab: cannot start the command: {error.strerror}\n".encode())
            self.exited(126)
            return
        self._process = process
        stdin = self._stdin()
        for data in self._early:
            stdin.write(data)
        self._early.clear()
        if self._ended_input:
            stdin.write_eof()
        if self._channel is None:
            self.connection_lost(None)

    def output(self, descriptor: int, data: bytes) -> None:
        """Send output of the command."""
        if self._channel is not None:
            self._channel.write(
                data, asyncssh.EXTENDED_DATA_STDERR if descriptor == _STDERR else None
            )

    def exited(self, code: int) -> None:
        """Send the exit status after all output; a negative code is the number of a signal."""
        if self._channel is None:
            return
        if code >= 0:
            self._channel.exit(code)
        else:
            self._channel.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))

    def _environment(self) -> dict[str, str]:
        assert self._channel is not None
        user = pwd.getpwuid(os.geteuid()).pw_name
        sent = {k: v for k, v in self._channel.get_environment().items() if k.startswith(_ACCEPTED)}
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        ours = {
            "HOME": str(self._home),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            "PATH": path,
            "HOSTNAME": self._machine,
        }
        return {**sent, **ours}

    def _stdin(self) -> Any:
        assert self._process is not None
        pipe = self._process.get_pipe_transport(_STDIN)
        return pipe if pipe is not None and not pipe.is_closing() else None

    def _each_output(self, verb: str) -> None:
        for descriptor in (1, 2):
            pipe = (
                self._process.get_pipe_transport(descriptor) if self._process is not None else None
            )
            if isinstance(pipe, transports.ReadTransport) and not pipe.is_closing():
                getattr(pipe, verb)()


class _Output(asyncio.SubprocessProtocol):
    """Forward a process's output and exit to its session."""

    def __init__(self, session: CommandSession) -> None:
        self._session = session
        self._transport: Any = None

    def connection_made(self, transport: transports.BaseTransport) -> None:
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._session.output(fd, data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        # Called after the exit and after the last byte of both pipes.
        code = self._transport.get_returncode()
        self._transport.close()
        self._session.exited(255 if code is None else code)


def _signal_group(pid: int, name: str) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(pid, signal.Signals[f"SIG{name}"])


class HomeFiles(asyncssh.SFTPServer):
    """The files that the lab's user can see; relative paths start at the machine's home."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        super().__init__(chan)
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        """Return the local path for a path of the client."""
        return os.path.join(self._home, path)  # noqa: PTH118  bytes, as the protocol has them


class LabSession(asyncssh.SSHServerSession[bytes]):
    """A session that becomes a command or an SFTP session when the request arrives."""

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
