"""The command `up`: run the stack until Ctrl-C and report its progress on the terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from types import FrameType

from opsjobs.standalone.stack import Stack, StackOptions


def up(options: StackOptions) -> int:
    """Run everything until SIGINT or SIGTERM; return the exit code.

    Raises Refusal, Unavailable, SettingsError.
    """
    began = time.monotonic()
    stack = Stack(options, _say)
    wish = _SignalHandler(stack)
    try:
        _say(f"starting in {options.data_dir}")
        for warning in stack.warnings:
            _say(f"WARNING: {warning}")
        stack.start()
        wish.may_wait = True
        _greet(stack, time.monotonic() - began)
        wish.asked.wait()
    except _StopRequested:
        pass
    _say("stopping (Ctrl-C again: at once)")
    stack.stop()
    _say("stopped")
    return 0


class _StopRequested(BaseException):
    """A stop was requested during the start, which is aborted."""


class _SignalHandler:
    """Handle SIGINT, SIGTERM and SIGHUP; a second signal skips the remaining grace."""

    def __init__(self, stack: Stack) -> None:
        self.asked = threading.Event()
        self.may_wait = False
        self._stack = stack
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked.is_set():
            self._stack.hurry()
            return
        self.asked.set()
        if not self.may_wait:
            raise _StopRequested


def _greet(stack: Stack, seconds: float) -> None:
    _say(f"ready after {seconds:.1f} s; logs in {stack.logs}")
    first = (
        "opsjobs run 'hostname; uptime' -l lab=true"
        if stack.options.lab
        else "opsjobs targets add --help"
    )
    sys.stdout.write(
        f"API:          {stack.url}   (its pages: {stack.url}/docs)\n"
        f"admin token:  {stack.admin_token_file}\n"
        f"next, in another terminal:  {first}\n"
    )
    sys.stdout.flush()


def _say(line: str) -> None:
    # The terminal may be gone; children must be stopped all the same.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"up: {line}\n")
        sys.stderr.flush()
