"""Parse the record of a run's end."""

from __future__ import annotations

import signal
from dataclasses import replace

from opsjobs.model.execution import CancelProof
from opsjobs.remote.session import CancelOutcome, Cause, RemoteExit
from opsjobs.remote.spool.frame_parser import Word

_CAUSES: tuple[Cause, ...] = (
    "timeout",
    "output_limit",
    "cancel",
    "disk_full",
    "interpreter",
    "folder",
    "storage",
)
_NAMES = {int(number): number.name.removeprefix("SIG") for number in signal.Signals}
_NOTHING = "-"


def exit_of(status: str, cause: str) -> RemoteExit:
    """Return the exit from `3` or `s15`, and one of the causes or `-`.

    Raises ValueError for anything else.
    """
    # If two writers had a cause at the same moment, one overwrote the other: the rest of a longer
    # word may remain.
    why = next((known for known in _CAUSES if cause.startswith(known)), None)
    if status.startswith("s"):
        number = int(status[1:])
        return RemoteExit(None, _NAMES.get(number, str(number)), why)
    ended = RemoteExit(int(status), None, why)
    return replace(ended, code=None) if ended.unstarted else ended


def settlement_of(answer: Word) -> CancelOutcome:
    """Return the settlement of a cancel's answer: the proof, and the exit if the run ended."""
    _, proof, status, cause = answer
    return CancelOutcome(CancelProof(proof), None if status == _NOTHING else exit_of(status, cause))


def standing_of(answer: Word) -> CancelOutcome | None:
    """Return the settlement of a look's answer: None while the run lives, or is about to."""
    _, state, status, cause = answer
    match state:
        case "L" | "E":
            return None
        case "N" | "V":
            return CancelOutcome(CancelProof.NEVER_STARTED)
        case "D":
            return CancelOutcome(CancelProof.ALREADY_FINISHED, exit_of(status, cause))
        case _:
            return CancelOutcome(CancelProof.ALREADY_FINISHED)
