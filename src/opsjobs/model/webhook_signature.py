"""Verify that a call of a trigger was sent by a holder of its secret."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Mapping

from opsjobs.model.secret import Secret
from opsjobs.model.trigger import CallVerification

PREFIX = "whsec_"
KEY_BYTES = 32
TOLERANCE_SECONDS = 300
"""Greatest difference between a signed timestamp and the clock, in either direction."""
SIGNATURES_MAX = 10
_TIMESTAMP = re.compile(r"[0-9]{1,12}")

Headers = Mapping[str, str]
"""Headers of a call, by their names in lower case."""


def new_secret() -> Secret:
    """Return a new secret, in the form of Standard Webhooks."""
    return Secret(PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())


def find_fault(
    form: CallVerification, secret: Secret, headers: Headers, body: bytes, now: float
) -> str | None:
    """Return why the call does not prove that its sender knows the secret; None if it does.

    `now`: seconds since 1970. All forms are checked, so that the time does not depend on `form`.
    """
    key = secret.reveal()
    faults = {one: check(key, headers, body, now) for one, check in _CHECKS.items()}
    return faults[form]


def delivery_of(form: CallVerification, headers: Headers) -> str | None:
    """Return the id of the delivery, which is the same each time it is sent; None without one."""
    names = (*_DELIVERY.get(form, ()), "idempotency-key")
    return next((headers[name] for name in names if headers.get(name)), None)


_DELIVERY: Mapping[CallVerification, tuple[str, ...]] = {
    CallVerification.GITHUB: ("x-github-delivery",),
    CallVerification.STANDARD_WEBHOOKS: ("webhook-id",),
    CallVerification.GITLAB: ("idempotency-key", "x-gitlab-event-uuid"),
}


def _check_github(key: str, headers: Headers, body: bytes, _now: float) -> str | None:
    expected = "sha256=" + hmac.new(key.encode(), body, "sha256").hexdigest()
    return _compare("X-Hub-Signature-256", headers, expected)


def _check_standard(key: str, headers: Headers, body: bytes, now: float) -> str | None:
    sent_at, message = headers.get("webhook-timestamp", ""), headers.get("webhook-id", "")
    signed = hmac.new(base64.b64decode(key.removeprefix(PREFIX)), digestmod="sha256")
    signed.update(f"{message}.{sent_at}.".encode())
    signed.update(body)
    expected = "v1," + base64.b64encode(signed.digest()).decode()
    given = headers.get("webhook-signature", "").split(" ")[:SIGNATURES_MAX]
    # A sum, so that each one is compared, whichever fits.
    if not sum(_is_same(expected, one) for one in given):
        return _describe_missing("webhook-signature", headers)
    if not message:
        return "it has no header webhook-id"
    if not _TIMESTAMP.fullmatch(sent_at):
        return "webhook-timestamp is not a number of seconds since 1970"
    if abs(now - int(sent_at)) > TOLERANCE_SECONDS:
        return (
            f"webhook-timestamp is more than {TOLERANCE_SECONDS} seconds away from this service's "
            "clock"
        )
    return None


def _check_gitlab(key: str, headers: Headers, _body: bytes, _now: float) -> str | None:
    return _compare("X-Gitlab-Token", headers, key)


def _check_bearer(key: str, headers: Headers, _body: bytes, _now: float) -> str | None:
    return _compare("Authorization", headers, f"Bearer {key}")


_CHECKS: Mapping[CallVerification, Callable[[str, Headers, bytes, float], str | None]] = {
    CallVerification.GITHUB: _check_github,
    CallVerification.STANDARD_WEBHOOKS: _check_standard,
    CallVerification.GITLAB: _check_gitlab,
    CallVerification.BEARER: _check_bearer,
}


def _compare(name: str, headers: Headers, expected: str) -> str | None:
    given = headers.get(name.lower(), "")
    return None if _is_same(expected, given) else _describe_missing(name, headers)


def _is_same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass"))


def _describe_missing(name: str, headers: Headers) -> str:
    if name.lower() not in headers:
        return f"it has no header {name}"
    return f"{name} does not fit: the sender has another secret, or signs another body"
