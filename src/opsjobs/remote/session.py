"""The Session protocol: what the engine may ask of a machine, whatever the transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from opsjobs.model.execution import CancelProof
from opsjobs.model.target import Endpoint

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes as the command wrote them; at most 64 KiB a piece."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended: an exit code, or the name of the signal that ended it ("KILL")."""

    code: int | None
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One timed part of reaching a machine (`targets test`): connect, auth, shell."""

    name: str
    ok: bool
    ms: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HostKey:
    """A host key as one authorized_keys-like line, and its SHA256 fingerprint."""

    key: str
    fingerprint: str


class Process(Protocol):
    """A command that was started on a machine."""

    def __aiter__(self) -> AsyncIterator[Output | Exit]:
        """The output as it comes, then exactly one Exit.

        Back-pressure: while nobody reads, at most a bounded amount is buffered and the remote end is made to wait.
        Raises RemoteFailure(LOST) where contact breaks before the exit was seen: the command may have run or not.
        """

    async def kill(self, grace_seconds: float) -> CancelProof:
        """TERM to the command's process group, KILL after the grace; says what became of it. Reading may go on."""

    async def close(self) -> None:
        """Let go of the channel, whatever state the command is in."""


class Session(Protocol):
    """An open channel to one machine."""

    async def start(self, command: str, *, stdin: bytes = b"") -> Process:
        """Start a command line in the login shell.

        Raises RemoteFailure: CONNECTION_LOST where nothing can have started, LOST where the request was written
        and no answer came.
        """


class Sessions(Protocol):
    """Where sessions come from: the pool, for one kind of transport or for all."""

    def session(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Session]:
        """A session to the machine, connecting where there is no connection yet.

        Raises RemoteFailure with the code of the phase that failed: dns, connect_timeout, connection_refused,
        connection_lost, host_key, auth_failed, credential_missing.
        """

    async def test(self, endpoint: Endpoint) -> list[Step]:
        """Connect afresh and time each step; never raises for what a machine does."""

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """The keys that the host shows now, without logging in. Raises RemoteFailure."""

    async def close(self) -> None:
        """Close every connection."""
