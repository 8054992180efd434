"""The test of a credential (`credentials test`): whether its secrets can be used now.

None of the secrets is shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import moment
from opsjobs.remote.session import Fetch, SessionStep
from opsjobs.remote.ssh.auth_material import Unusable, parse_terms, public_key_of


@dataclass(slots=True)
class CredentialTest:
    """The result of a test."""

    steps: list[SessionStep] = field(default_factory=list)
    """The steps open, fetch and use, up to the first that failed."""
    public_key: str | None = None
    """The public half of its private key."""
    certificate: Mapping[str, Any] | None = None
    """The terms of its certificate."""

    @property
    def ok(self) -> bool:
        """True if a session would get all it needs."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    def data(self) -> dict[str, Any]:
        """Return the body of POST /credentials/{id}/test."""
        steps = [
            {"name": step.name, "ok": step.ok, "ms": round(step.ms, 1), "error": step.error}
            for step in self.steps
        ]
        return {
            "ok": self.ok,
            "steps": steps,
            "public_key": self.public_key,
            "certificate": self.certificate,
        }


async def run_credential_test(credential: Credential, fetch: Fetch) -> CredentialTest:
    """Open the credential, fetch its external secrets, and try to use them.

    A fault is part of the result; nothing is raised.
    """
    result = CredentialTest([SessionStep("open", credential.fault is None, 0.0, credential.fault)])
    if credential.fault is not None:
        return result
    if credential.source is not None:
        started = time.monotonic()
        try:
            credential = await fetch(credential, "test")
        except RemoteFailure as missing:
            result.steps.append(SessionStep("fetch", False, _ms(started), missing.message))
            return result
        result.steps.append(SessionStep("fetch", True, _ms(started)))
    if credential.private_key is not None:
        await _use_key(credential, result)
    return result


async def _use_key(credential: Credential, result: CredentialTest) -> None:
    assert credential.private_key is not None, "called only for a key"
    started = time.monotonic()
    try:
        # In a thread: a key with a passphrase takes a while.
        result.public_key = await asyncio.to_thread(
            public_key_of, credential.private_key, credential.passphrase
        )
        if credential.certificate is not None and "BEGIN CERTIFICATE" not in credential.certificate:
            result.certificate = _certificate_data(credential.certificate, result.public_key)
    except Unusable as unusable:
        result.steps.append(SessionStep("use", False, _ms(started), f"{unusable}."))
    else:
        result.steps.append(SessionStep("use", True, _ms(started)))


def _certificate_data(certificate: str, public_key: str) -> dict[str, Any]:
    terms = parse_terms(certificate)
    if terms.public != public_key:
        raise Unusable("its certificate is for another key")
    return {
        "key_id": terms.key_id,
        "serial": str(terms.serial),
        "principals": list(terms.principals),
        "valid_from": moment(terms.valid_after),
        "valid_until": moment(terms.valid_before),
    }


def _ms(started: float) -> float:
    return (time.monotonic() - started) * 1000
