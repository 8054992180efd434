"""As another user: what is put around a request, and the talk with the program that asks for a password.

The request itself, command and all, is read from standard input by a shell of that user: what sudo and doas log stays short.
Where there is a password, it is sent when it is asked for, and the request only once that shell has answered: neither can be
taken for the other. Without one nothing asks, so nothing is waited for.
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
from opsjobs.model.spool_identity import Become
from opsjobs.remote.session import Output, RemoteExit, RemoteProcess, Stream

BECOME_SECONDS = 30.0
"""How long a program that asks for a password may take to let us through; what judges the password may be far away."""

HEARD_BYTES = 8 * 1024
"""So much of what is said by programs and login scripts is kept while we wait."""

WORDS_LINES = 3
WORDS_CHARACTERS = 300

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
# The other user's shell: it reads one line and does what that says.
_LISTEN = 'IFS= read -r l; eval "$l"'
# It says first that it is there, and passes over what it did not ask for: a password that nobody wanted.
_ANSWER = f'echo $1$2; while IFS= read -r l; do case $l in "$1") break;; esac; done; {_LISTEN}'
# su asks on standard input, which holds the request: where it would ask, it fails before.
_WILLING = 'su $1 -c : </dev/null && su $1 -c "$2"'


@runtime_checkable
class Speaker(RemoteProcess, Protocol):
    """A process whose standard input is still open."""

    def say(self, data: bytes, *, end: bool) -> None:
        """Go on with its standard input, and end it there or not."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one request comes to run as another user.

    `mark`: what comes before the request. The shell's word that it is there is `mark` and `rest` in one: nobody who repeats
    its command line says that.
    """

    become: Become
    mark: str = field(default_factory=lambda: f"opsjobs-{secrets.token_hex(8)}")
    rest: str = field(default_factory=lambda: secrets.token_hex(8))
    prompt: str = field(default_factory=lambda: f"opsjobs-password-{secrets.token_hex(8)}:")

    @property
    def line(self) -> str:
        """The command line, for any login shell. Raises ValueError for a user who cannot be one."""
        user, method = self.become.user, self.become.method
        if not _USER.fullmatch(user):
            raise ValueError(f"{user!r} is not the name of a user")
        shell = f"sh -c '{_ANSWER if self.talks else _LISTEN}' opsjobs {self.mark} {self.rest}"
        match method:
            case "doas":
                return f"doas -n -u {user} {shell}"
            case "sudo":
                return f"sudo {f'-k -H -S -p {self.prompt}' if self.talks else '-H -n'} -u {user} {shell}"
            case "su" if self.talks:
                return f"su {user} -c {quoted(shell)}"
        return f"sh -c '{_WILLING}' opsjobs {user} {quoted(shell)}"

    @property
    def talks(self) -> bool:
        """Whether there is a password to be asked for."""
        return self.become.password is not None

    def refused(self, words: str) -> RemoteFailure:
        """What is told of a machine that did not let us through."""
        user, method = self.become.user, self.become.method
        message = f"could not become {user} by {method}, so nothing was started: {words or 'it gave no reason'}"
        return RemoteFailure(ErrorCode.BECOME_FAILED, message)

    async def enter(self, process: Speaker) -> None:
        """Return once the other user's shell listens. Raises RemoteFailure: BECOME_FAILED with the program's own words."""
        if self.become.password is not None and set(self.become.password.reveal()) & {"\n", "\0"}:
            raise self.refused("the credential's password holds a line break or NUL, which nobody can be given")
        talk = _Talk(self, process.say)
        try:
            async with asyncio.timeout(BECOME_SECONDS):
                async for piece in process:
                    if isinstance(piece, RemoteExit):
                        raise self.refused(talk.words)
                    if talk.heard(piece):
                        return
        except TimeoutError:
            raise self.refused(f"no answer within {BECOME_SECONDS:.0f} s. {talk.words}") from None
        raise self.refused(talk.words)


class _Talk:
    """What was said until the shell answered, and what we say to it."""

    def __init__(self, way: Way, say: Callable[..., None]) -> None:
        self._way = way
        self._say = say
        self._said: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._tries = 0
        if way.become.method == "su":  # it asks once, in the words of its system
            self._answer()

    def heard(self, piece: Output) -> bool:
        """True where the shell has answered."""
        said = self._said[piece.stream] + piece.data
        if f"{self._way.mark}{self._way.rest}".encode() in said:
            return True
        prompt = self._way.prompt.encode()
        if prompt in said:
            said = said.replace(prompt, b"")
            self._answer()
        self._said[piece.stream] = said[-HEARD_BYTES:]
        return False

    def _answer(self) -> None:
        """Give the password; who asks again has not taken it, and a second try could lock somebody out."""
        self._tries += 1
        password = self._way.become.password
        assert password is not None
        if self._tries == 1:
            self._say(password.reveal().encode() + b"\n", end=False)
        else:
            self._say(b"", end=True)

    @property
    def words(self) -> str:
        """The last lines of what was said, for people."""
        return last_words(self._said["stdout"] + self._said["stderr"])


def last_words(said: bytes) -> str:
    """The last lines of what programs said, in one."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    return "; ".join([line for line in lines if line][-WORDS_LINES:])[-WORDS_CHARACTERS:]


def quoted(text: str) -> str:
    """For sh, csh and fish alike: in single quotes, and each of its own between double ones."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
