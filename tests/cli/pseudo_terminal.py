"""The command on a terminal of its own: its output, and answers typed to its questions."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence

SECONDS = 90.0


def run_on_terminal(
    *words: str,
    url: str,
    answers: Sequence[tuple[bytes, bytes]] = (),
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run it, and type each answer once its question was shown (b"\x03" is Ctrl-C).

    Return the exit code and the output.
    """
    around = {
        **os.environ,
        "OPSJOBS_URL": url,
        "OPSJOBS_TOKEN": "opsc_ada",
        "TERM": "xterm-256color",
        "COLUMNS": "120",
    }
    around.pop("NO_COLOR", None)
    pid, ours = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "opsjobs", *words],
            {**around, **(environment or {})},
        )
    try:
        shown = _shown(ours, list(answers))
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(ours)


def _shown(ours: int, answers: list[tuple[bytes, bytes]]) -> bytes:
    shown, begin, until = b"", 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        if answers and (at := shown.find(answers[0][0], begin)) >= 0:
            begin = at + len(answers[0][0])
            os.write(ours, answers.pop(0)[1])
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            portion = os.read(ours, 65_536)
        except OSError:  # the last process on the other side has closed it
            return shown
        if not portion:
            return shown
        shown += portion
    raise AssertionError(f"the command did not end in time, and has shown {shown!r}")
