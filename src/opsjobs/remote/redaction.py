"""What a machine says may hold what it was told: before it is repeated, the secrets of its login are taken out of it."""

from __future__ import annotations

from opsjobs.model.masking import Forms, Mask
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint


def heard_from(endpoint: Endpoint, *told: Secret) -> Mask:
    """What is not to be repeated of words of this machine. Made anew each time: it is for failures, and those are few.

    `told`: what it was told beside, which was got from elsewhere.
    """
    credential = endpoint.credential
    secrets = [*(credential.secrets if credential is not None else ()), *told]
    return Mask([Forms(secret.reveal() for secret in secrets)] if secrets else ())
