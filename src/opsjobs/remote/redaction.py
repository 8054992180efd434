"""Redact login secrets from the error messages of remote machines."""

from __future__ import annotations

from opsjobs.model.masking import Forms, Mask
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint


def login_mask(endpoint: Endpoint, *sent: Secret) -> Mask:
    """Return the mask of secrets that this machine was sent.

    `sent` are further secrets it was sent, fetched from a secret store. The mask is built on each
    call: it is for failures, and those are rare.
    """
    credential = endpoint.credential
    secrets = [*(credential.secrets if credential is not None else ()), *sent]
    return Mask([Forms(secret.reveal() for secret in secrets)] if secrets else ())
