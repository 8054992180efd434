"""The command `up`: run the stack until Ctrl-C and report its progress on the terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from opsjobs.standalone.stack import Stack, StackOptions


def up(options: StackOptions, login_url: Callable[[Stack], str] | None = None) -> int:
    """Run everything until SIGINT or SIGTERM; return the exit code.

    `login_url`: returns an address of the console that logs in once; None if it would end
    in a log. Raises Refusal, Unavailable, SettingsError.
    """
    began = time.monotonic()
    stack = Stack(options, _report)
    handler = _SignalHandler(stack)
    try:
        _report(f"starting in {options.data_dir}")
        for warning in stack.warnings:
            _report(f"WARNING: {warning}")
        stack.start()
        handler.started = True
        _print_welcome(stack, time.monotonic() - began, login_url)
        handler.stop_requested.wait()
    except _StopRequested:
        pass
    _report("stopping (Ctrl-C again: at once)")
    stack.stop()
    _report("stopped")
    return 0


class _StopRequested(BaseException):
    """A stop was requested during the start, which is aborted."""


class _SignalHandler:
    """Handle SIGINT, SIGTERM and SIGHUP; a second signal skips the grace period."""

    def __init__(self, stack: Stack) -> None:
        self.stop_requested = threading.Event()
        self.started = False
        self._stack = stack
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.stop_requested.is_set():
            self._stack.hurry()
            return
        self.stop_requested.set()
        if not self.started:
            raise _StopRequested


def _print_welcome(stack: Stack, seconds: float, login_url: Callable[[Stack], str] | None) -> None:
    _report(f"ready after {seconds:.1f} s; logs in {stack.logs}")
    first = (
        "opsjobs run 'hostname; uptime' -l lab=true"
        if stack.options.lab
        else "opsjobs targets add --help"
    )
    console = f"{stack.url}/console/   (log in: opsjobs console)"
    if login_url is not None:
        # It works once, so this line is worth nothing to a later reader of the terminal.
        console = f"{login_url(stack)}   (works once, for a minute; then: opsjobs console)"
    sys.stdout.write(
        f"console:      {console}\n"
        f"API:          {stack.url}   (its pages: {stack.url}/docs)\n"
        f"admin token:  {stack.admin_token_file}\n"
        f"next, in another terminal:  {first}\n"
    )
    sys.stdout.flush()


def _report(line: str) -> None:
    # The terminal may be closed; children must be stopped all the same.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"up: {line}\n")
        sys.stderr.flush()
