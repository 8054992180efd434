"""A run's way to its machine."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from opsjobs import failpoints
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Session, Sessions


class Link:
    """One session at a time, opened when it is needed, and opened again after contact was lost."""

    def __init__(self, sessions: Sessions, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._sessions = sessions
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    async def session(self) -> Session:
        """The session. Raises RemoteFailure where none can be had."""
        if self._session is None:
            async with failpoints.at("session"):
                self._session = await self._stack.enter_async_context(self._sessions.session(self.endpoint))
        return self._session

    async def drop(self) -> None:
        """Let go of the session: the next one may go over another connection."""
        self._session = None
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.drop()
