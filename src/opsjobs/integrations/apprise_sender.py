"""Notifications by apprise (the extra `[apprise]`), each in a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import Any
from weakref import WeakValueDictionary

from opsjobs.model.addresses import Network
from opsjobs.model.secret import Secret

SECONDS_MAX = 12.0
PROCESSES_MAX = 4
PROCESSES_PER_URL = 2
"""A URL that hangs leaves the other places to the others."""
PLACE_SECONDS = 2.0
"""The time for which a message waits for a place."""
OUTPUT_BYTES_MAX = 64 << 10
HOW_TO_INSTALL = "pip install 'opsconductor-jobs[apprise]'"
# What a process needs to run and to find certificates; nothing of ours, which may be secret.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


class AppriseUnavailable(Exception):
    """The message was not sent now: send it again later."""


class AppriseBusy(Exception):
    """No process was free: nothing was sent. Send it again soon."""


class AppriseRefused(Exception):
    """The message will never be sent so: the URL or the installation has to be changed."""


def is_installed() -> bool:
    """Return True if the extra is installed, without importing it."""
    return find_spec("apprise") is not None


class AppriseSender:
    """Sends notifications to URLs of apprise.

    `allow`: networks that may be connected to although they are not public.
    """

    def __init__(
        self, allow: Sequence[Network] = (), *, timeout_seconds: float = SECONDS_MAX
    ) -> None:
        self._allow = [str(network) for network in allow]
        self._timeout_seconds = timeout_seconds
        self._places = asyncio.Semaphore(PROCESSES_MAX)
        self._places_of_url: WeakValueDictionary[bytes, asyncio.Semaphore] = WeakValueDictionary()

    async def send(self, url: Secret, title: str, text: str) -> None:
        """Send one notification. Raises AppriseBusy, AppriseUnavailable, AppriseRefused."""
        if not is_installed():
            raise AppriseRefused(f"apprise is not installed. Install it: {HOW_TO_INSTALL}")
        given = {"url": url.reveal(), "title": title, "body": text, "allow": self._allow}
        async with self._place(url):
            result = await self._run(json.dumps(given).encode())
        if result["sent"]:
            return
        if result["final"]:
            raise AppriseRefused(str(result["error"]))
        raise AppriseUnavailable(str(result["error"]))

    @asynccontextmanager
    async def _place(self, url: Secret) -> AsyncIterator[None]:
        """Hold a place for a process of this URL. Raises AppriseBusy."""
        key = hashlib.sha256(url.reveal().encode()).digest()
        of_url = self._places_of_url.setdefault(key, asyncio.Semaphore(PROCESSES_PER_URL))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(PLACE_SECONDS):
                    await held.enter_async_context(of_url)
                    await held.enter_async_context(self._places)
            except TimeoutError:
                raise AppriseBusy(
                    f"no process for apprise was free within {PLACE_SECONDS:g} s"
                ) from None
            yield

    async def _run(self, given: bytes) -> dict[str, Any]:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "opsjobs.integrations.apprise_child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd="/",
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                output, _ = await child.communicate(given)
        except TimeoutError:
            raise AppriseUnavailable(
                f"apprise did not end within {self._timeout_seconds:g} s"
            ) from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        try:
            result: dict[str, Any] = json.loads(output[-OUTPUT_BYTES_MAX:].splitlines()[-1])
        except (ValueError, IndexError):
            raise AppriseUnavailable(
                f"the process of apprise ended with {child.returncode} and no result"
            ) from None
        return result
