"""Bind a new process to its parent's lifetime, switch to a user, and exec the command.

This file is run by path and never imported:
`launcher.py PARENT_PID DEATH_SIGNAL UID GID COMMAND ARGUMENT…`; UID and GID are numbers, or `-` to
keep the current user. It imports no module of opsjobs, so it starts in about 15 ms, and it is
single-threaded, which a `preexec_fn` is not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, death_signal: int, uid: str, gid: str, command: list[str]) -> None:
    """Exec `command`; exit with 1 if the parent has already exited."""
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # After setuid, because a change of user clears the death signal. The kernel sends it when
        # the parent THREAD ends.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    # CPython ignores SIGPIPE, and an ignored signal stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606  running without a shell is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
