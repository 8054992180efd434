"""What each run must not show: the secrets of its execution, of its machine's login, and of those it becomes others by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from opsjobs.clock import Clock
from opsjobs.engine import become
from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.launching import job_secrets
from opsjobs.model.masking import Forms, Mask
from opsjobs.model.secret import Credential, Secret
from opsjobs.model.secret_source import VaultSource
from opsjobs.model.target import Endpoint
from opsjobs.remote.secret_fetcher import Fetch
from opsjobs.telemetry import hide

KEPT_SECONDS = 60.0
"""How long the forms of a credential are kept after its last use by a run that begins: its runs have them for themselves."""
KEPT_MAX = 256


class Masks:
    """Makes the mask of a run. The forms of a credential are made once for all runs that have it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Credential, tuple[float, Forms]] = OrderedDict()

    def of(self, course: CompiledSpec, endpoint: Endpoint | None, opened: Mapping[str, Credential]) -> Mask:
        """For a run of this execution on this machine; `opened`: what its actions need, and those of whatever other executions."""
        others = become.credentials(become.wishes([course.spec])) | job_secrets.credentials([course])
        credentials = dict.fromkeys([*_logins(endpoint), *(opened[known] for known in sorted(others) if known in opened)])
        return Mask([course.forms, *(self._forms(credential) for credential in credentials)])

    def _forms(self, credential: Credential) -> Forms:
        now = self._clock.monotonic()
        known = self._kept.pop(credential, None)
        forms = hidden(credential.secrets) if known is None else known[1]
        self._kept[credential] = now, forms
        while len(self._kept) > KEPT_MAX or next(iter(self._kept.values()))[0] < now - KEPT_SECONDS:
            self._kept.popitem(last=False)
        return forms


def hidden(secrets: Iterable[Secret]) -> Forms:
    """The forms of secrets, which from now on no log line of this process shows either, as long as somebody has them."""
    forms = Forms(secret.reveal() for secret in secrets)
    if forms:
        hide(forms)
    return forms


async def fetched(endpoint: Endpoint | None, fetch: Fetch, purpose: str) -> list[Credential]:
    """The logins on the way to a machine that are in Vault, with their secrets. Raises RemoteFailure(CREDENTIAL_MISSING).

    Keys that are made for one login are left out: no machine is ever told them.
    """
    return [await fetch(credential, purpose) for credential in _logins(endpoint) if isinstance(credential.source, VaultSource)]


def _logins(endpoint: Endpoint | None) -> list[Credential]:
    ways = (endpoint, *endpoint.jumps) if endpoint is not None else ()
    return [way.credential for way in ways if way.credential is not None]
