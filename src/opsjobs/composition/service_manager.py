"""The notification protocol of systemd: readiness, watchdog and stop of this process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

SEND_TIMEOUT_SECONDS = 0.5


class ServiceManager:
    """The service manager that started this process; without one, nothing is sent."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog_seconds(environ) if self._address else None
        """The watchdog kills a process that it has not heard of for so long; None if it is off."""

    def notify(self, **assignments: object) -> None:
        """Send assignments such as READY=1, in one datagram.

        It does not wait for a manager that does not read: the watchdog counts messages that arrive.
        """
        if self._address is None:
            return
        lines = (f"{name}={_one_line(str(value))}" for name, value in assignments.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(SEND_TIMEOUT_SECONDS)
            out.sendto("\n".join(lines).encode(), self._address)


def _socket_address(text: str) -> str | None:
    """Return the address of NOTIFY_SOCKET; None if it is not set or of no kind that we speak."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the time limit of the watchdog, if it is meant for this process."""
    process, limit = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if process not in ("", str(os.getpid())) or not limit.isdecimal() or not int(limit):
        return None
    return int(limit) / 1_000_000


def _one_line(text: str) -> str:
    return " ".join(text.split())
