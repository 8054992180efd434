"""Webhooks: their draft, their secrets, and the headers of Standard Webhooks."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from opsjobs.model.api_model import ApiModel, Duration, duration_limits
from opsjobs.model.events import check_event_pattern
from opsjobs.model.naming import Name
from opsjobs.model.parameter import check_url
from opsjobs.model.secret import Secret
from opsjobs.model.selection import parse_selector

URL_CHARACTERS_MAX = 2_000
EVENTS_MAX = 50
SECRET_PREFIX = "whsec_"  # noqa: S105  how a secret begins, not one
SECRET_BYTES = 32
OVERLAP_SECONDS = 86_400.0
OVERLAP_SECONDS_MAX = 7 * 86_400.0

EventPattern = Annotated[str, Field(max_length=100), AfterValidator(check_event_pattern)]


class WebhookDraft(ApiModel):
    """Body of POST /webhooks: the URL gets the events that match, if the owner may see them.

    `events`: types, `<noun>.*` or `*`. `selector`: only events about things with these labels.
    """

    name: Name
    url: str = Field(max_length=URL_CHARACTERS_MAX)
    events: list[EventPattern] = Field(min_length=1, max_length=EVENTS_MAX)
    selector: str | None = Field(default=None, min_length=1, max_length=1_000)
    enabled: bool = True

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        check_url(url, "a webhook")
        return url

    @field_validator("selector")
    @classmethod
    def _check_selector(cls, text: str | None) -> str | None:
        if text is not None:
            parse_selector(text)
        return text


class SecretRotation(ApiModel):
    """Body of POST /webhooks/{id}/rotate: for `overlap`, messages have both signatures."""

    overlap: Annotated[Duration, duration_limits(le=OVERLAP_SECONDS_MAX)] = OVERLAP_SECONDS


def new_webhook_secret() -> Secret:
    """Return a new secret: `whsec_` and 32 random bytes in base64."""
    return Secret(SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())


def message_id(event_id: str) -> str:
    """Return the `webhook-id` for an event: its id without dots, which separate signed parts.

    >>> message_id("01a2/execution.completed/7")
    '01a2-execution_completed-7'
    """
    return event_id.replace("/", "-").replace(".", "_")


def sign(keys: Sequence[Secret], message: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature`: one signature for each secret."""
    signed = f"{message}.{timestamp}.".encode() + body
    return " ".join(f"v1,{_signature(key, signed)}" for key in keys)


def _signature(key: Secret, signed: bytes) -> str:
    raw = base64.b64decode(key.reveal().removeprefix(SECRET_PREFIX))
    return base64.b64encode(hmac.digest(raw, signed, "sha256")).decode()
