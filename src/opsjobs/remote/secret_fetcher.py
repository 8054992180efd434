"""How a login gets secrets that are kept elsewhere: whoever builds the parts says how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Credential

Fetch = Callable[[Credential, str], Awaitable[Credential]]
"""Asked just before a login for a credential that may have its secrets elsewhere, and told what for: the same with its secrets.

Raises RemoteFailure(CREDENTIAL_MISSING).
"""


async def nowhere(credential: Credential, _purpose: str) -> Credential:
    """The fetch of a process that knows no other place."""
    if credential.source is None:
        return credential
    words = f"The secrets of the credential {credential.name} are elsewhere, and this process cannot get them."
    raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, words)
