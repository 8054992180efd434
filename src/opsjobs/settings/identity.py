"""Settings of authentication: issuers, token lifetimes, and checks for production."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from opsjobs.model.jwt_algorithms import BY_KEY_PAIR, SHARED
from opsjobs.model.secret import Secret
from opsjobs.settings.parsers import (
    HOW_TO_MAKE_ONE,
    Network,
    address,
    choice,
    hidden,
    networks,
    seconds,
    setting,
    text,
    whole,
)

SECRET_BYTES_MIN = 32
SECRET_CHARACTERS_DIFFERENT_MIN = 10
# Values of examples, which are public.
_KNOWN = re.compile(
    r"(?i)(change|your|example|default|secret-?key|super-?secret|jwt-?secret|password|development|insecure|test-)"
)
_WORD = r"[\x21-\x7e]{1,500}"
_JWT_ALGORITHM = choice(*SHARED, *(name for name in BY_KEY_PAIR if name != "EdDSA"), upper=True)


def _algorithm(text: str) -> str:
    return "EdDSA" if text.lower() == "eddsa" else str(_JWT_ALGORITHM(text))


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Tokens and logins; durations in seconds."""

    jwt_secret_key: Secret | None = setting(  # noqa: RUF009  dataclasses.field, by another name
        "JWT_SECRET_KEY", hidden(text(r"[^\x00]{1,4096}", "write the secret that the platform's services share")), None,
        "The secret that the platform signs its tokens with (HS256); set, such tokens are taken. Production: 32 bytes or more.",
        ours=False, secret=True,
    )  # fmt: skip
    jwt_algorithm: str | None = setting(
        "JWT_ALGORITHM", _algorithm, None,
        "The one algorithm that platform tokens are signed by. Not set: HS256 with a secret, else any of RS, PS, ES and EdDSA.",
        ours=False,
    )  # fmt: skip
    jwks_url: str | None = setting(
        "JWKS_URL", address("https http", "https://id.example.org/keys"), None,
        "Where the issuer of platform tokens publishes its keys (JWKS). Not set: where its OIDC discovery document says.",
    )  # fmt: skip
    jwks_ttl: float = setting(
        "JWKS_TTL",
        seconds(60, 86_400),
        "5m",
        "How long the issuer's keys are good before they are fetched again.",
    )
    jwt_issuer: str | None = setting(
        "JWT_ISSUER", text(_WORD, "write what stands in the tokens as iss, such as https://id.example.org"), None,
        "The issuer that platform tokens must name (iss). Set to a URL, with neither secret nor JWKS: its keys are discovered.",
    )  # fmt: skip
    jwt_audience: str | None = setting(
        "JWT_AUDIENCE", text(_WORD, "write what stands in the tokens as aud, such as opsjobs; more than one with commas"), None,
        "Accepted audience (aud) of platform tokens; several with commas between.",
    )  # fmt: skip
    jwt_leeway: float = setting(
        "JWT_LEEWAY",
        seconds(0, 30),
        "10s",
        "How far clocks may differ where a token's times are judged.",
    )
    jwt_name_claim: str = setting(
        "JWT_NAME_CLAIM", text(r"[A-Za-z0-9_.:/-]{1,100}", "write the name of a claim, such as sub"), "sub",
        "The claim that names a token's bearer; the issuer must never assign its value to another person.",
    )  # fmt: skip
    auth_service_url: str | None = setting(
        "AUTH_SERVICE_URL", address("https http", "https://auth.example.org"), None,
        "The platform's Auth Service: set, it is asked about each token that is not ours, and nothing else judges those.",
        ours=False,
    )  # fmt: skip
    auth_cache: float = setting(
        "AUTH_CACHE",
        seconds(0, 30),
        "15s",
        "How long an answer of the Auth Service is taken for true.",
    )
    access_token_minutes: int = setting(
        "ACCESS_TOKEN_EXPIRE_MINUTES",
        whole(1, 1_440),
        "15",
        "Minutes that an access token of ours is good.",
        ours=False,
    )
    login_age: float = setting(
        "LOGIN_AGE",
        seconds(300, 366 * 86_400),
        "7d",
        "How long a login lasts at most, however often it is refreshed.",
    )
    login_attempts: int = setting(
        "LOGIN_ATTEMPTS",
        whole(1, 1_000),
        "10",
        "Attempts to log in under one name from one address before it is locked there; five times as many from one address, "
        "ten times under one name.",
    )
    login_lock: float = setting(
        "LOGIN_LOCK",
        seconds(1, 86_400),
        "15m",
        "The time in which attempts are counted, and for which a name or an address is locked.",
    )
    external_age: float = setting(
        "EXTERNAL_AGE", seconds(60, 366 * 86_400), "30d",
        "How long the rights of a platform user's last token hold for schedules that fire later.",
    )  # fmt: skip
    service_audience: str = setting(
        "SERVICE_AUDIENCE", text(_WORD, "write a word such as opsjobs"), "opsjobs",
        "The audience (aud) of tokens of registered services; a name that is unique to this installation.",
    )  # fmt: skip
    trusted_proxies: tuple[Network, ...] = setting(
        "TRUSTED_PROXIES", networks, None,
        "Proxies whose X-Forwarded-For is trusted: CIDRs, comma between. Not set: the address that connects is the client's.", unset=(),
    )  # fmt: skip

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
        """Any of them is good."""
        return tuple(part.strip() for part in (self.jwt_audience or "").split(",") if part.strip())


def faults(wanted: IdentitySettings, *, production: bool) -> Iterator[str]:
    """Return contradictions, and settings that production refuses, as sentences."""
    if wanted.jwt_secret_key is not None and wanted.jwks_url is not None:
        yield "JWT_SECRET_KEY and OPSJOBS_JWKS_URL are both set: tokens are judged in one way only, keep one of them."
    if wanted.jwt_algorithm is not None:
        yield from _algorithm_faults(wanted, wanted.jwt_algorithm)
    if wanted.trusted_proxies and any(network.prefixlen == 0 for network in wanted.trusted_proxies):
        yield "OPSJOBS_TRUSTED_PROXIES contains all addresses: every client could forge its address."
    if production:
        yield from _unfit_for_production(wanted)


def _algorithm_faults(wanted: IdentitySettings, algorithm: str) -> Iterator[str]:
    shared = algorithm in SHARED
    if not wanted.verifies and wanted.auth_service_url is None:
        yield f"JWT_ALGORITHM is {algorithm}, but there is no key: set {'JWT_SECRET_KEY' if shared else 'OPSJOBS_JWKS_URL'}, too."
    elif wanted.verifies and shared != (wanted.jwt_secret_key is not None):
        with_what = (
            "a shared secret (JWT_SECRET_KEY)" if shared else "published keys (OPSJOBS_JWKS_URL)"
        )
        yield f"JWT_ALGORITHM is {algorithm}, which goes with {with_what} only."


def _unfit_for_production(wanted: IdentitySettings) -> Iterator[str]:
    if wanted.jwt_secret_key is not None and (why := weakness(wanted.jwt_secret_key.reveal())):
        yield f"JWT_SECRET_KEY {why}, and ENVIRONMENT is production: write a random one of 32 bytes, {HOW_TO_MAKE_ONE}."
    if wanted.verifies and wanted.auth_service_url is None:
        for name, value in (
            ("OPSJOBS_JWT_ISSUER", wanted.jwt_issuer),
            ("OPSJOBS_JWT_AUDIENCE", wanted.jwt_audience),
        ):
            if value is None:
                yield f"{name} is not set, and ENVIRONMENT is production: a token that was made for another service would be taken."
    for name, url in (
        ("OPSJOBS_JWKS_URL", wanted.jwks_url),
        ("OPSJOBS_JWT_ISSUER", wanted.jwt_issuer if wanted.discovers else None),
    ):
        if url is not None and not url.startswith("https://"):
            yield f"{name} is not https, and ENVIRONMENT is production: an attacker on the network could replace the keys."


def weakness(secret: str) -> str | None:
    """Return why a shared secret is refused, to follow its name; None if it is good."""
    if len(secret.encode()) < SECRET_BYTES_MIN:
        return f"has {len(secret.encode())} bytes"
    if _KNOWN.search(secret) or len(set(secret)) < SECRET_CHARACTERS_DIFFERENT_MIN:
        return "is public or easy to guess"
    return None
