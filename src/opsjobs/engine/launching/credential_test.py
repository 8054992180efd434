"""`credentials test`: whether a login's secrets can be had and used now, told without showing any of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import moment
from opsjobs.model.secret import Credential
from opsjobs.remote.secret_fetcher import Fetch
from opsjobs.remote.session import SessionStep
from opsjobs.remote.ssh.certificates import Unusable, public_of, terms_of


@dataclass(slots=True)
class Trial:
    """The steps open, fetch and use, up to the first that fails; of a key its public half, of a certificate what it says."""

    steps: list[SessionStep] = field(default_factory=list)
    public_key: str | None = None
    certificate: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether a session would get what it needs."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    def data(self) -> dict[str, Any]:
        """The body of POST /credentials/{id}/test."""
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


async def try_credential(credential: Credential, fetch: Fetch) -> Trial:
    """Open, fetch where its secrets are elsewhere, and look whether what is there can be used; never raises for what it finds."""
    trial = Trial([SessionStep("open", credential.fault is None, 0.0, credential.fault)])
    if credential.fault is not None:
        return trial
    if credential.source is not None:
        started = time.monotonic()
        try:
            credential = await fetch(credential, "test")
        except RemoteFailure as missing:
            trial.steps.append(SessionStep("fetch", False, _ms(started), missing.message))
            return trial
        trial.steps.append(SessionStep("fetch", True, _ms(started)))
    if credential.private_key is not None:
        await _use_key(credential, trial)
    return trial


async def _use_key(credential: Credential, trial: Trial) -> None:
    assert credential.private_key is not None, "asked where there is one"
    started = time.monotonic()
    try:
        # A thread: a key with a passphrase takes its time.
        trial.public_key = await asyncio.to_thread(
            public_of, credential.private_key, credential.passphrase
        )
        if credential.certificate is not None and "BEGIN CERTIFICATE" not in credential.certificate:
            trial.certificate = _told(credential.certificate, trial.public_key)
    except Unusable as why:
        trial.steps.append(SessionStep("use", False, _ms(started), f"{why}."))
    else:
        trial.steps.append(SessionStep("use", True, _ms(started)))


def _told(certificate: str, public: str) -> dict[str, Any]:
    terms = terms_of(certificate)
    if terms.public != public:
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
