"""Load settings from the environment and describe them for `config show`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opsjobs.model.errors import Failure
from opsjobs.settings import identity
from opsjobs.settings.groups import ClientSettings, Settings
from opsjobs.settings.parsers import HOW_TO_MAKE_ONE, PREFIX, Variable
from opsjobs.settings.production import unfit

SECRET_FILE_BYTES_MAX = 65_536


class SettingsError(Failure):
    """Invalid settings; the message has one line for each: name, value, correction."""


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One setting as in `config show` and docs/reference/settings.md; secrets are redacted.

    `origin` is "default", "environment" or the file that the value came from; `alias` is the other accepted name.
    """

    name: str
    default: str
    description: str
    value: str
    origin: str
    alias: str | None = None
    secret: bool = False


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """/var/lib/opsjobs as root, else $XDG_DATA_HOME/opsjobs (~/.local/share/opsjobs)."""
    if os.geteuid() == 0:
        return Path("/var/lib/opsjobs")
    base = environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "opsjobs"


@dataclass(frozen=True, slots=True)
class _Found:
    """One variable as it was found: `text` None is not set; `value` is what the field holds."""

    variable: Variable
    text: str | None
    origin: str
    value: Any

    @property
    def shown(self) -> str:
        """The value for people: a secret as ***, an address without its password."""
        text = self.variable.default if self.text is None else self.text
        if text is None:
            return ""
        return _masked(text) if self.variable.secret else text


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Load all settings from `environ`, by default the process's environment.

    Raises SettingsError with all faults at once.
    """
    environ = os.environ if environ is None else environ
    found, faults = _find(environ, Settings)
    settings = _built(Settings, found) if not faults else Settings()
    settings = replace(
        settings,
        data_dir=settings.data_dir if _resolve(found, "DATA_DIR") else default_data_dir(environ),
    )
    production = settings.security.environment == "production"
    if not faults:
        faults = list(identity.faults(settings.identity, production=production))
    if production and not faults:
        faults = list(unfit(settings))
        if not _resolve(found, "DOCS"):
            settings = replace(settings, api=replace(settings.api, docs=False))
    if faults:
        raise SettingsError("\n".join(faults))
    if settings.telemetry.debug:
        settings = replace(settings, telemetry=replace(settings.telemetry, log_level="DEBUG"))
    return settings


def load_client(environ: Mapping[str, str] | None = None) -> tuple[ClientSettings, Path]:
    """Load the client's settings and the data folder only; faults elsewhere do not matter."""
    environ = os.environ if environ is None else environ
    found, faults = _find(environ, ClientSettings)
    place, more = _read(environ, _variable(Settings, "data_dir"))
    if faults or more:
        raise SettingsError("\n".join([*faults, *more]))
    return _built(
        ClientSettings, found
    ), place.value if place.text is not None else default_data_dir(environ)


def for_service(settings: Settings) -> Settings:
    """Return the settings if separate processes can share database and keys.

    Raises SettingsError.
    """
    faults = []
    if not settings.database.url:
        faults.append(
            "DATABASE_URL is not set: write postgresql://USER@HOST/NAME. `opsjobs up` needs none, it brings its own PostgreSQL."
        )
    if not settings.security.encryption_keys:
        faults.append(
            f"ENCRYPTION_KEYS is not set: credentials are encrypted with it. Give every process the same key, {HOW_TO_MAKE_ONE}."
        )
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def describe(environ: Mapping[str, str] | None = None) -> list[SettingDoc]:
    """Return every setting with value and origin, in the order of the groups.

    Secrets are redacted; invalid values are shown as they are.
    """
    environ = os.environ if environ is None else environ
    found, _ = _find(environ, Settings)
    docs = [_doc(f) for f in found.values()]
    folder = str(default_data_dir(environ))
    return [
        replace(d, value=d.value or folder) if d.name == "OPSJOBS_DATA_DIR" else d for d in docs
    ]


def names() -> frozenset[str]:
    """Every variable that is read, in all its spellings."""
    plain = {(name, v.secret) for v in _variables(Settings) for name in v.names}
    return frozenset(
        {name for name, _ in plain} | {f"{name}_FILE" for name, secret in plain if secret}
    )


def unknown(environ: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """OPSJOBS_ variables that mean nothing to us -> the name that was perhaps meant."""
    environ = os.environ if environ is None else environ
    known = names()
    strangers = sorted(
        n
        for n in environ
        if n.startswith(PREFIX) and n not in known and not _ON_A_TARGET.fullmatch(n)
    )
    return {
        n: next(iter(difflib.get_close_matches(n, sorted(known), n=1, cutoff=0.85)), None)
        for n in strangers
    }


# What a run finds in its environment on the target: no setting, and no mistake.
_ON_A_TARGET = re.compile(
    r"OPSJOBS_(TARGET|HOST|EXECUTION|JOB|ATTEMPT|SECRETS|RUN|FAILPOINT|PARAM_.*)"
)


def _variables(group: type) -> Iterator[Variable]:
    for f in fields(group):
        yield from (
            [f.metadata["variable"]] if "variable" in f.metadata else _variables(_group_of(f))
        )


def _variable(group: type, name: str) -> Variable:
    found: Variable = next(f.metadata["variable"] for f in fields(group) if f.name == name)
    return found


def _group_of(f: Field[Any]) -> type:
    assert isinstance(f.default_factory, type)
    return f.default_factory


def _find(environ: Mapping[str, str], group: type) -> tuple[dict[str, _Found], list[str]]:
    """Return the variables of a group, nested groups included, by name; and their faults."""
    found: dict[str, _Found] = {}
    faults: list[str] = []
    for variable in _variables(group):
        found[variable.plain], wrong = _read(environ, variable)
        faults += wrong
    return found, faults


def _read(environ: Mapping[str, str], variable: Variable) -> tuple[_Found, list[str]]:
    fallback = _Found(variable, None, "default", None)
    for name in variable.names:
        try:
            text, origin = _raw(environ, name, variable.secret)
        except ValueError as fault:
            return fallback, [str(fault)]
        if not text:
            continue
        try:
            return _Found(variable, text, origin, variable.parse(text)), []
        except ValueError as write:
            shown = _masked(text) if variable.secret else repr(text)
            where = "" if origin == "environment" else f" (from {origin})"
            return _Found(variable, text, origin, None), [f"{name} is {shown}{where}: {write}."]
    return fallback, []


def _raw(environ: Mapping[str, str], name: str, secret: bool) -> tuple[str, str]:
    text, path = (
        environ.get(name, "").strip(),
        environ.get(f"{name}_FILE", "").strip() if secret else "",
    )
    if text and path:
        raise ValueError(f"{name} and {name}_FILE are both set: keep only one of them.")
    if not path:
        return text, "environment"
    try:
        content = Path(path).read_bytes()
    except OSError as away:
        raise ValueError(
            f"{name}_FILE is {path!r}, which cannot be read ({away.strerror}): write the path of a readable file."
        ) from None
    if len(content) > SECRET_FILE_BYTES_MAX or b"\x00" in content:
        raise ValueError(
            f"{name}_FILE is {path!r}, which is no text of at most {SECRET_FILE_BYTES_MAX} bytes."
        )
    return content.decode(errors="replace").strip(), path


def _masked(text: str) -> str:
    """A secret as ***; an address keeps everything but its password."""
    if "://" not in text:
        return "***"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "***"
    user, at, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}:***" if ":" in user else user
    query = re.sub(r"(?i)(password=)[^&]*", r"\1***", parts.query)
    return parts._replace(netloc=f"{shown}{at}{host}", query=query).geturl()


def _resolve(found: Mapping[str, _Found], plain: str) -> bool:
    return found[plain].text is not None


def _built(group: Any, found: Mapping[str, _Found]) -> Any:
    values = {}
    for f in fields(group):
        if "variable" not in f.metadata:
            values[f.name] = _built(_group_of(f), found)
        elif _resolve(found, f.metadata["variable"].plain):
            values[f.name] = found[f.metadata["variable"].plain].value
    return group(**values)


def _doc(found: _Found) -> SettingDoc:
    v = found.variable
    alias = None if v.ours else PREFIX + v.plain
    return SettingDoc(
        v.name, v.default or "", v.description, found.shown, found.origin, alias, v.secret
    )
