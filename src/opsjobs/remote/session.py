"""The Session protocol: what the engine may ask of a machine, whatever the transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.spool_identity import Become, RunKey, SpoolIdentity, StartOrder
from opsjobs.model.target import Endpoint
from opsjobs.remote.disk import Disk

Stream = Literal["stdout", "stderr"]
Cause = Literal["timeout", "output_limit", "cancel", "disk_full", "interpreter", "folder", "storage"]


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes as the command wrote them; at most 64 KiB a piece."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class RemoteExit:
    """How the command ended: an exit code, or the name of the signal that ended it ("KILL").

    `cause`: the target's own watchdog ended it, for its time or for the size of its output, or a cancel of ours did; or the
    target's disk was full at its end, and output is lost; or the program was not started at all: its interpreter or its folder
    is not there, or what it needs could not be stored. `words` may say more of that.
    """

    code: int | None
    signal: str | None = None
    cause: Cause | None = None
    words: str | None = None

    @property
    def unstarted(self) -> bool:
        """Whether nothing of the program ran, for a reason of its machine: the code is not the program's."""
        return self.cause in ("interpreter", "folder", "storage")


def unstarted(cause: Cause, program: Program) -> RemoteExit:
    """How a program ends whose machine lacks something, in words."""
    words = {
        "interpreter": f"there is no {program.interpreter} on the target that can be started",
        "folder": f"the working directory {program.cwd} is not there, or cannot be entered",
        "storage": "the target could not store its script, its input or its secrets (is its disk full?)",
    }
    return RemoteExit(None, None, cause, words.get(cause))


def no_shell(end: RemoteExit) -> RemoteExit:
    """How a line ends that no POSIX shell has told of: not with what the machine makes of it, unless something ended it."""
    if end.signal is not None or (end.code or 0) > 128:
        return end
    return RemoteExit(
        None, None, "interpreter", f"the target does not run lines for a POSIX shell: it ended ours with {end.code}"
    )


@dataclass(frozen=True, slots=True)
class SessionStep:
    """One timed part of reaching a machine (`targets test`): connect, auth, shell, sudo, sftp.

    `needed`: without it the machine does not work; of sudo and sftp it is only good to know.
    """

    name: str
    ok: bool
    ms: float
    error: str | None = None
    needed: bool = True


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """When a connection was logged in to, in seconds on the monotonic clock: from the exchange of keys until it was let in."""

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
        """The output as it comes, then exactly one Exit.

        Back-pressure: while nobody reads, at most a bounded amount is buffered and the remote end is made to wait.
        Raises RemoteFailure(LOST) where contact breaks before the exit was seen: the command may have run or not
        (of a durable run ContactLost, and it goes on; LOST where the run is gone for good).
        """

    async def kill(self, grace_seconds: float) -> CancelProof:
        """TERM to the command's process group, KILL after the grace; says what became of it. Reading may go on."""

    async def close(self) -> None:
        """Let go of the channel, whatever state the command is in."""


class IdentityDiffers(Exception):
    """The machine's store is not the expected one: this request started nothing."""

    def __init__(self, seen: SpoolIdentity) -> None:
        super().__init__(f"store {seen.store}, boot {seen.boot}")
        self.seen = seen


class NotBegun(Exception):
    """There is no run to attach to. `settled`: it can never begin any more, so that only the next attempt may.

    `up_seconds`: the boot under which it was expected is over, and a reboot may cost a record. That one was of this same machine,
    which has been up for so long now: the word holds for what was asked of it since then, and for nothing before.
    """

    def __init__(self, *, settled: bool, up_seconds: float | None = None) -> None:
        super().__init__("never to begin" if settled else "not begun")
        self.settled = settled
        self.up_seconds = up_seconds


class NoSpool(Exception):
    """The machine cannot keep a durable run; says why. Nothing was started."""


class ContactLost(RemoteFailure):
    """Contact broke, and the command goes on or may have begun: an attach tells."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.LOST, message)


class NotFollowed(ContactLost):
    """What is there is not ours to follow: another command than this one, or begun by another release. It perhaps runs."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a durable run, by the target's own word; `exit` where it ended by itself or was ended."""

    proof: CancelProof
    exit: RemoteExit | None = None


class Durable(Protocol):
    """Durable runs on one machine: what starts here goes on when contact breaks, and is found again by its key.

    `become`: whose run it is, where not of who logs in. Where that is not allowed, nothing is done, and all but `cancel` raise
    RemoteFailure(BECOME_FAILED).
    """

    async def begin(self, order: StartOrder, expected: SpoolIdentity | None) -> RemoteProcess:
        """Start, unless it was started before, and follow it from its first byte.

        Raises IdentityDiffers (always where None is expected: a first contact), NotBegun(settled) where the key was voided,
        NoSpool, RemoteFailure(CONNECTION_LOST) where nothing can have started, ContactLost where it may have, and
        RemoteFailure(LOST) where it was begun before and is gone; NotFollowed where it was another command.
        """

    async def attach(self, order: StartOrder, expected: SpoolIdentity, offsets: tuple[int, int]) -> RemoteProcess:
        """Follow what was started before, from these offsets (stdout, stderr) on.

        Raises as `begin`, and NotBegun(settled=False) where the target shows that it never started. After a reboot both kinds
        of NotBegun say since when the machine is up, or are RemoteFailure(LOST) where it cannot tell.
        """

    async def identity(self, become: Become | None = None) -> SpoolIdentity:
        """Which store this is now, made where there is none. Raises NoSpool, RemoteFailure."""

    async def look(self, key: RunKey, become: Become | None = None) -> Settlement | None:
        """How a run stands, touching nothing: None while it lives. Raises RemoteFailure."""

    async def cancel(self, key: RunKey, grace_seconds: float, become: Become | None = None) -> Settlement:
        """See to it that the run never begins, or ends: TERM, KILL after the grace, then whatever escaped.

        Never raises for what a machine does: the proof is `unreachable` where the target's answer is missing.
        """

    async def clean(self, keys: Sequence[RunKey], become: Become | None = None, *, output_only: bool = False) -> None:
        """Remove the folders of runs that have ended. Raises RemoteFailure.

        `output_only`: keep the record of each run, which refuses a second start and knows how it ended.
        """


class Session(Protocol):
    """An open channel to one machine."""

    @property
    def logged_in(self) -> LoggedIn | None:
        """When its connection was, which others may have made long before; None where nobody logs in."""

    async def start(self, command: str | Program, *, stdin: bytes = b"", marked: bool | None = None) -> RemoteProcess:
        """Start a command line in the login shell; `marked` = learn its process group, for `kill` (default: where possible).

        Or a program, which has its `stdin` in itself: a POSIX shell of the machine starts it. Where there is none, its Exit
        says so, as for everything else that it lacks (`RemoteExit.unstarted`).

        Raises RemoteFailure: CONNECTION_LOST where nothing can have started, LOST where the request was written
        and no answer came.
        """

    def durable(self) -> Durable | None:
        """Durable runs on this machine; None where its platform knows none."""

    def disk(self) -> AbstractAsyncContextManager[Disk]:
        """Files on this machine. Raises RemoteFailure: TRANSFER where it serves none, CONNECTION_LOST."""


class Sessions(Protocol):
    """Where sessions come from: the pool, for one kind of transport or for all."""

    def session(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Session]:
        """A session to the machine, connecting where there is no connection yet.

        Raises RemoteFailure with the code of the phase that failed: dns, connect_timeout, connection_refused,
        connection_lost, host_key, auth_failed, credential_missing, circuit_open.
        """

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Connect afresh and time each step; never raises for what a machine does."""

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """The keys that the host shows now, without logging in. Raises RemoteFailure."""

    async def close(self) -> None:
        """Close every connection."""
