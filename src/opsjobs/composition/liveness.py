"""Liveness: tell probes and the watchdog of systemd if this process makes progress.

A task on the process's event loop beats once a second. A blocked loop stops the beats, and then
neither does a probe pass nor is the watchdog fed. The answers to probes come from another thread,
so there is one even if the loop is blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

from opsjobs.settings import Settings
from opsjobs.task_cancellation import ended
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics, Probe

BEAT_SECONDS = 1.0
# Pauses of the loop (garbage collection, a full machine) are far shorter.
LAG_SECONDS_MAX = 30.0
BEATS_PER_WATCHDOG = 3
STARTING = "starting"
STOPPING = "stopping"


def _nothing() -> None:
    return None


class Liveness:
    """The liveness and the readiness of one process."""

    def __init__(
        self,
        *,
        fault: Probe = _nothing,
        unready: Probe = _nothing,
        manager: ServiceManager | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` starts it.

        `fault` returns the part that has stopped for good although the event loop runs. `unready`
        returns why the process does no work now; that is no fault, and often passes by itself.
        Neither may block.
        """
        self._fault = fault
        self._unready = unready
        self._manager = manager or ServiceManager()
        self._monotonic = monotonic
        self._beaten_at: float | None = None
        self._stopping = False
        self._status: str | None = None
        self._logged: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report that the process has started, and beat, in the running event loop."""
        self._beaten_at = self._monotonic()
        self._manager.notify(READY=1)
        self._task = asyncio.create_task(self._beat(), name="liveness")

    def begin_stop(self, seconds: float) -> None:
        """Report that the process stops, within so many seconds; beats continue."""
        self._stopping = True
        self._manager.notify(
            STOPPING=1, STATUS=STOPPING, EXTEND_TIMEOUT_USEC=int(seconds * 1_000_000)
        )

    async def stop(self) -> None:
        """End the beats: the event loop is about to end."""
        if self._task is not None:
            await ended(self._task)

    def fault(self) -> str | None:
        """Return why the process should be restarted, or None. Callable from any thread."""
        if self._beaten_at is None:
            return None
        lag = self._monotonic() - self._beaten_at
        if lag > LAG_SECONDS_MAX:
            return f"the event loop has been blocked for {lag:.0f} s"
        return self._fault()

    def unready(self) -> str | None:
        """Return why the process does no work now, or None. Callable from any thread."""
        if self._beaten_at is None:
            return STARTING
        return STOPPING if self._stopping else self.fault() or self._unready()

    @property
    def probes(self) -> Mapping[str, Probe]:
        """The probes by their paths."""
        return {"/livez": self.fault, "/readyz": self.unready}

    async def _beat(self) -> None:
        limit = self._manager.watchdog_seconds
        pause = min(BEAT_SECONDS, limit / BEATS_PER_WATCHDOG) if limit else BEAT_SECONDS
        while True:
            self._beaten_at = self._monotonic()
            fault = self.fault()
            if fault is None and limit is not None:
                self._manager.notify(WATCHDOG=1)
            if fault != self._logged and fault is not None:
                log.error("process_stuck", reason=fault)
            self._logged = fault
            self._report_status(self.unready() or "ready")
            await asyncio.sleep(pause)

    def _report_status(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self._manager.notify(STATUS=status)


def serve_metrics(settings: Settings, metrics: Metrics, liveness: Liveness) -> None:
    """Serve metrics and probes without a token on METRICS_PORT, if it is set."""
    wanted = settings.telemetry
    if wanted.enable_metrics and wanted.metrics_port is not None:
        metrics.serve(wanted.metrics_host, wanted.metrics_port, liveness.probes)


# --- the notification protocol of systemd: readiness, watchdog and stop


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
