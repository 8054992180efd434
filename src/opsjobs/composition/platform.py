"""Build the clients of the platform's services, as the settings and profiles say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from opsjobs.clock import Clock
from opsjobs.composition.services import ConnectedService, Integrations
from opsjobs.engine.mirrored_inventory import MirroredInventory, MirrorLimits
from opsjobs.identity.platform_users import PlatformUsers
from opsjobs.identity.tokens import OutgoingTokens
from opsjobs.integrations.services.authorization import (
    ClientCredentials,
    ServiceAuth,
    SignedToken,
    StaticHeader,
)
from opsjobs.integrations.services.client import ServiceClient, ServiceOptions, request_token
from opsjobs.integrations.services.health import ServiceHealth
from opsjobs.integrations.services.profile import Profile, ProfileError, load_profile
from opsjobs.integrations.services.targets import TargetService
from opsjobs.integrations.services.users import UserService
from opsjobs.model.secret import Secret
from opsjobs.model.target import HostKeyPolicy
from opsjobs.settings import PlatformSettings, ServiceSettings, Settings
from opsjobs.store.identities import IdentityStore
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.target_mirror import TargetMirror
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.telemetry.metrics import Metrics

_SECTIONS = {
    "TARGET": "targets",
    "USER": "users",
    "AUTH": "auth",
    "NOTIFICATION": "notifications",
    "AUDIT": "audit",
}
"""The section of a profile for each service."""


def build_integrations(settings: Settings, clock: Clock, metrics: Metrics) -> Integrations:
    """Build the clients without connecting.

    Raises ValueError for a profile that cannot be used.
    """
    wanted = settings.platform
    return Integrations(
        {
            name: _connect(name, service, settings, clock, metrics)
            for name, service in wanted.services(settings.identity).items()
            if service.is_remote
        }
    )


def build_platform_users(
    settings: Settings, integrations: Integrations, identities: IdentityStore, clock: Clock
) -> PlatformUsers:
    """Build the check of the platform's users; without a User Service it confirms everything."""
    connected = integrations.get("USER")
    if connected is None or connected.profile.users is None:
        return PlatformUsers(identities, None)
    return PlatformUsers(
        identities,
        UserService(connected.client, connected.profile.users, clock),
        execute_runs_commands=settings.identity.jwt_execute_runs_commands,
    )


def build_target_service(integrations: Integrations, clock: Clock) -> TargetService | None:
    """Build the adapter of the Target Service; None if targets are kept here."""
    connected = integrations.get("TARGET")
    if connected is None or connected.profile.targets is None:
        return None
    return TargetService(connected.client, connected.profile.targets, clock)


def build_inventory(
    settings: Settings,
    database: Database,
    vault: Vault,
    clock: Clock,
    service: TargetService | None,
) -> TargetInventory:
    """Build the inventory: the built-in one, or a mirror of the Target Service."""
    if service is None:
        return TargetInventory(database, vault, clock, local=settings.security.local_transport)
    wanted = settings.platform
    mirror = TargetMirror(database, clock, host_key_policy=HostKeyPolicy(wanted.target_host_keys))
    limits = MirrorLimits(wanted.target_cache, wanted.target_stale)
    return MirroredInventory(database, vault, clock, mirror=mirror, service=service, limits=limits)


def _connect(
    name: str, service: ServiceSettings, settings: Settings, clock: Clock, metrics: Metrics
) -> ConnectedService:
    try:
        profile = load_profile(service.profile)
    except ProfileError as wrong:
        raise ValueError(f"{name}_SERVICE_PROFILE: {wrong}.") from None
    section = _SECTIONS[name]
    if getattr(profile, section) is None:
        raise ValueError(
            f"{name}_SERVICE_PROFILE: the profile {profile.name} has no section {section!r}, so "
            f"this service cannot be asked. Unset {name}_SERVICE_URL, or write another profile."
        )
    wanted, word, url = settings.platform, name.lower(), service.url or ""
    options = ServiceOptions(
        word, url, wanted.timeout, profile.headers.correlation, ca_file=wanted.ca_file
    )
    shared = settings.identity.jwt_secret_key
    client = ServiceClient(
        options,
        _auth(service, wanted, clock, name=word, shared=shared, profile=profile),
        ServiceHealth(word, url, profile.name, clock),
        clock,
        observe=_observer(word, metrics),
    )
    return ConnectedService(client, profile)


def _auth(
    service: ServiceSettings,
    settings: PlatformSettings,
    clock: Clock,
    *,
    name: str,
    shared: Secret | None,
    profile: Profile,
) -> ServiceAuth:
    secret = service.secret
    match service.auth:
        case "bearer":
            return StaticHeader("authorization", secret, prefix="Bearer ")
        case "api_key":
            return StaticHeader(profile.headers.api_key.lower(), secret)
        case "service_jwt" if (key := secret or shared) is not None:
            return SignedToken(OutgoingTokens(key, clock, audience=f"{name}-service").sign)
        case "client_credentials" if secret is not None and settings.token_url is not None:
            ask = partial(
                request_token,
                settings.token_url,
                settings.client_id,
                secret,
                seconds=settings.timeout,
                ca_file=settings.ca_file,
            )
            return ClientCredentials(ask, clock)
    return StaticHeader()


def _observer(name: str, metrics: Metrics) -> Callable[[str, float], None]:
    requests, seconds = metrics.service_requests, metrics.service_request_seconds.labels(name)

    def observe(outcome: str, took: float) -> None:
        requests.labels(name, outcome).inc()
        seconds.observe(took)

    return observe
