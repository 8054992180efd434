"""Redact the secrets of a run from its output, and from the log of this process.

These are the secrets of the execution, of its logins, and of the users it becomes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from opsjobs.clock import Clock
from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.run_credentials import credential_ids
from opsjobs.model.credential import Credential
from opsjobs.model.masking import Forms, Mask
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.telemetry.logs import hide

KEPT_SECONDS = 60.0
"""Cache time of a credential's forms after their last use by a starting run."""
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

        `opened`: credentials that its actions need; it may include those of other executions.
        """
        others = credential_ids(compiled_spec)
        logins = endpoint.logins if endpoint is not None else ()
        credentials = dict.fromkeys(
            [*logins, *(opened[used] for used in sorted(others) if used in opened)]
        )
        return Mask([compiled_spec.forms, *(self._forms(credential) for credential in credentials)])

    def _forms(self, credential: Credential) -> Forms:
        now = self._clock.monotonic()
        kept = self._kept.pop(credential, None)
        forms = hide_secrets(credential.secrets) if kept is None else kept[1]
        self._kept[credential] = now, forms
        while len(self._kept) > KEPT_MAX or next(iter(self._kept.values()))[0] < now - KEPT_SECONDS:
            self._kept.popitem(last=False)
        return forms


def hide_secrets(secrets: Iterable[Secret]) -> Forms:
    """Return the forms of secrets, and redact them from the log of this process, too.

    The log is redacted as long as the forms are in use.
    """
    forms = Forms(secret.reveal() for secret in secrets)
    if forms:
        hide(forms)
    return forms
