"""Settings that production refuses, each with the correction."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from opsjobs.settings import identity
from opsjobs.settings.groups import SecuritySettings, Settings
from opsjobs.settings.types import HOW_TO_MAKE_A_KEY, key_bytes

SECRET_CHARACTERS_MIN = 32  # 32 random bytes are 44 characters of base64
# 32 random bytes practically never have fewer different ones.
KEY_BYTES_DIFFERENT_MIN = 10
_ENCRYPTED = ("require", "verify-ca", "verify-full")
_SO = "and ENVIRONMENT is production"


def unfit(settings: Settings) -> Iterator[str]:
    """Return a sentence for each setting that is too weak."""
    yield from _keys(settings.security)
    if settings.telemetry.debug:
        yield f"DEBUG is on, {_SO}: unset it. Use LOG_LEVEL to change how much is logged."
    if not settings.safety.enabled:
        yield (
            f"ENABLE_SAFETY_CHECKS is off, {_SO}: leave it on. "
            "Callers with safety:override can pass it with a reason."
        )
    yield from _servers(settings)


def _keys(security: SecuritySettings) -> Iterator[str]:
    if not security.encryption_keys:
        yield f"ENCRYPTION_KEYS is not set, {_SO}: write 32 random bytes, {HOW_TO_MAKE_A_KEY}."
    for position, key in enumerate(security.encryption_keys, start=1):
        if len(set(key_bytes(key.reveal()))) < KEY_BYTES_DIFFERENT_MIN:
            yield (
                f"ENCRYPTION_KEYS: key {position} is not random, {_SO}: "
                f"write 32 random bytes, {HOW_TO_MAKE_A_KEY}."
            )
    if security.admin_token is None:
        return
    token = security.admin_token.reveal()
    if len(token) < SECRET_CHARACTERS_MIN:
        yield (
            f"OPSJOBS_ADMIN_TOKEN has {len(token)} characters, {_SO}: "
            f"write at least {SECRET_CHARACTERS_MIN}, {HOW_TO_MAKE_A_KEY}."
        )
    elif why := identity.weakness(token):
        yield f"OPSJOBS_ADMIN_TOKEN {why}, {_SO}: write a random one, {HOW_TO_MAKE_A_KEY}."


def _servers(settings: Settings) -> Iterator[str]:
    database = urlsplit(settings.database.url)
    query = {name: values[-1] for name, values in parse_qs(database.query).items()}
    is_remote = _is_remote(database.hostname or query.get("host"))
    if is_remote and query.get("sslmode") not in _ENCRYPTED:
        yield (
            f"DATABASE_URL uses a network without TLS, {_SO}: "
            "add ?sslmode=verify-full (or verify-ca, require)."
        )
    redis = urlsplit(settings.redis.url or "")
    if _is_remote(redis.hostname) and not redis.password:
        yield (
            f"REDIS_URL has no password, {_SO}: everyone who can reach Redis could stop "
            "executions. Write redis://:PASSWORD@HOST."
        )
    for name, service in settings.platform.services(settings.identity).items():
        address = urlsplit(service.url or "")
        if address.scheme == "http" and _is_remote(address.hostname):
            yield (
                f"{name}_SERVICE_URL is not https, {_SO}: "
                "tokens would cross the network unencrypted. Use https."
            )
    endpoint = urlsplit(settings.platform.token_url or "")
    if endpoint.scheme == "http" and _is_remote(endpoint.hostname):
        yield (
            f"OPSJOBS_SERVICE_TOKEN_URL is not https, {_SO}: "
            "client secrets would cross the network unencrypted. Use https."
        )


def _is_remote(host: str | None) -> bool:
    """Return True for a host on a shared network: neither local nor a name without a dot."""
    if not host or host.startswith("/"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." in host
