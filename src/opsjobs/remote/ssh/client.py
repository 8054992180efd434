"""The asyncssh client of one login: its responses, and the release of its connection.

A connection that has been open for a while is in the oldest generation of the garbage collector.
Left in cycles it would stay, 28 KB each, until a full collection, which stops the loop for seconds.
So asyncssh's references of a closed connection to itself are cut, and it is freed at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncssh

from opsjobs.remote.ssh.auth_material import AuthMaterial
from opsjobs.remote.ssh.connection import SshConnection
from opsjobs.remote.ssh.host_keys import HostKeyVerifier

PROMPT_CHARACTERS = 80
"""The maximum length of a server's prompt that is quoted in an error."""


class LoginClient(asyncssh.SSHClient):
    """The asyncssh client of one login; records the server's demands after a partial success."""

    def __init__(
        self, verifier: HostKeyVerifier, login: AuthMaterial, exchanged: Callable[[], None]
    ) -> None:
        self._verifier = verifier
        self._keys = list(login.keys)
        self._password = login.password
        self._exchanged = exchanged
        self._prompted = False
        self._given = False
        self._refused = False
        self._more: str | None = None
        self._prompts: list[str] = []
        self._wire: asyncssh.SSHClientConnection | None = None
        self.connection: SshConnection | None = None

    @property
    def second_factor(self) -> str | None:
        """The second factor that the server asked for after it accepted the credential, or None.

        A server lists a rejected method again, and asyncssh then asks for another key or password.
        After a partial success it lists only the other methods (RFC 4252, 5.1).
        """
        if len(self._prompts) > 1:
            return f"`{self._prompts[-1]}`"
        return None if self._refused else self._more

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Store the connection; the login follows."""
        self._wire = conn

    def connection_lost(self, _exc: Exception | None) -> None:
        """Handle the end of the connection, before or after the login."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.mark_lost()
        wire, self._wire = self._wire, None
        if wire is not None:
            asyncio.get_running_loop().call_soon(release, wire)

    def validate_host_public_key(
        self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Return True for an acceptable host key that is not pinned."""
        return self._verifier.accepts(key)

    def begin_auth(self, _username: str) -> None:
        """Record that the keys are exchanged and the host key is valid."""
        self._exchanged()

    def public_key_auth_requested(self) -> Any:
        """Return all keys on the first call, and none on later calls."""
        keys, self._keys = self._keys, []
        self._record_answer(given=bool(keys))
        return keys or None

    def password_auth_requested(self) -> str | None:
        """Return the password once, for either method: a second try could lock the account."""
        password, self._password = self._password, None
        self._record_answer(given=password is not None)
        return password.reveal() if password is not None else None

    def kbdint_auth_requested(self) -> str | None:
        """Accept keyboard-interactive once, if there is a password to respond with.

        A server without PAM may offer it and ask nothing: then the method `password` follows.
        """
        if self._password is not None:
            prompted, self._prompted = self._prompted, True
            return None if prompted else ""
        if self._given:
            self._more = "keyboard-interactive"
        return None

    def _record_answer(self, *, given: bool) -> None:
        self._given = self._given or given
        self._refused = self._refused or not given

    def kbdint_challenge_received(
        self, _name: str, _instructions: str, _lang: str, prompts: Any
    ) -> Any:
        """Respond to a single hidden prompt with the password; any other needs a person."""
        if not prompts:
            return []
        asked = ", ".join(str(prompt).strip()[:PROMPT_CHARACTERS] for prompt, _echo in prompts)
        if asked not in self._prompts:
            self._prompts.append(asked)
        password = self._password if len(prompts) == 1 and not prompts[0][1] else None
        if password is None:
            return None
        self._password = None
        self._given = True
        return [password.reveal()]


def release(wire: Any) -> None:
    """Cut the references of a closed connection to itself.

    Nothing is received or sent over it any more.
    """
    held = vars(wire)
    for name, value in list(held.items()):
        if getattr(value, "__self__", None) is wire:  # a handler
            held[name] = _ended_handler
        elif _refers(value, wire):  # a key exchange that was not completed
            held[name] = None


def _refers(value: object, wire: Any) -> bool:
    return any(part is wire for part in getattr(value, "__dict__", {}).values())


def _ended_handler(*_: Any, **__: Any) -> bool:
    """Do nothing, in place of a handler after the end."""
    return False


def forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an exception and its causes.

    Their frames hold the connection, which holds the exception.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
