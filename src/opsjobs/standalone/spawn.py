"""Start a process in its own session that dies with the thread that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from opsjobs.standalone.os_user import Owner

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


def bare_environment() -> dict[str, str]:
    """Return what a third-party server needs of the environment: no setting, no secret."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C"}


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    owner: Owner | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `command` (an absolute path first) and append its output to `log`.

    The process gets `death_signal` when the calling thread ends, for whatever reason (Linux).
    `owner` is the user that it runs as: only root may name another user. Because the output is
    appended, the log can be truncated while it is written.
    """
    user = (str(owner.uid), str(owner.gid)) if owner and not owner.is_us else ("-", "-")
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  our own arguments
            [
                sys.executable,
                "-I",
                "-S",
                _LAUNCHER,
                str(os.getpid()),
                str(int(death_signal)),
                *user,
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal must reach only this process
        )
