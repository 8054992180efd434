"""How a run's end is spelt in its record, and what follows from it."""

from __future__ import annotations

import signal
from typing import Literal

from opsjobs.model.execution import CancelProof
from opsjobs.remote.session import Exit, Settlement
from opsjobs.remote.spool.records import Word

_CAUSES: dict[str, Literal["timeout", "output_limit", "cancel"]] = {
    "timeout": "timeout",
    "output_limit": "output_limit",
    "cancel": "cancel",
}
_NAMES = {int(number): number.name.removeprefix("SIG") for number in signal.Signals}
_NOTHING = "-"


def exit_of(status: str, cause: str) -> Exit:
    """From `3` or `s15`, and `timeout`, `output_limit`, `cancel` or `-`. Raises ValueError for anything else."""
    why = _CAUSES.get(cause)
    if status.startswith("s"):
        number = int(status[1:])
        return Exit(None, _NAMES.get(number, str(number)), why)
    return Exit(int(status), None, why)


def settlement_of(answer: Word) -> Settlement:
    """From a cancel's answer: the proof, and how the run ended where it did."""
    _, proof, status, cause = answer
    return Settlement(CancelProof(proof), None if status == _NOTHING else exit_of(status, cause))


def standing_of(answer: Word) -> Settlement | None:
    """From a look's answer: None while the run lives, or is about to."""
    _, state, status, cause = answer
    match state:
        case "L" | "E":
            return None
        case "N" | "V":
            return Settlement(CancelProof.NEVER_STARTED)
        case "D":
            return Settlement(CancelProof.ALREADY_FINISHED, exit_of(status, cause))
        case _:
            return Settlement(CancelProof.ALREADY_FINISHED)
