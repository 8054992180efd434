"""Exit codes of the commands."""

from __future__ import annotations

from enum import IntEnum

from opsjobs.model.errors import Failure
from opsjobs.model.execution import ExecutionStatus


class ExitCode(IntEnum):
    """Exit codes that scripts can rely on."""

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
    """The command failed: `message` is printed on stderr, `exit_code` is the exit code."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_OF_STATUS = {
    401: ExitCode.NOT_ALLOWED,
    403: ExitCode.NOT_ALLOWED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    410: ExitCode.NOT_FOUND,
    412: ExitCode.CONFLICT,
    422: ExitCode.USAGE,
}
_OF_CODE = {
    "unknown_target": ExitCode.NOT_FOUND,
    "no_targets": ExitCode.NOT_FOUND,
    "safety_blocked": ExitCode.NOT_ALLOWED,
}


def get_refusal_exit_code(status: int, code: str) -> ExitCode:
    """Return the exit code for a refused request, by its problem code, else its HTTP status."""
    return _OF_CODE.get(code) or _OF_STATUS.get(status, ExitCode.ERROR)


def get_execution_exit_code(status: str, *, interrupted: bool = False) -> ExitCode:
    """Return the exit code for an ended execution.

    `interrupted`: this command's Ctrl-C requested the cancel.
    """
    if status == ExecutionStatus.COMPLETED:
        return ExitCode.OK
    if status == ExecutionStatus.TIMEOUT:
        return ExitCode.TIMEOUT
    if status == ExecutionStatus.CANCELLED and interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.NOT_SUCCEEDED
