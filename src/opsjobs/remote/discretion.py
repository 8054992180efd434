"""What a machine says may hold what it was told: before it is repeated, the secrets of its login are taken out of it."""

from __future__ import annotations

from opsjobs.model.masking import Forms, Mask
from opsjobs.model.target import Endpoint


def heard_from(endpoint: Endpoint) -> Mask:
    """What is not to be repeated of words of this machine. Made anew each time: it is for failures, and those are few."""
    credential = endpoint.credential
    return Mask([Forms(secret.reveal() for secret in credential.secrets)] if credential is not None else ())
