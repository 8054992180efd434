"""How the command ends: every exit code, from every kind of answer, in one place."""

from __future__ import annotations

from enum import IntEnum

from opsjobs.model.errors import Failure
from opsjobs.model.execution import ExecutionStatus


class Exit(IntEnum):
    """What a script may rely on."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_SUCCEEDED = 3
    NOT_FOUND = 4
    NOT_ALLOWED = 5
    CONFLICT = 6
    WAITING = 7
    TIMEOUT = 124
    INTERRUPTED = 130


class CommandFailed(Failure):
    """The command cannot go on: the message (with what to do next) is told on stderr, `exit_code` is how it ends."""

    def __init__(self, message: str, exit_code: Exit = Exit.ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_OF_STATUS = {
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    410: Exit.NOT_FOUND,
    412: Exit.CONFLICT,
    422: Exit.USAGE,
}
_OF_CODE = {"unknown_target": Exit.NOT_FOUND, "no_targets": Exit.NOT_FOUND, "safety_blocked": Exit.NOT_ALLOWED}


def of_answer(status: int, code: str) -> Exit:
    """The exit code for a refused request: its problem code decides, else its HTTP status."""
    return _OF_CODE.get(code) or _OF_STATUS.get(status, Exit.ERROR)


def of_execution(status: str, *, interrupted: bool = False) -> Exit:
    """The exit code for an ended execution; `interrupted` is true where this command's Ctrl-C asked for the cancel."""
    if status == ExecutionStatus.COMPLETED:
        return Exit.OK
    if status == ExecutionStatus.TIMEOUT:
        return Exit.TIMEOUT
    if status == ExecutionStatus.CANCELLED and interrupted:
        return Exit.INTERRUPTED
    return Exit.NOT_SUCCEEDED
