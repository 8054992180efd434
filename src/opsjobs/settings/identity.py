"""Settings of identities: tokens, logins, and those at an OpenID Connect provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from opsjobs.model.jwt_algorithms import BY_KEY_PAIR, SHARED
from opsjobs.model.secret import Secret
from opsjobs.settings.types import (
    HOW_TO_MAKE_A_KEY,
    NETWORKS,
    SWITCH,
    Network,
    address,
    choice,
    hidden,
    is_loopback,
    matching,
    seconds,
    text,
    whole,
)
from opsjobs.settings.variables import SettingsGroup, setting

SECRET_BYTES_MIN = 32
SECRET_CHARACTERS_DIFFERENT_MIN = 10
# Values in public examples.
_KNOWN = re.compile(
    r"(?i)(change|your|example|default|secret-?key|super-?secret|jwt-?secret|password"
    r"|development|insecure|test-)"
)
_WORD = r"[\x21-\x7e]{1,500}"
_HTTP = ("https", "http")


class IdentitySettings(SettingsGroup):
    """Tokens and logins; durations in seconds."""

    jwt_secret_key: Annotated[
        Secret | None,
        hidden(matching(r"[^\x00]{1,4096}", "write the secret that the platform's services share")),
    ] = setting(
        "JWT_SECRET_KEY",
        None,
        "Shared secret that signs the platform's tokens (HS256). If it is set, such tokens are "
        "accepted. Production requires 32 bytes or more.",
        secret=True,
    )
    jwt_algorithm: Annotated[str | None, choice(*SHARED, *BY_KEY_PAIR)] = setting(
        "JWT_ALGORITHM",
        None,
        "The only accepted signature algorithm of platform tokens. Not set: HS256 with a shared "
        "secret, else any of RS, PS, ES and EdDSA.",
    )
    jwks_url: Annotated[str | None, address(_HTTP, "https://id.example.org/keys")] = setting(
        "OPSJOBS_JWKS_URL",
        None,
        "URL of the issuer's public keys (JWKS). Not set: taken from the issuer's OIDC discovery "
        "document.",
    )
    jwks_ttl: Annotated[float, seconds(60, 86_400)] = setting(
        "OPSJOBS_JWKS_TTL", "5m", "How long the issuer's keys are cached."
    )
    jwt_issuer: Annotated[
        str | None,
        text(_WORD, "write what stands in the tokens as iss, such as https://id.example.org"),
    ] = setting(
        "OPSJOBS_JWT_ISSUER",
        None,
        "Required issuer (iss) of platform tokens. If it is a URL, and neither JWT_SECRET_KEY nor "
        "OPSJOBS_JWKS_URL is set, its keys are found by OIDC discovery.",
    )
    jwt_audience: Annotated[
        str | None,
        text(
            _WORD,
            "write what stands in the tokens as aud, such as opsjobs; more than one with commas",
        ),
    ] = setting(
        "OPSJOBS_JWT_AUDIENCE",
        None,
        "Accepted audience (aud) of platform tokens; several separated by commas.",
    )
    jwt_leeway: Annotated[float, seconds(0, 30)] = setting(
        "OPSJOBS_JWT_LEEWAY", "10s", "Accepted clock difference when a token's times are checked."
    )
    jwt_name_claim: Annotated[
        str, text(r"[A-Za-z0-9_.:/-]{1,100}", "write the name of a claim, such as sub")
    ] = setting(
        "OPSJOBS_JWT_NAME_CLAIM",
        "sub",
        "Claim that identifies the user of a token. The issuer must never give its value to "
        "another person.",
    )
    jwt_execute_runs_commands: Annotated[bool, SWITCH] = setting(
        "OPSJOBS_JWT_EXECUTE_RUNS_COMMANDS",
        "on",
        "Whether the permission jobs:execute in a platform token, or in an answer of the User "
        "Service, covers commands:run. With off the platform must name commands:run itself; "
        "rights that are stored already follow at the person's next login or token, so end the "
        "person's sessions to have it at once.",
    )
    auth_service_url: Annotated[str | None, address(_HTTP, "https://auth.example.org")] = setting(
        "AUTH_SERVICE_URL",
        None,
        "URL of the platform's Auth Service. If it is set, it alone verifies tokens that opsjobs "
        "did not issue.",
    )
    auth_cache: Annotated[float, seconds(0, 30)] = setting(
        "OPSJOBS_AUTH_CACHE", "15s", "How long an answer of the Auth Service is cached."
    )
    access_token_minutes: Annotated[int, whole(1, 1_440)] = setting(
        "ACCESS_TOKEN_EXPIRE_MINUTES",
        "15",
        "Lifetime of access tokens that opsjobs issues, in minutes.",
    )
    login_age: Annotated[float, seconds(300, 366 * 86_400)] = setting(
        "OPSJOBS_LOGIN_AGE", "7d", "Longest lifetime of a login, however often it is refreshed."
    )
    login_idle: Annotated[float, seconds(60, 366 * 86_400)] = setting(
        "OPSJOBS_LOGIN_IDLE", "12h", "How long a session of a browser lasts without being used."
    )
    login_attempts: Annotated[int, whole(1, 1_000)] = setting(
        "OPSJOBS_LOGIN_ATTEMPTS",
        "10",
        "Failed logins for one name from one address before it is locked there. The limit is five "
        "times as many from one address, and ten times for one name.",
    )
    login_lock: Annotated[float, seconds(1, 86_400)] = setting(
        "OPSJOBS_LOGIN_LOCK",
        "15m",
        "Period in which failed logins are counted, and how long a name or an address is locked.",
    )
    external_age: Annotated[float, seconds(60, 366 * 86_400)] = setting(
        "OPSJOBS_EXTERNAL_AGE",
        "30d",
        "How long the permissions of a platform user's last token are valid for that user's "
        "schedules.",
    )
    service_audience: Annotated[str, text(_WORD, "write a word such as opsjobs")] = setting(
        "OPSJOBS_SERVICE_AUDIENCE",
        "opsjobs",
        "Required audience (aud) of tokens of registered services; a name that is unique to this "
        "installation.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NETWORKS] = setting(
        "OPSJOBS_TRUSTED_PROXIES",
        None,
        "Proxies whose X-Forwarded-For header is trusted: CIDRs separated by commas. Not set: the "
        "connecting address is the client's.",
        unset=(),
    )

    @property
    def discovers(self) -> bool:
        """True if keys are found by OIDC discovery."""
        named = self.jwks_url is not None or self.jwt_secret_key is not None
        return (
            not named
            and self.jwt_issuer is not None
            and self.jwt_issuer.startswith(("https://", "http://"))
        )

    @property
    def verifies(self) -> bool:
        """True if platform tokens are verified by signature."""
        return self.jwt_secret_key is not None or self.jwks_url is not None or self.discovers

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms of platform tokens, all of one family."""
        if self.jwt_algorithm is not None:
            return (self.jwt_algorithm,)
        return ("HS256",) if self.jwt_secret_key is not None else BY_KEY_PAIR

    @property
    def audiences(self) -> tuple[str, ...]:
        """The accepted audiences; one of them is enough."""
        return tuple(part.strip() for part in (self.jwt_audience or "").split(",") if part.strip())


def faults(settings: IdentitySettings, *, production: bool) -> Iterator[str]:
    """Return contradictions, and settings that production refuses, as sentences."""
    if settings.jwt_secret_key is not None and settings.jwks_url is not None:
        yield (
            "JWT_SECRET_KEY and OPSJOBS_JWKS_URL are both set: tokens are verified in one way. "
            "Keep one of them."
        )
    if settings.jwt_algorithm is not None:
        yield from _algorithm_faults(settings, settings.jwt_algorithm)
    if settings.trusted_proxies and any(
        network.prefixlen == 0 for network in settings.trusted_proxies
    ):
        yield (
            "OPSJOBS_TRUSTED_PROXIES contains all addresses: every client could forge its address. "
            "List your proxies only."
        )
    if production:
        yield from _unfit_for_production(settings)


def _algorithm_faults(settings: IdentitySettings, algorithm: str) -> Iterator[str]:
    shared = algorithm in SHARED
    if not settings.verifies and settings.auth_service_url is None:
        key = "JWT_SECRET_KEY" if shared else "OPSJOBS_JWKS_URL"
        yield f"JWT_ALGORITHM is {algorithm}, but there is no key: set {key}, too."
    elif settings.verifies and shared != (settings.jwt_secret_key is not None):
        key = "a shared secret (JWT_SECRET_KEY)" if shared else "public keys (OPSJOBS_JWKS_URL)"
        yield f"JWT_ALGORITHM is {algorithm}, which works with {key} only."


def _unfit_for_production(settings: IdentitySettings) -> Iterator[str]:
    if settings.jwt_secret_key is not None and (why := weakness(settings.jwt_secret_key.reveal())):
        yield (
            f"JWT_SECRET_KEY {why}, and ENVIRONMENT is production: "
            f"write a random one of 32 bytes, {HOW_TO_MAKE_A_KEY}."
        )
    if settings.verifies and settings.auth_service_url is None:
        for name, value in (
            ("OPSJOBS_JWT_ISSUER", settings.jwt_issuer),
            ("OPSJOBS_JWT_AUDIENCE", settings.jwt_audience),
        ):
            if value is None:
                yield (
                    f"{name} is not set, and ENVIRONMENT is production: "
                    "tokens for other services would be accepted. Set it."
                )
    for name, url in (
        ("OPSJOBS_JWKS_URL", settings.jwks_url),
        ("OPSJOBS_JWT_ISSUER", settings.jwt_issuer if settings.discovers else None),
    ):
        if url is not None and not url.startswith("https://"):
            yield (
                f"{name} is not https, and ENVIRONMENT is production: "
                "an attacker on the network could replace the keys. Use https."
            )


def weakness(secret: str) -> str | None:
    """Return why a shared secret is refused, to follow its name; None if it is accepted."""
    if len(secret.encode()) < SECRET_BYTES_MIN:
        return f"has {len(secret.encode())} bytes"
    if _KNOWN.search(secret) or len(set(secret)) < SECRET_CHARACTERS_DIFFERENT_MIN:
        return "is public or easy to guess"
    return None


# --- logins at an OpenID Connect provider, whose issuer is OPSJOBS_JWT_ISSUER


_ISSUER_SCHEMES = ("https://", "http://")


class OidcSettings(SettingsGroup):
    """The client at the provider; without its id there are no such logins."""

    client_id: Annotated[
        str | None, text(r"[\x21-\x7e]{1,200}", "write the client id alone, such as opsjobs")
    ] = setting(
        "OPSJOBS_OIDC_CLIENT_ID",
        None,
        "Client id of opsjobs at the OpenID Connect provider OPSJOBS_JWT_ISSUER. If it is set, "
        "people log in to the console there. Requires OPSJOBS_PUBLIC_URL.",
    )
    client_secret: Annotated[
        Secret | None, hidden(matching(r"[\x21-\x7e]{1,1024}", "write the client's secret alone"))
    ] = setting(
        "OPSJOBS_OIDC_CLIENT_SECRET",
        None,
        "Its secret. Not set: a public client, which is protected by PKCE only.",
        secret=True,
    )
    scopes: Annotated[
        str,
        text(
            r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+){0,19}",
            "write words separated by one blank, such as openid profile email",
        ),
    ] = setting(
        "OPSJOBS_OIDC_SCOPES",
        "openid profile email",
        "Scopes that a login asks for; openid is one of them.",
    )
    label: Annotated[
        str, text(r"[^\x00-\x1f\x7f]{1,60}", "write a text of at most 60 characters")
    ] = setting("OPSJOBS_OIDC_LABEL", "Log in with single sign-on", "Text of the login's button.")
    session_age: Annotated[float, seconds(300, 366 * 86_400)] = setting(
        "OPSJOBS_OIDC_SESSION_AGE",
        "8h",
        "Longest lifetime of a session that such a login begins, and so of the permissions that "
        "the provider gave. OPSJOBS_LOGIN_AGE limits it, too.",
    )


def oidc_faults(
    settings: OidcSettings,
    identity: IdentitySettings,
    public_url: str | None,
    *,
    production: bool,
) -> Iterator[str]:
    """Return contradictions, and settings that production refuses, as sentences."""
    if settings.client_id is None:
        if settings.client_secret is not None:
            yield (
                "OPSJOBS_OIDC_CLIENT_SECRET is set, and OPSJOBS_OIDC_CLIENT_ID is not: "
                "set both, or neither."
            )
        return
    so = "and OPSJOBS_OIDC_CLIENT_ID is set"
    if identity.jwt_issuer is None or not identity.jwt_issuer.startswith(_ISSUER_SCHEMES):
        yield (
            f"OPSJOBS_JWT_ISSUER is no URL, {so}: write the issuer of the OpenID Connect "
            "provider, such as https://id.example.org."
        )
    elif production and not identity.discovers and identity.jwt_issuer.startswith("http://"):
        yield (
            "OPSJOBS_JWT_ISSUER is not https, and ENVIRONMENT is production: "
            "an attacker on the network could replace the keys and log in. Use https."
        )
    if "openid" not in settings.scopes.split(" "):
        yield "OPSJOBS_OIDC_SCOPES has no openid: without it there is no login. Add it."
    yield from _address_faults(public_url, so, production=production)


def _address_faults(public_url: str | None, so: str, *, production: bool) -> Iterator[str]:
    if public_url is None:
        yield (
            f"OPSJOBS_PUBLIC_URL is not set, {so}: write the address of opsjobs in browsers, "
            "such as https://jobs.example.org. The provider sends them back there."
        )
        return
    try:
        parts = urlsplit(public_url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        yield (
            f"OPSJOBS_PUBLIC_URL has more than scheme, host and port, {so}: "
            "write an address such as https://jobs.example.org."
        )
    elif production and parts.scheme != "https" and not is_loopback(host):
        yield (
            f"OPSJOBS_PUBLIC_URL is not https, {so}, and ENVIRONMENT is production: "
            "sessions need https. Use https."
        )
