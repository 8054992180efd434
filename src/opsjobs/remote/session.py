"""The Session protocol: the operations of the engine on a machine, over any transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Become, Program, RunKey, SpoolIdentity, StartOrder
from opsjobs.model.target import Capabilities, Endpoint, Transport
from opsjobs.remote.disk import Disk

Stream = Literal["stdout", "stderr"]
Cause = Literal[
    "timeout", "output_limit", "cancel", "disk_full", "interpreter", "folder", "storage"
]


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes as the command wrote them; at most 64 KiB per piece."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class RemoteExit:
    """The end of a command: an exit code, or the name of the signal that ended it ("KILL").

    `cause` is set if the target's watchdog ended it, for its time or its output size, or a cancel
    did; or if the target's disk was full at its end, and output is lost; or if the program was
    not started at all: its interpreter or its folder is missing, or its files could not be
    stored. `detail` may add a message; without a cause it says why output may be missing.
    """

    code: int | None
    signal: str | None = None
    cause: Cause | None = None
    detail: str | None = None

    @property
    def never_started(self) -> bool:
        """True if nothing of the program ran; the code is then not the program's.

        The reason lies with its machine.
        """
        return self.cause in ("interpreter", "folder", "storage")


def explain_unstarted(cause: Cause, program: Program) -> RemoteExit:
    """Return the exit of a program whose machine lacks a prerequisite, with a message."""
    words = {
        "interpreter": f"there is no {program.interpreter} on the target that can be started",
        "folder": f"the working directory {program.cwd} is not there, or cannot be entered",
        "storage": "the target could not store its script, its input or its secrets "
        "(check its free disk space)",
    }
    return RemoteExit(None, None, cause, words.get(cause))


def explain_no_shell(end: RemoteExit) -> RemoteExit:
    """Return the exit of a command line that was not confirmed by a POSIX shell.

    The machine's exit code is not the command's, unless a signal ended it.
    """
    if end.signal is not None or (end.code or 0) > 128:
        return end
    return RemoteExit(
        None,
        None,
        "interpreter",
        f"the target does not run lines for a POSIX shell: it ended ours with {end.code}",
    )


@dataclass(frozen=True, slots=True)
class SessionStep:
    """One timed step of a connection test: connect, auth, shell, sudo, sftp, durable or file.

    `needed`: sessions do not work without it; the last four are only informative.
    """

    name: str
    ok: bool
    ms: float
    error: str | None = None
    needed: bool = True


@dataclass(frozen=True, slots=True)
class LoginTimes:
    """The login of a connection, from key exchange to success, in monotonic seconds."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class HostKey:
    """A host key as one authorized_keys-like line, and its SHA256 fingerprint."""

    key: str
    fingerprint: str


class RemoteProcess(Protocol):
    """A command that was started on a machine."""

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the output as it arrives, then exactly one RemoteExit.

        Back-pressure: without a reader, at most a bounded amount is buffered and the remote end
        must wait. Raises RemoteFailure(LOST) if the connection breaks before the exit was seen: it
        is unknown whether the command ran (a durable run raises ContactLost and continues; LOST if
        the run no longer exists).
        """

    async def kill(self, grace_seconds: float) -> CancelProof:
        """Send TERM to the process group and KILL after the grace period; return the proof.

        It proves the end of the process group. The output may still be read.
        """

    async def close(self) -> None:
        """Close the channel, whether or not the command has ended."""


class SpoolChanged(Exception):
    """The machine's spool is not the expected one: this request started nothing."""

    def __init__(self, seen: SpoolIdentity) -> None:
        super().__init__(f"store {seen.store}, boot {seen.boot}")
        self.seen = seen


class NotStarted(Exception):
    """There is no run to attach to. `settled`: it can never start; only the next attempt may.

    `up_seconds`: set if the machine was rebooted since the spool's boot was recorded, and a reboot
    may cost a record. The record was of this same machine, which has been up for this long: the
    response is valid for requests sent since then, and for none before.
    """

    def __init__(self, *, settled: bool, up_seconds: float | None = None) -> None:
        super().__init__("never to begin" if settled else "not begun")
        self.settled = settled
        self.up_seconds = up_seconds


class SpoolUnavailable(Exception):
    """The machine cannot keep a durable run, for the given reason. Nothing was started."""


class ContactLost(RemoteFailure):
    """The connection broke; the command continues or may have started. An attach finds out."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.LOST, message)


class NotFollowed(ContactLost):
    """The run on the machine is not the expected one, and may be running.

    It has another command, or another release of opsjobs started it.
    """


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """The state of a durable run, by the target's own record.

    `exit` is set if it ended by itself or was ended.
    """

    proof: CancelProof
    exit: RemoteExit | None = None


class Durable(Protocol):
    """Durable runs on one machine: they survive a broken connection and are found by key.

    `become` is the user of the run if it is not the login user. If that is not allowed, nothing is
    done, and all but `cancel` raise RemoteFailure(BECOME_FAILED).
    """

    async def begin(self, order: StartOrder, expected: SpoolIdentity | None) -> RemoteProcess:
        """Start the run unless it was started before, and follow it from its first byte.

        Raises SpoolChanged (always if None is expected: a first connection), NotStarted(settled) if
        the key was voided, SpoolUnavailable, RemoteFailure(CONNECTION_LOST) if nothing can have
        started, ContactLost if it may have, RemoteFailure(LOST) if it was started before and no
        longer exists, and NotFollowed if it was another command.
        """

    async def attach(
        self, order: StartOrder, expected: SpoolIdentity, offsets: tuple[int, int]
    ) -> RemoteProcess:
        """Follow a run that was started before, from these offsets (stdout, stderr) on.

        Raises as `begin`, and NotStarted(settled=False) if the target shows that it never started.
        After a reboot both kinds of NotStarted include the uptime of the machine, or are
        RemoteFailure(LOST) if the uptime is unavailable.
        """

    async def identity(self, become: Become | None = None) -> SpoolIdentity:
        """Return the identity of the spool; create it if needed.

        Raises SpoolUnavailable, RemoteFailure.
        """

    async def look(self, key: RunKey, become: Become | None = None) -> CancelOutcome | None:
        """Return the state of a run unchanged; None while it runs. Raises RemoteFailure."""

    async def cancel(
        self, key: RunKey, grace_seconds: float, become: Become | None = None
    ) -> CancelOutcome:
        """End the run or make sure it never starts: TERM, KILL after the grace period, stragglers.

        Stragglers are ended last. Never raises for errors of the machine: the proof is
        `unreachable` if the target's response is missing.
        """

    async def clean(
        self, keys: Sequence[RunKey], become: Become | None = None, *, output_only: bool = False
    ) -> frozenset[RunKey]:
        """Remove the folders of runs that have ended; return the runs whose files remain.

        Those live, or something holds their files open; not every machine names them. Raises
        RemoteFailure.

        `output_only`: keep the record of each run, which prevents a second start and holds its
        outcome.
        """


class Session(Protocol):
    """An open session on one machine."""

    @property
    def login_times(self) -> LoginTimes | None:
        """The times of its connection's login, possibly long ago; None if there is no login."""

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of this machine over this transport."""

    async def start(
        self, command: str | Program, *, stdin: bytes = b"", marked: bool | None = None
    ) -> RemoteProcess:
        """Start a command line in the login shell, or a program.

        `marked`: find out its process group, for `kill` (default: if possible). A program has its
        own `stdin`: a POSIX shell of the machine starts it. If there is no such shell, its exit
        reports that, like any other missing prerequisite (`RemoteExit.never_started`).

        Raises RemoteFailure: CONNECTION_LOST if nothing can have started, LOST if the request was
        written and no response arrived.
        """

    def durable(self) -> Durable | None:
        """Return the durable runs on this machine, or None without that capability."""

    def disk(self) -> AbstractAsyncContextManager[Disk]:
        """Yield the files of this machine.

        Raises RemoteFailure: TRANSFER if it does not serve files, CONNECTION_LOST.
        """


class Sessions(Protocol):
    """The source of sessions: a pool, for one transport or for all."""

    def session(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Session]:
        """Yield a session to the machine; connect if there is no connection yet.

        Raises RemoteFailure with the code of the phase that failed: dns, connect_timeout,
        connection_refused, connection_lost, host_key, auth_failed, credential_missing,
        circuit_open.
        """

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Open a new connection and time each step; never raises for errors of the machine."""

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """Return the host keys that the host currently shows, without logging in.

        Raises RemoteFailure.
        """

    async def close(self) -> None:
        """Close every connection."""


class Transports:
    """Sessions for every transport, chosen by the target."""

    def __init__(self, sessions: Mapping[Transport, Sessions]) -> None:
        self._sessions = dict(sessions)

    def session(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Session]:
        """Yield a session to the machine. Raises RemoteFailure."""
        return self._sessions[endpoint.target.transport].session(endpoint)

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Open a new connection and time each step."""
        return await self._sessions[endpoint.target.transport].test(endpoint)

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """Return the host keys that the host currently shows. Raises RemoteFailure."""
        return await self._sessions[endpoint.target.transport].scan_host_keys(endpoint)

    async def close(self) -> None:
        """Close every connection of every transport."""
        for sessions in self._sessions.values():
            await sessions.close()


Fetch = Callable[[Credential, str], Awaitable[Credential]]
"""Called before a login with a credential and the purpose; returns it with its secrets.

The credential may have its secrets in an external store. Raises RemoteFailure(CREDENTIAL_MISSING).
"""


async def refuse_external(credential: Credential, _purpose: str) -> Credential:
    """Refuse a credential of an external store, to which this process has no access."""
    if credential.source is None:
        return credential
    message = (
        f"The secrets of the credential {credential.name} are in an external store "
        "that this process cannot access."
    )
    raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, message)


def check_command(command: str) -> None:
    """Raise ValueError for an empty command line, or one with NUL.

    An empty one would request a shell; at NUL a server cuts the line off.
    """
    if not command or "\0" in command:
        raise ValueError("a command line is neither empty nor holds NUL")
