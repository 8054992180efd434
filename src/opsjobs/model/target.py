"""Targets: their description, the endpoints of their sessions, and what they can do.

The capabilities are known by platform at a launch, and as a session reports them later. Also the
checks of `transport: local`, which runs commands on the worker's own host."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.errors import FieldError, Forbidden, Invalid
from opsjobs.model.naming import Host, Name, check_name
from opsjobs.model.program import Durability
from opsjobs.model.quoting import Shell
from opsjobs.model.winrm import HTTP_PORT, HTTPS_PORT, WinrmAuth, WinrmOptions

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]")

Platform = Literal["linux", "macos", "bsd", "network", "windows"]


class Transport(StrEnum):
    """The transport to a machine."""

    SSH = "ssh"
    WINRM = "winrm"
    LOCAL = "local"


LOCAL_REASON = (
    "Its commands run as the worker's user, who can read the keys and tokens of this installation."
)
"""The reason for which transport local is refused to some callers, for their errors."""


class HostKeyPolicy(StrEnum):
    """The rule by which a host key is trusted.

    pinned: it is pinned. ca: it has a certificate of a pinned CA. accept_new: the first one seen.
    unchecked: any. The last two have to be chosen explicitly. Keys marked `@revoked` are never
    trusted."""

    PINNED = "pinned"
    CA = "ca"
    ACCEPT_NEW = "accept_new"
    UNCHECKED = "unchecked"


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
        """Fill in the defaults of transport winrm, unless they are given."""
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


def login_types(auth: WinrmAuth) -> tuple[CredentialType, ...]:
    """Return the types of credentials that this authentication of WinRM uses."""
    match auth:
        case WinrmAuth.CERTIFICATE:
            return (CredentialType.CLIENT_CERTIFICATE,)
        case WinrmAuth.KERBEROS:
            return (CredentialType.KERBEROS, CredentialType.PASSWORD)
        case _:
            return (CredentialType.PASSWORD,)


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


def check_local_transport(
    transport: Transport, was: Transport | None, *, allowed: bool, everywhere: bool
) -> None:
    """Check the transport of a target on write. `was`: the previous one; None: a new target.

    `allowed`: the setting. `everywhere`: the caller has no scope. Raises Forbidden, Invalid."""
    if Transport.LOCAL not in (transport, was):
        return
    if not everywhere:
        detail = (
            f"transport: local is refused within a scope. {LOCAL_REASON} Use ssh, or ask an "
            "administrator without a scope."
        )
        raise Forbidden(
            "out_of_reach", detail, errors=[FieldError("/transport", detail, "out_of_reach")]
        )
    if transport is Transport.LOCAL and not allowed:
        detail = (
            f"transport: local is off. {LOCAL_REASON} Use ssh, or set OPSJOBS_LOCAL_TRANSPORT=on "
            "for the API and the workers."
        )
        raise Invalid(
            "local_transport_off",
            detail,
            errors=[FieldError("/transport", detail, "local_transport_off")],
        )


def check_local_targets(targets: Iterable[Target], *, allowed: bool) -> None:
    """Raise Invalid if a target of a launch has a transport that is disabled.

    Such targets may have been created while the setting was on."""
    if allowed:
        return
    found = next((target.name for target in targets if target.transport is Transport.LOCAL), None)
    if found is not None:
        detail = (
            f"The target {found} has transport: local, which is off. Select other targets, change "
            "its transport to ssh, "
            "or set OPSJOBS_LOCAL_TRANSPORT=on for the API and the workers."
        )
        raise Invalid(
            "local_transport_off",
            detail,
            errors=[FieldError("/targets", detail, "local_transport_off")],
        )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a target. The defaults are those of a POSIX machine over SSH."""

    quoting: Shell = "posix"
    """The shell for which values are quoted in command lines."""
    posix_shell: bool = True
    """A POSIX shell starts programs: commands with variables, a folder, input or secrets."""
    programs: bool = True
    """Programs can be started, by a POSIX shell or otherwise."""
    environment: bool = True
    """Commands have environment variables; a device without them is sent the bare line."""
    durable: bool = True
    """Commands can survive a lost connection in a spool."""
    become: bool = True
    """Commands can run as a user other than the login."""
    process_groups: bool = True
    """A command leads a process group, by which it is ended with its children."""
    files: bool = True
    """Files are expected, so a connection test tries them. A transfer is tried in any case."""
    exit_status: bool = True
    """A command ends with an exit status; without one, a closed channel is its normal end."""


POSIX = Capabilities()

_BY_PLATFORM: Mapping[str, Capabilities] = {
    "linux": POSIX,
    "macos": POSIX,
    "bsd": POSIX,
    "network": Capabilities(
        posix_shell=False,
        programs=False,
        environment=False,
        durable=False,
        become=False,
        process_groups=False,
        files=False,
        exit_status=False,
    ),
    "windows": Capabilities(
        quoting="cmd",
        posix_shell=False,
        programs=False,
        durable=False,
        become=False,
        process_groups=False,
        files=False,
    ),
}


WINRM = Capabilities(
    quoting="cmd",
    posix_shell=False,
    become=False,
    process_groups=False,
)
"""A Windows host over WinRM: variables and a folder belong to the shell of a command."""


PSRP = replace(WINRM, quoting="powershell", durable=False)
"""A Windows host over WinRM, whose commands are pipelines of PowerShell."""


def capabilities_of(platform: str) -> Capabilities:
    """Return the capabilities of this platform; an unknown platform is a POSIX machine."""
    return _BY_PLATFORM.get(platform, POSIX)
