"""Load settings from the environment, check them, and describe them for `config show`."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ValidationError

from opsjobs.model.errors import Failure
from opsjobs.settings import identity, services
from opsjobs.settings.groups import ClientEnvironment, ClientSettings, SecuritySettings, Settings
from opsjobs.settings.types import HOW_TO_MAKE_A_KEY, key_bytes
from opsjobs.settings.variables import PREFIX, Reading, read, variables

# Variables that a run has in its environment on the target: neither settings nor mistakes.
_ON_A_TARGET = re.compile(
    r"OPSJOBS_(TARGET|HOST|EXECUTION|JOB|ATTEMPT|SECRETS|RUN|FAILPOINT|PARAM_.*)"
)
_DATA_DIR = ("data_dir",)
_DOCS = ("api", "docs")

_Group = TypeVar("_Group", bound=BaseModel)


class SettingsError(Failure):
    """Invalid settings; the message has one line for each: name, value, correction."""


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One setting as in `config show` and the reference of settings; secrets are redacted."""

    name: str
    default: str
    description: str
    value: str
    origin: str
    """One of "default", "environment" or the file that holds the value."""
    alias: str | None = None
    """The other accepted name."""
    secret: bool = False


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Load all settings from `environ`, by default the process's environment.

    Raises SettingsError with all faults at once.
    """
    environ = os.environ if environ is None else environ
    readings, faults = _read_all(environ, Settings)
    settings, invalid = _validate(Settings, readings)
    faults += invalid
    if not faults:
        faults = _find_contradictions(settings)
    if faults:
        raise SettingsError("\n".join(faults))
    return _complete(settings, {reading.variable.path for reading in readings}, environ)


def load_client(environ: Mapping[str, str] | None = None) -> tuple[ClientSettings, Path]:
    """Load the client's settings and the data directory only; faults elsewhere do not matter.

    Raises SettingsError.
    """
    environ = os.environ if environ is None else environ
    readings, faults = _read_all(environ, ClientEnvironment)
    found, invalid = _validate(ClientEnvironment, readings)
    if faults or invalid:
        raise SettingsError("\n".join(faults + invalid))
    return found.client, found.data_dir or default_data_dir(environ)


def for_service(settings: Settings) -> Settings:
    """Return the settings if separate processes can share database and keys.

    Raises SettingsError.
    """
    faults = []
    if not settings.database.url:
        faults.append(
            "DATABASE_URL is not set: write postgresql://USER@HOST/NAME. "
            "`opsjobs up` needs none, it brings its own PostgreSQL."
        )
    if not settings.security.encryption_keys:
        faults.append(
            "ENCRYPTION_KEYS is not set: credentials are encrypted with it. "
            f"Give every process the same key, {HOW_TO_MAKE_A_KEY}."
        )
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return /var/lib/opsjobs as root, else $XDG_DATA_HOME/opsjobs (~/.local/share/opsjobs)."""
    if os.geteuid() == 0:
        return Path("/var/lib/opsjobs")
    base = environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "opsjobs"


def describe(environ: Mapping[str, str] | None = None) -> list[SettingDoc]:
    """Return every setting with value and origin, in the order of the groups.

    Secrets are redacted; invalid values are shown as they are.
    """
    environ = os.environ if environ is None else environ
    readings, _ = _read_all(environ, Settings)
    found = {reading.variable.path: reading for reading in readings}
    docs = []
    for variable in variables(Settings):
        reading = found.get(variable.path, Reading(variable))
        value = reading.shown
        if variable.path == _DATA_DIR:
            value = value or str(default_data_dir(environ))
        docs.append(
            SettingDoc(
                variable.name,
                variable.default or "",
                variable.description,
                value,
                reading.origin,
                variable.alias,
                variable.secret,
            )
        )
    return docs


def names() -> frozenset[str]:
    """Return every variable that is read, in all its spellings."""
    found = set[str]()
    for variable in variables(Settings):
        found.update(variable.names)
        if variable.secret:
            found.update(f"{name}_FILE" for name in variable.names)
    return frozenset(found)


def unknown(environ: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Return OPSJOBS_ variables that are not settings, with the closest valid name."""
    environ = os.environ if environ is None else environ
    known = names()
    return {
        name: next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85)), None)
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known and not _ON_A_TARGET.fullmatch(name)
    }


def _read_all(
    environ: Mapping[str, str], group: type[BaseModel]
) -> tuple[list[Reading], list[str]]:
    """Return the set variables of a group, and the faults of those that cannot be read."""
    readings, faults = [], []
    for variable in variables(group):
        try:
            reading = read(environ, variable)
        except ValueError as fault:
            faults.append(str(fault))
        else:
            if reading.text is not None:
                readings.append(reading)
    return readings, faults


def _validate(group: type[_Group], readings: list[Reading]) -> tuple[_Group, list[str]]:
    """Return the group with these values; its defaults and the faults if some are invalid."""
    values = dict[str, Any]()
    for reading in readings:
        *above, name = reading.variable.path
        place = values
        for key in above:
            place = place.setdefault(key, {})
        place[name] = reading.text
    try:
        return group.model_validate(values), []
    except ValidationError as error:
        found = {reading.variable.path: reading for reading in readings}
        return group(), [
            found[tuple(str(part) for part in fault["loc"])].describe_fault(
                str(fault["ctx"]["error"])
            )
            for fault in error.errors(include_url=False, include_input=False)
        ]


def _find_contradictions(settings: Settings) -> list[str]:
    """Return faults of combined values, and settings that production refuses."""
    production = settings.security.environment == "production"
    faults = list(identity.faults(settings.identity, production=production))
    faults += identity.oidc_faults(
        settings.oidc, settings.identity, settings.api.public_url, production=production
    )
    faults += services.faults(settings.platform, settings.identity)
    faults += services.mail_faults(settings.mail, production=production)
    if production and not faults:
        faults = list(unfit(settings))
    return faults


def _complete(
    settings: Settings, given: set[tuple[str, ...]], environ: Mapping[str, str]
) -> Settings:
    """Return the settings with the values that follow from others, unless they are `given`."""
    changes = dict[str, Any]()
    if _DATA_DIR not in given:
        changes["data_dir"] = default_data_dir(environ)
    if settings.security.environment == "production" and _DOCS not in given:
        changes["api"] = settings.api.model_copy(update={"docs": False})
    if settings.telemetry.debug:
        changes["telemetry"] = settings.telemetry.model_copy(update={"log_level": "DEBUG"})
    return settings.model_copy(update=changes)


# --- what production refuses, each with the correction


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
