"""Map asyncssh's exceptions to error codes, with messages that name machine and next step.

Machines may repeat data that they were sent: `login_mask` redacts secrets of the login in messages.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncssh

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.masking import Forms, Mask
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint, Target
from opsjobs.remote.ssh.auth_material import CertificateTerms
from opsjobs.remote.ssh.host_keys import HostKeyVerifier

# Messages of jump hosts about a connection that they could not make (sshd forwards the text of the
# operating system).
_JUMP_HOST_MESSAGES = (
    ("refused", ErrorCode.CONNECTION_REFUSED),
    ("timed out", ErrorCode.CONNECT_TIMEOUT),
    ("no route", ErrorCode.CONNECT_TIMEOUT),
    ("unreachable", ErrorCode.CONNECT_TIMEOUT),
    ("name", ErrorCode.DNS),
    ("resol", ErrorCode.DNS),
)
_PROHIBITED = 1  # RFC 4254, SSH_OPEN_ADMINISTRATIVELY_PROHIBITED


@dataclass(frozen=True, slots=True)
class ConnectAttempt:
    """The context of one connect: target, user, jump host and certificate."""

    target: Target
    username: str
    jump: Target | None
    terms: CertificateTerms | None = None

    @property
    def _where(self) -> str:
        through = f" through {self.jump.name}" if self.jump is not None else ""
        return f"{self.target.name} ({self.target.host}:{self.target.port}{through})"

    def too_slow(self, *, exchanged: bool) -> RemoteFailure:
        """Return the failure of the phase that timed out."""
        what = (
            f"did not answer the login of {self.username} in time"
            if exchanged
            else "did not begin to speak SSH in time"
        )
        return RemoteFailure(
            ErrorCode.CONNECT_TIMEOUT,
            f"{self._where} {what}: it may be overloaded, or not an SSH server.",
        )

    def failed(
        self,
        error: Exception,
        verifier: HostKeyVerifier | None = None,
        *,
        second_factor: str | None = None,
    ) -> RemoteFailure:
        """Return the failure for this exception.

        `second_factor`: the factor that was asked for after the credential was accepted.
        """
        if isinstance(error, asyncssh.ChannelOpenError):
            return self._tunnel_failure(error)
        if verifier is not None and _about_host_key(error):
            return verifier.mismatch(error)
        if isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error):
            return (
                self._refusal(error) if second_factor is None else self._incomplete(second_factor)
            )
        if isinstance(error, ValueError):
            return RemoteFailure(
                ErrorCode.CREDENTIAL_MISSING,
                f"The login for {self._where} cannot be used: {error}.",
            )
        if isinstance(error, asyncssh.KeyExchangeFailed | asyncssh.ProtocolNotSupported):
            message = (
                f"{self._where} and this worker share no way to encrypt: {error}. "
                "Update its SSH server."
            )
            return RemoteFailure(ErrorCode.CONNECTION_LOST, message)
        message = (
            f"{self._where} ended the connection before the login was done ({error}). "
            "Its sshd may have reached MaxStartups, or penalize this address after refused logins "
            "(PerSourcePenalties, OpenSSH 9.8 and later): see its log."
        )
        return RemoteFailure(ErrorCode.CONNECTION_LOST, message)

    def _incomplete(self, second_factor: str) -> RemoteFailure:
        message = (
            f"{self._where} accepted the credential of {self.username}, but asks for a second "
            f"factor too ({second_factor}), which opsjobs cannot answer. Let this account log in "
            "with one factor (AuthenticationMethods in its sshd_config), or use an SSH "
            "certificate."
        )
        return RemoteFailure(ErrorCode.AUTH_FAILED, message)

    def _refusal(self, error: Exception) -> RemoteFailure:
        check = "Check the credential"
        if self.terms is not None:
            check = (
                f"{self.terms.words}: check that the machine trusts its CA (TrustedUserCAKeys) "
                "for this user, and its clock"
            )
        message = f"{self._where} refused the login of {self.username} ({error}). {check}."
        return RemoteFailure(ErrorCode.AUTH_FAILED, message)

    def _tunnel_failure(self, error: asyncssh.ChannelOpenError) -> RemoteFailure:
        jump = self.jump.name if self.jump is not None else "the jump host"
        reason = error.reason.lower()
        code = next(
            (code for words, code in _JUMP_HOST_MESSAGES if words in reason),
            ErrorCode.CONNECTION_LOST,
        )
        message = (
            f"{jump} could not connect to {self.target.host}:{self.target.port}: {error.reason}."
        )
        if error.code == _PROHIBITED:
            code = ErrorCode.CONNECTION_REFUSED
            message += (
                f" {jump} does not let this login forward: see AllowTcpForwarding, "
                "and `port_forwarding` of its certificate."
            )
        return RemoteFailure(code, message)


def _about_host_key(error: Exception) -> bool:
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return True
    return isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error)


def login_mask(endpoint: Endpoint, *sent: Secret) -> Mask:
    """Return the mask of secrets that were sent to this machine.

    `sent` are further secrets sent to it, fetched from a secret store. The mask is built on each
    call: it is for failures, and those are rare.
    """
    credential = endpoint.credential
    secrets = [*(credential.secrets if credential is not None else ()), *sent]
    return Mask([Forms(secret.reveal() for secret in secrets)] if secrets else ())
