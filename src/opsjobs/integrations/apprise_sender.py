"""Notifications by apprise (the extra `[apprise]`), each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from opsjobs.model.addresses import Network
from opsjobs.model.secret import Secret

SECONDS_MAX = 12.0
PROCESSES_MAX = 4
OUTPUT_BYTES_MAX = 64 << 10
HOW_TO_INSTALL = "pip install 'opsconductor-jobs[apprise]'"
# What a process needs to run and to find certificates; nothing of ours, which may be secret.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


class AppriseUnavailable(Exception):
    """The message was not sent now: send it again later."""


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

    async def send(self, url: Secret, title: str, text: str) -> None:
        """Send one notification. Raises AppriseUnavailable, AppriseRefused."""
        if not is_installed():
            raise AppriseRefused(f"apprise is not installed. Install it: {HOW_TO_INSTALL}")
        given = {"url": url.reveal(), "title": title, "body": text, "allow": self._allow}
        async with self._places:
            result = await self._run(json.dumps(given).encode())
        if result["sent"]:
            return
        if result["final"]:
            raise AppriseRefused(str(result["error"]))
        raise AppriseUnavailable(str(result["error"]))

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
