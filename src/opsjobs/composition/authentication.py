"""Build the authentication: our own tokens, and platform tokens as the settings say."""

from __future__ import annotations

from opsjobs.clock import Clock
from opsjobs.composition.paths import CONSOLE, OIDC_CALLBACK, OIDC_LOGIN
from opsjobs.composition.services import Authentication, Integrations, SingleSignOn
from opsjobs.identity.authenticator import Authenticator
from opsjobs.identity.jws import PublishedKeys, SharedSecret, VerificationKeys
from opsjobs.identity.logins import CookieLogins, LoginService
from opsjobs.identity.oidc_login import OidcLogins
from opsjobs.identity.passwords import Passwords
from opsjobs.identity.tokens import (
    IdTokens,
    IntrospectedTokens,
    OwnTokens,
    Platform,
    ServiceTokens,
    SignedTokens,
)
from opsjobs.integrations.json_client import JsonClient
from opsjobs.integrations.token_issuers import (
    AuthService,
    DiscoveredIssuer,
    OpenIdClient,
    OpenIdProvider,
    PinnedIssuer,
)
from opsjobs.model.jwt_algorithms import BY_KEY_PAIR
from opsjobs.model.token_claims import ClaimRules
from opsjobs.settings import IdentitySettings, Settings
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.sessions import LockoutPolicy
from opsjobs.store.transaction import Database

ATTEMPTS_OF_ADDRESS = 5
"""Login attempts from one address, as a multiple of those for one name."""
ATTEMPTS_EVERYWHERE = 10
"""Login attempts for one name from all addresses, as a multiple of those from one."""


def build_identity_store(settings: Settings, database: Database, clock: Clock) -> IdentityStore:
    """Build the identity store with the limits of the settings."""
    wanted = settings.identity
    lock_out = LockoutPolicy(
        wanted.login_attempts,
        wanted.login_attempts * ATTEMPTS_OF_ADDRESS,
        wanted.login_lock,
        wanted.login_attempts * ATTEMPTS_EVERYWHERE,
    )
    return IdentityStore(
        database,
        clock,
        external_kept_seconds=wanted.external_age,
        session_seconds=wanted.login_age,
        idle_seconds=wanted.login_idle,
        issuer=wanted.jwt_issuer if settings.oidc.client_id is not None else None,
        external_session_seconds=settings.oidc.session_age,
        lock_out=lock_out,
    )


def build_authentication(
    settings: Settings,
    identities: IdentityStore,
    clock: Clock,
    *,
    integrations: Integrations,
    passwords: Passwords | None = None,
) -> Authentication:
    """Build the authentication; the Auth Service is one of the `integrations`.

    Our signing keys are derived from `settings.security.encryption_keys`.
    """
    wanted = settings.identity
    http = JsonClient()
    own = OwnTokens(settings.security.encryption_keys, clock, minutes=wanted.access_token_minutes)
    services = ServiceTokens(identities, clock, audience=wanted.service_audience)
    passwords = passwords or Passwords()
    production = settings.security.environment == "production"
    platform = _platform(wanted, http, clock, integrations, production=production)
    authenticator = Authenticator(identities, clock, own=own, services=services, platform=platform)
    logins = LoginService(identities, passwords, own)
    return Authentication(
        identities,
        authenticator,
        logins,
        CookieLogins(identities, logins),
        passwords,
        http,
        _single_sign_on(settings, identities, http, clock),
    )


def _single_sign_on(
    settings: Settings, identities: IdentityStore, http: JsonClient, clock: Clock
) -> SingleSignOn | None:
    """Build the logins at the OpenID Connect provider; None if they are not set up."""
    wanted, issuer, base = settings.oidc, settings.identity.jwt_issuer, settings.api.public_url
    if wanted.client_id is None or issuer is None or base is None:
        return None
    base = base.rstrip("/")
    production = settings.security.environment == "production"
    found = DiscoveredIssuer(http, issuer, plain_http=not production)
    provider = OpenIdProvider(http, found, clock, ttl_seconds=settings.identity.jwks_ttl)
    rules = _rules(settings.identity, audiences=(wanted.client_id,))
    client = OpenIdClient(
        wanted.client_id, f"{base}{OIDC_CALLBACK}", wanted.scopes, wanted.client_secret
    )
    logins = OidcLogins(
        identities,
        provider,
        IdTokens(_id_token_keys(settings.identity, http, found, clock), rules, clock),
        client=client,
        rules=rules,
        clock=clock,
        home=f"{base}{CONSOLE}",
    )
    return SingleSignOn(logins, wanted.label, f"{base}{OIDC_LOGIN}")


def _id_token_keys(
    settings: IdentitySettings, http: JsonClient, issuer: DiscoveredIssuer, clock: Clock
) -> PublishedKeys:
    """Return the keys that sign ID tokens: those of OPSJOBS_JWKS_URL, or of the discovery."""
    pinned = None if settings.jwks_url is None else PinnedIssuer(http, settings.jwks_url)
    algorithms = BY_KEY_PAIR if settings.jwt_secret_key is not None else settings.algorithms
    return PublishedKeys(
        (pinned or issuer).jwks, clock, algorithms=algorithms, ttl_seconds=settings.jwks_ttl
    )


def _rules(settings: IdentitySettings, audiences: tuple[str, ...]) -> ClaimRules:
    return ClaimRules(
        settings.jwt_issuer,
        audiences,
        settings.jwt_leeway,
        name_claim=settings.jwt_name_claim,
        execute_runs_commands=settings.jwt_execute_runs_commands,
    )


def _platform(
    settings: IdentitySettings,
    http: JsonClient,
    clock: Clock,
    integrations: Integrations,
    *,
    production: bool,
) -> Platform | None:
    rules = _rules(settings, settings.audiences)
    auth = integrations.get("AUTH")
    if auth is not None and auth.profile.auth is not None:
        service = AuthService(auth.client, auth.profile.auth)
        return IntrospectedTokens(service, rules, clock, kept_seconds=settings.auth_cache)
    keys = _keys(settings, http, clock, plain_http=not production)
    return None if keys is None else SignedTokens(keys, rules, clock)


def _keys(
    settings: IdentitySettings, http: JsonClient, clock: Clock, *, plain_http: bool
) -> VerificationKeys | None:
    if settings.jwt_secret_key is not None:
        return SharedSecret(settings.jwt_secret_key.reveal().encode(), settings.algorithms[0])
    issuer: PinnedIssuer | DiscoveredIssuer
    if settings.jwks_url is not None:
        issuer = PinnedIssuer(http, settings.jwks_url)
    elif settings.discovers and settings.jwt_issuer is not None:
        issuer = DiscoveredIssuer(http, settings.jwt_issuer, plain_http=plain_http)
    else:
        return None
    return PublishedKeys(
        issuer.jwks, clock, algorithms=settings.algorithms, ttl_seconds=settings.jwks_ttl
    )
