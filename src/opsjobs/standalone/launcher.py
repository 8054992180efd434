"""Run by path, not imported: ties a new process to its parent's life, drops to a user, and becomes the command.

`launcher.py PARENT_PID DEATH_SIGNAL UID GID COMMAND ARGUMENT…`; UID and GID are numbers, or `-` to stay who we are.
It needs no module of ours, so it starts in some 15 ms, and it is alone in its process, which a `preexec_fn` is not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, death_signal: int, uid: str, gid: str, command: list[str]) -> None:
    """Become `command`. Ends with 1 where the parent is gone already."""
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # After setuid: a change of user clears the death signal. It is the death of the parent's THREAD that counts.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    # CPython ignores SIGPIPE, and an ignored signal stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606  no shell is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
