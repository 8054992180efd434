"""The WinRM options of a target: scheme, authentication, trust and engine."""

from __future__ import annotations

import base64
import binascii
import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.output_encoding import check_encoding

HTTP_PORT = 5985
HTTPS_PORT = 5986
CA_CHARACTERS_MAX = 262_144

_SEPARATORS = re.compile(r"[:\s-]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----")


class WinrmAuth(StrEnum):
    """The authentication of a WinRM login.

    Over http, negotiate, ntlm, kerberos and credssp encrypt every message; basic and certificate
    need https."""

    NEGOTIATE = "negotiate"
    NTLM = "ntlm"
    KERBEROS = "kerberos"
    CREDSSP = "credssp"
    BASIC = "basic"
    CERTIFICATE = "certificate"


def check_fingerprint(text: str) -> str:
    """Return the SHA-256 of a certificate as 64 lower-case hexadecimal digits.

    Colons, blanks and hyphens are removed. Raises ValueError."""
    digits = _SEPARATORS.sub("", text.lower().removeprefix("sha256:"))
    if not _SHA256.fullmatch(digits):
        raise ValueError(
            "a fingerprint is the SHA-256 of the certificate in 64 hexadecimal digits, as "
            "`openssl x509 -noout -fingerprint -sha256` prints it"
        )
    return digits


def check_ca(text: str) -> str:
    """Return CA certificates in PEM form; raise ValueError if they are damaged."""
    found = _CERTIFICATE.findall(text)
    try:
        for body in found:
            base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error:
        found = []
    if not found:
        raise ValueError("the CA is one or more certificates in PEM form (BEGIN CERTIFICATE)")
    return text


def spell_fingerprint(digits: str) -> str:
    """Return a fingerprint as OpenSSL prints it: `AB:CD:…`."""
    upper = digits.upper()
    return ":".join(upper[at : at + 2] for at in range(0, len(upper), 2))


class WinrmOptions(ApiModel):
    """The WinRM options of a target.

    `ca`: the certificates in PEM form that sign the host's certificate; null: those of the system.
    `fingerprint`: the SHA-256 of the only certificate that is trusted; no CA is needed then.
    `verify` false trusts any certificate. `engine` psrp runs commands and PowerShell scripts in a
    runspace, with PowerShell's streams; `configuration` is the name of its session configuration,
    such as a JEA endpoint. `encoding`: what output is decoded from, to UTF-8: a code page, or auto
    (UTF-8 and UTF-16 are recognized in both cases); null: the bytes stay as they were written."""

    scheme: Literal["https", "http"] = "https"
    auth: WinrmAuth = WinrmAuth.NEGOTIATE
    verify: bool = True
    ca: Annotated[str, Field(max_length=CA_CHARACTERS_MAX), AfterValidator(check_ca)] | None = None
    fingerprint: Annotated[str, Field(max_length=200), AfterValidator(check_fingerprint)] | None = (
        None
    )
    engine: Literal["winrs", "psrp"] = "winrs"
    configuration: (
        Annotated[str, Field(max_length=128, pattern=text_patterns.SESSION_CONFIGURATION)] | None
    ) = None

    encoding: Annotated[str, Field(max_length=40), AfterValidator(check_encoding)] | None = None

    @model_validator(mode="after")
    def _needs_https(self) -> WinrmOptions:
        if self.configuration is not None and self.engine != "psrp":
            raise ValueError("configuration is a session configuration: it needs engine psrp")
        if self.scheme == "https":
            return self
        if self.auth in (WinrmAuth.BASIC, WinrmAuth.CERTIFICATE):
            raise ValueError(
                f"auth {self.auth.value} needs scheme https: over http it would not be encrypted"
            )
        if self.ca is not None or self.fingerprint is not None:
            raise ValueError("ca and fingerprint are about certificates: they need scheme https")
        return self

    @property
    def port(self) -> int:
        """The port on which Windows listens for this scheme."""
        return HTTPS_PORT if self.scheme == "https" else HTTP_PORT
