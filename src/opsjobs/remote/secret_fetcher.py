"""The interface by which a login gets secrets from an external store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Credential

Fetch = Callable[[Credential, str], Awaitable[Credential]]
"""Called before a login with a credential and the purpose; returns it with its secrets.

The credential may have its secrets in an external store. Raises RemoteFailure(CREDENTIAL_MISSING).
"""


async def refuse_external(credential: Credential, _purpose: str) -> Credential:
    """Refuse a credential of an external store: this process has no access to one."""
    if credential.source is None:
        return credential
    words = f"The secrets of the credential {credential.name} are in an external store that this process cannot access."
    raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, words)
