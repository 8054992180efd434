"""Redact a run's secrets: of its execution, its logins, and the users it becomes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from opsjobs.clock import Clock
from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.run_credentials import credential_ids
from opsjobs.model.masking import Forms, Mask
from opsjobs.model.secret import Credential, Secret, VaultSource
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Fetch
from opsjobs.telemetry import hide

KEPT_SECONDS = 60.0
"""A credential's forms are cached this long after their last use by a starting run."""
KEPT_MAX = 256


class MaskFactory:
    """Builds the mask of a run; the forms of a credential are shared by all its runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Credential, tuple[float, Forms]] = OrderedDict()

    def mask_for(
        self,
        compiled_spec: CompiledSpec,
        endpoint: Endpoint | None,
        opened: Mapping[str, Credential],
    ) -> Mask:
        """Return the mask of a run of this execution on this machine.

        `opened`: credentials that its actions need, and perhaps those of other executions.
        """
        others = credential_ids(compiled_spec)
        credentials = dict.fromkeys(
            [*_logins(endpoint), *(opened[known] for known in sorted(others) if known in opened)]
        )
        return Mask([compiled_spec.forms, *(self._forms(credential) for credential in credentials)])

    def _forms(self, credential: Credential) -> Forms:
        now = self._clock.monotonic()
        known = self._kept.pop(credential, None)
        forms = hide_secrets(credential.secrets) if known is None else known[1]
        self._kept[credential] = now, forms
        while len(self._kept) > KEPT_MAX or next(iter(self._kept.values()))[0] < now - KEPT_SECONDS:
            self._kept.popitem(last=False)
        return forms


def hide_secrets(secrets: Iterable[Secret]) -> Forms:
    """Return the forms of secrets, and redact these from the log of this process, too.

    That lasts as long as the forms are in use.
    """
    forms = Forms(secret.reveal() for secret in secrets)
    if forms:
        hide(forms)
    return forms


async def fetch_logins(endpoint: Endpoint | None, fetch: Fetch, purpose: str) -> list[Credential]:
    """Return the logins on the way to a machine that are in Vault, with their secrets.

    Keys that are made for one login are left out: they never reach a machine. Raises
    RemoteFailure(CREDENTIAL_MISSING).
    """
    return [
        await fetch(credential, purpose)
        for credential in _logins(endpoint)
        if isinstance(credential.source, VaultSource)
    ]


def _logins(endpoint: Endpoint | None) -> list[Credential]:
    ways = (endpoint, *endpoint.jumps) if endpoint is not None else ()
    return [way.credential for way in ways if way.credential is not None]
