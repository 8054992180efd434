"""Targets: their description, selection and groups, and the endpoints of their sessions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.capabilities import PSRP, WINRM, Capabilities, Platform, capabilities_of
from opsjobs.model.naming import Composed, check_name
from opsjobs.model.program import Durability
from opsjobs.model.secret import Credential
from opsjobs.model.winrm import HTTP_PORT, HTTPS_PORT, WinrmOptions

_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")


class Transport(StrEnum):
    """The transport to a machine."""

    SSH = "ssh"
    WINRM = "winrm"
    LOCAL = "local"


class HostKeyPolicy(StrEnum):
    """The rule by which a host key is trusted.

    pinned: it is pinned. ca: it has a certificate of a pinned CA. accept_new: the first one seen.
    unchecked: any. The last two have to be chosen explicitly. Keys marked `@revoked` are never
    trusted."""

    PINNED = "pinned"
    CA = "ca"
    ACCEPT_NEW = "accept_new"
    UNCHECKED = "unchecked"


def check_host(host: str) -> str:
    """Return the host if it is an IP address or a host name; else raise ValueError.

    A host never starts with `-`, so that no program reads it as an option."""
    labels = host.rstrip(".").split(".")
    if not _is_address(host) and (
        len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels)
    ):
        raise ValueError(f"{host!r} is neither an IP address nor a host name")
    return host


def _is_address(host: str) -> bool:
    address, percent, scope = host.partition("%")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return not percent or _SCOPE.fullmatch(scope) is not None


REVOKED = "@revoked "
"""The mark of a host key, or the key of a CA, that is never trusted, as in known_hosts."""


def host_key_fingerprint(line: str) -> str:
    """Return `ssh-ed25519 SHA256:…` of a host key, as `ssh-keygen -l` prints it.

    Any `@revoked` mark is kept."""
    mark = REVOKED if line.startswith(REVOKED) else ""
    kind, _, blob = line.removeprefix(REVOKED).partition(" ")
    try:
        digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
    except (binascii.Error, ValueError):
        return line
    return f"{mark}{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


Host = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(check_host)]
Name = Annotated[
    str, Field(min_length=1, max_length=200, pattern=text_patterns.NAME), AfterValidator(check_name)
]
"""A name of a target, group or credential.

It has no comma or slash, so that lists and paths of names stay unambiguous."""


def check_label_value(value: str) -> str:
    """Return the stored form of a label value; raise ValueError if it is not one line of text.

    Some shells cannot quote such a value."""
    if _CONTROL.search(value):
        raise ValueError(
            f"the label value {value[:40]!r} has a line break or another control character in it: "
            "take it out"
        )
    return check_name(value)


Labels = Annotated[
    dict[
        Annotated[str, Field(pattern=text_patterns.LABEL_KEY)],
        Annotated[str, Field(max_length=200), AfterValidator(check_label_value)],
    ],
    Field(max_length=64),
]


GROUPS_MAX = 500
"""The maximum number of groups of one target.

The largest inventories in use, such as kolla-ansible's, put a host into some 130."""


class TargetDraft(ApiModel):
    """A target as a caller writes it (body of POST and PUT /targets)."""

    name: Name
    host: Host
    port: int = Field(default=22, ge=1, le=65535)
    transport: Transport = Transport.SSH
    platform: Platform = "linux"
    labels: Labels = Field(default_factory=dict)
    groups: list[Name] = Field(default_factory=list, max_length=GROUPS_MAX)
    credential: Name | None = None
    host_keys: list[Annotated[str, Field(max_length=16_384)]] = Field(
        default_factory=list, max_length=16
    )
    host_key_policy: HostKeyPolicy = HostKeyPolicy.PINNED
    zone: str = Field(default="default", pattern=text_patterns.ZONE)
    slots: int = Field(default=10, ge=1, le=10_000)
    jump: Name | None = None
    durable: Durability = "auto"
    winrm: WinrmOptions | None = None
    """The options of transport winrm; null for all other transports."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_winrm(cls, body: object) -> object:
        """Fill in what follows from transport winrm, unless it is given."""
        if not isinstance(body, dict) or body.get("transport") != Transport.WINRM:
            return body
        options = body.get("winrm") or {}
        insecure = isinstance(options, dict) and options.get("scheme") == "http"
        port = HTTP_PORT if insecure else HTTPS_PORT
        return {"port": port, "platform": "windows", **body, "winrm": options}

    @model_validator(mode="after")
    def _options_fit_the_transport(self) -> TargetDraft:
        if self.transport is not Transport.WINRM:
            if self.winrm is not None:
                raise ValueError(
                    "winrm is for transport winrm: set it to null, or change the transport"
                )
            return self
        if self.jump is not None:
            raise ValueError("a target of transport winrm cannot have a jump host")
        if capabilities_of(self.platform).quoting != "cmd":
            raise ValueError("a target of transport winrm has the platform windows")
        if self.durable == "required" and self.winrm is not None and self.winrm.engine == "psrp":
            raise ValueError("durable required is not possible with engine psrp: use engine winrs")
        return self

    @model_validator(mode="after")
    def _not_its_own_jump_host(self) -> TargetDraft:
        if self.jump == self.name:
            raise ValueError("a target cannot be its own jump host")
        return self


@dataclass(frozen=True, slots=True)
class PlatformTarget:
    """A target of the platform's Target Service: its id there, and what opsjobs keeps of it."""

    external_id: str
    draft: TargetDraft


@dataclass(frozen=True, slots=True)
class Target:
    """A known machine."""

    id: str
    name: str
    host: str
    port: int
    transport: Transport
    platform: str = "linux"
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[str] = ()
    credential: str | None = None
    """The id of its credential."""
    host_keys: Sequence[str] = ()
    host_key_policy: HostKeyPolicy = HostKeyPolicy.PINNED
    zone: str = "default"
    slots: int = 10
    jump: str | None = None
    """The id of its jump host, which is a target."""
    durable: Durability = "auto"
    winrm: WinrmOptions | None = None
    """The options of transport winrm."""
    version: int = 1
    """A number that grows with every change."""
    bound: bool = True
    """False if its login certainly has no binding, so that no check is needed."""

    @property
    def capabilities(self) -> Capabilities:
        """Its capabilities, as far as they are known before a session is open."""
        if self.winrm is None:
            return capabilities_of(self.platform)
        return PSRP if self.winrm.engine == "psrp" else WINRM


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A target with its decrypted credential and its jump hosts."""

    target: Target
    credential: Credential | None
    jumps: tuple[Endpoint, ...] = ()
    """The jump hosts, the nearest first."""
    insist: bool = False
    """True if a command of opsjobs runs there.

    It is then tried even if its circuit is open because the host was unreachable.
    """
    purpose: str = ""
    """The purpose of the connection, which a certificate made for this login names."""

    @property
    def logins(self) -> tuple[Credential, ...]:
        """The credentials of the target and of the jump hosts before it."""
        return tuple(hop.credential for hop in (self, *self.jumps) if hop.credential is not None)

    def for_(self, purpose: str) -> Endpoint:
        """Return the endpoint with this purpose, including its jump hosts."""
        return replace(
            self, purpose=purpose, jumps=tuple(jump.for_(purpose) for jump in self.jumps)
        )


TargetRef = Annotated[Composed, Field(min_length=1, max_length=200)]
"""The id, uuid or name of a target."""


class SelectionDraft(ApiModel):
    """A selection of targets: the union of ids, groups and a selector, without exclusions.

    `ids` and `exclude` are ids, uuids or names.
    """

    ids: list[TargetRef] = Field(default_factory=list, max_length=10_000)
    groups: list[Name] = Field(default_factory=list, max_length=1_000)
    selector: str | None = Field(default=None, max_length=4_096)
    exclude: list[TargetRef] = Field(default_factory=list, max_length=10_000)

    @field_validator("ids", "exclude", mode="before")
    @classmethod
    def _ids_may_be_numbers(cls, entries: object) -> object:
        if not isinstance(entries, list):
            return entries
        return [str(i) if isinstance(i, int) and not isinstance(i, bool) else i for i in entries]

    @model_validator(mode="after")
    def _selector_parses(self) -> SelectionDraft:
        if self.selector is not None:
            parse_selector(self.selector)
        return self

    @property
    def empty(self) -> bool:
        """True if nothing is selected."""
        return not (self.ids or self.groups or self.selector)


LABEL_KEYS_MAX = 100
LABEL_VALUES_MAX = 50


@dataclass(frozen=True, slots=True)
class LabelCount:
    """A label key with its most frequent values, and the numbers of targets that have them."""

    key: str
    targets: int
    """The number of targets that have the key."""
    values: Sequence[tuple[str, int]]
    """At most 50 values, the most frequent ones first."""
    more: int = 0
    """The number of further values."""

    def data(self) -> dict[str, Any]:
        """Return an item of GET /targets/labels."""
        values = [{"value": value, "targets": targets} for value, targets in self.values]
        return {"key": self.key, "targets": self.targets, "values": values, "more": self.more}


def count_labels(counts: Mapping[tuple[str, str], int]) -> list[LabelCount]:
    """Return the first 100 keys in order, from the number of targets with each key and value."""
    by_key: dict[str, list[tuple[str, int]]] = {}
    for (key, value), targets in counts.items():
        by_key.setdefault(key, []).append((value, targets))
    found = []
    for key in sorted(by_key)[:LABEL_KEYS_MAX]:
        values = sorted(by_key[key], key=lambda pair: (-pair[1], pair[0]))
        shown = values[:LABEL_VALUES_MAX]
        total = sum(targets for _, targets in values)
        found.append(LabelCount(key, total, shown, len(values) - len(shown)))
    return found


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition of a selector: the label `key` has one of `values`; no values: it exists.

    `negated` inverts the condition."""

    key: str
    values: tuple[str, ...] = ()
    negated: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return True if these labels match. A missing label matches every negated condition."""
        held = self.key in labels if not self.values else labels.get(self.key) in self.values
        return held != self.negated


_SET = re.compile(r"(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_PAIR = re.compile(r"(?P<key>[^\s!=,()]+)\s*(?P<op>==?|!=)\s*(?P<value>[^\s,()!=]*)")
_BARE = re.compile(r"(?P<not>!?)\s*(?P<key>[^\s!=,()]+)")


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Parse conditions such as `env=prod,role in (web,api),!canary`, all of which must hold.

    Forms: `k=v`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k`, `!k`. Raises ValueError naming
    the fault."""
    requirements: list[Requirement] = []
    rest = text.strip()
    while rest:
        requirement, end = _requirement(rest)
        if not _LABEL_KEY.fullmatch(requirement.key):
            raise ValueError(f"{requirement.key!r} in the selector is not a label name")
        requirements.append(requirement)
        rest = rest[end:].lstrip()
        if rest and not rest.startswith(","):
            raise ValueError(
                f"the selector cannot be read at {rest[:30]!r}: conditions are separated by commas"
            )
        if rest and not (rest := rest[1:].lstrip()):
            raise ValueError("the selector ends with a comma")
    if not requirements:
        raise ValueError("the selector is empty")
    return tuple(requirements)


def _requirement(rest: str) -> tuple[Requirement, int]:
    if m := _SET.match(rest):
        values = tuple(v.strip() for v in m["values"].split(",") if v.strip())
        if not values:
            raise ValueError(f"the selector's list for {m['key']!r} is empty")
        return Requirement(m["key"], values, m["op"] == "notin"), m.end()
    if m := _PAIR.match(rest):
        if m["op"] == "==" and not m["value"]:
            raise ValueError(
                f"{m[0].strip()!r} in the selector has no value: write {m['key']}=VALUE, or "
                f"{m['key']} for any value"
            )
        return Requirement(m["key"], (m["value"],), m["op"] == "!="), m.end()
    if m := _BARE.match(rest):
        return Requirement(m["key"], (), bool(m["not"])), m.end()
    raise ValueError(f"the selector cannot be read at {rest[:30]!r}")


DEPTH_MAX = 8


class GroupDraft(ApiModel):
    """A target group as a caller writes it (body of POST and PUT /target-groups).

    Its members are the targets that name it, those that the selector matches, and those of the
    groups that it contains. `targets` (ids, uuids, names) replaces the list of targets that name
    it; None leaves it as it is."""

    name: Name
    description: str = Field(default="", max_length=2_000)
    selector: str | None = Field(default=None, max_length=4_096)
    groups: list[Name] = Field(default_factory=list, max_length=100)
    targets: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        default=None, max_length=10_000
    )

    @model_validator(mode="after")
    def _selector_parses(self) -> GroupDraft:
        if self.selector is not None:
            parse_selector(self.selector)
        return self


def check_nesting(name: str, held: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if a group contains itself, or is nested more than 8 deep.

    `held`: the groups that each group contains."""
    if (found := _circle(name, held)) is not None:
        raise ValueError(f"the group {name!r} would hold itself: {' > '.join(found)}")
    holders: dict[str, list[str]] = {}
    for holder, inner in held.items():
        for group in inner:
            holders.setdefault(group, []).append(holder)
    if _depth(name, held) + _depth(name, holders) - 1 > DEPTH_MAX:
        raise ValueError(
            f"groups may hold each other {DEPTH_MAX} deep, and with {name!r} they would be deeper"
        )


def _circle(name: str, held: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the path from a group back to itself, if there is one."""
    before: dict[str, str] = {}
    waiting = [name]
    while waiting:
        here = waiting.pop()
        for group in held.get(here, ()):
            if group == name:
                path = [here]
                while path[0] != name:
                    path.insert(0, before[path[0]])
                return [*path, name]
            if group not in before:
                before[group] = here
                waiting.append(group)
    return None


def _depth(name: str, held: Mapping[str, Sequence[str]]) -> int:
    """Return the nesting depth from here on, this group included.

    It stops counting at one more than the limit."""
    level, depth = {name}, 0
    while level and depth <= DEPTH_MAX:
        level, depth = {group for here in level for group in held.get(here, ())}, depth + 1
    return depth
