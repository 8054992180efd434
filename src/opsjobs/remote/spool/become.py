"""Run a request as another user, and handle the password prompt of sudo or su.

A shell of that user reads the request, with its command, from standard input: the log entries of
sudo and doas stay short. If there is a password, it is sent when prompted for, and the request
only once that shell has responded: neither can be mistaken for the other. Without a password there
is no prompt and no wait.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import Become
from opsjobs.remote.session import Output, RemoteExit, RemoteProcess, Stream

BECOME_SECONDS = 30.0
"""The time for the password dialog; the service that checks passwords may be slow."""

HEARD_BYTES = 8 * 1024
"""The maximum output of programs and login scripts that is kept during the dialog."""

WORDS_LINES = 3
WORDS_CHARACTERS = 300

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
# The other user's shell: it reads one line and evaluates it.
_LISTEN = 'IFS= read -r l; eval "$l"'
# It first identifies itself, and then skips input that was not requested: a password that was
# not needed.
_ANSWER = f'echo $1$2; while IFS= read -r l; do case $l in "$1") break;; esac; done; {_LISTEN}'
# su prompts on standard input, which holds the request: make it fail first if it would prompt.
_WILLING = 'su $1 -c : </dev/null && su $1 -c "$2"'


@runtime_checkable
class InteractiveProcess(RemoteProcess, Protocol):
    """A process whose standard input is still open."""

    def write_stdin(self, data: bytes, *, end: bool) -> None:
        """Write to its standard input, and close it if `end`."""


@dataclass(frozen=True, slots=True)
class BecomeRequest:
    """The command and markers for one request that runs as another user.

    `mark` precedes the request. The shell identifies itself with `mark` and `rest` joined: a
    program that only repeats its command line cannot produce that.
    """

    become: Become
    mark: str = field(default_factory=lambda: f"opsjobs-{secrets.token_hex(8)}")
    rest: str = field(default_factory=lambda: secrets.token_hex(8))
    prompt: str = field(default_factory=lambda: f"opsjobs-password-{secrets.token_hex(8)}:")

    @property
    def line(self) -> str:
        """The command line, for any login shell. Raises ValueError for an invalid user name."""
        user, method = self.become.user, self.become.method
        if not _USER.fullmatch(user):
            raise ValueError(f"{user!r} is not the name of a user")
        shell = (
            f"sh -c '{_ANSWER if self.asks_password else _LISTEN}' opsjobs {self.mark} {self.rest}"
        )
        match method:
            case "doas":
                return f"doas -n -u {user} {shell}"
            case "sudo":
                options = f"-k -H -S -p {self.prompt}" if self.asks_password else "-H -n"
                return f"sudo {options} -u {user} {shell}"
            case "su" if self.asks_password:
                return f"su {user} -c {quote(shell)}"
        return f"sh -c '{_WILLING}' opsjobs {user} {quote(shell)}"

    @property
    def asks_password(self) -> bool:
        """True if there is a password that may be prompted for."""
        return self.become.password is not None

    def failure(self, output: str) -> RemoteFailure:
        """Return the failure for a machine that refused the change of user."""
        user, method = self.become.user, self.become.method
        reason = output or "it gave no reason"
        message = f"could not become {user} by {method}, so nothing was started: {reason}"
        return RemoteFailure(ErrorCode.BECOME_FAILED, message)

    async def enter(self, process: InteractiveProcess) -> None:
        """Return once the other user's shell is reading requests.

        Raises RemoteFailure: BECOME_FAILED with the program's own message.
        """
        if self.become.password is not None and set(self.become.password.reveal()) & {"\n", "\0"}:
            raise self.failure(
                "the credential's password contains a line break or NUL, which cannot be sent"
            )
        dialog = _PasswordDialog(self, process.write_stdin)
        try:
            async with asyncio.timeout(BECOME_SECONDS):
                async for piece in process:
                    if isinstance(piece, RemoteExit):
                        raise self.failure(dialog.last_output)
                    if dialog.feed(piece):
                        return
        except TimeoutError:
            raise self.failure(
                f"no answer within {BECOME_SECONDS:.0f} s. {dialog.last_output}"
            ) from None
        raise self.failure(dialog.last_output)


class _PasswordDialog:
    """The dialog until the shell responds: the output so far, and the input sent."""

    def __init__(self, request: BecomeRequest, write_stdin: Callable[..., None]) -> None:
        self._request = request
        self._write_stdin = write_stdin
        self._output: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._tries = 0
        if request.become.method == "su":  # it prompts once, in the language of its system
            self._answer()

    def feed(self, piece: Output) -> bool:
        """Add output; return True once the shell has responded."""
        output = self._output[piece.stream] + piece.data
        if f"{self._request.mark}{self._request.rest}".encode() in output:
            return True
        prompt = self._request.prompt.encode()
        if prompt in output:
            output = output.replace(prompt, b"")
            self._answer()
        self._output[piece.stream] = output[-HEARD_BYTES:]
        return False

    def _answer(self) -> None:
        """Send the password once.

        A second prompt means that it was refused; another try could lock the account.
        """
        self._tries += 1
        password = self._request.become.password
        assert password is not None
        if self._tries == 1:
            self._write_stdin(password.reveal().encode() + b"\n", end=False)
        else:
            self._write_stdin(b"", end=True)

    @property
    def last_output(self) -> str:
        """Return the last lines of the output, for messages."""
        return last_lines(self._output["stdout"] + self._output["stderr"])


def last_lines(output: bytes) -> str:
    """Return the last lines of a program's output, joined."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    return "; ".join([line for line in lines if line][-WORDS_LINES:])[-WORDS_CHARACTERS:]


def quote(text: str) -> str:
    """Quote for sh, csh and fish alike: single quotes, with each inner one in double quotes."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
