"""Settings of logins at an OpenID Connect provider, whose issuer is OPSJOBS_JWT_ISSUER."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from opsjobs.model.secret import Secret
from opsjobs.settings.identity import IdentitySettings
from opsjobs.settings.types import hidden, is_loopback, matching, seconds, text
from opsjobs.settings.variables import SettingsGroup, setting

_HTTP = ("https://", "http://")


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


def faults(
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
    if identity.jwt_issuer is None or not identity.jwt_issuer.startswith(_HTTP):
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
