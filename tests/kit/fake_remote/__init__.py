r"""Scripted machines for tests: they run nothing and do exactly what a test scripts.

fakes = FakeSessions(clock)
web = fakes.machine("web-1")
web.reply([Output("stdout", b"ok\n"), Exit(0)])         # for any command
web.reply([Gate(event), Exit(0)], to="sleep 60")        # for one command; the later rule wins
web.refuse(RemoteFailure(ErrorCode.AUTH_FAILED, "no"))  # at connect, until `accept()`
web.cut()                                               # contact breaks, until `mend()`
web.starts                                              # every start, in order
web.runs                                                # durable runs by their keys
"""

from __future__ import annotations

from kit.fake_remote.machine import FakeMachine, Start
from kit.fake_remote.script import Break, Deed, Echo, Gate, Pause, Script
from kit.fake_remote.sessions import FakeSessions

__all__ = [
    "Break",
    "Deed",
    "Echo",
    "FakeMachine",
    "FakeSessions",
    "Gate",
    "Pause",
    "Script",
    "Start",
]
