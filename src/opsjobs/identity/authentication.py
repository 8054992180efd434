"""The authentication of a process: its logins, and the check of its requests."""

from __future__ import annotations

from dataclasses import dataclass

from opsjobs.identity.authenticator import Authenticator
from opsjobs.identity.cookie_logins import CookieLogins
from opsjobs.identity.logins import LoginService
from opsjobs.identity.oidc_login import OidcLogins
from opsjobs.identity.passwords import Passwords
from opsjobs.integrations.json_client import JsonClient
from opsjobs.store.identities import IdentityStore


@dataclass(frozen=True)
class SingleSignOn:
    """Logins at the OpenID Connect provider, with the text and the address of their button."""

    logins: OidcLogins
    label: str
    url: str


@dataclass(frozen=True)
class Authentication:
    """Authentication: `authenticator` for requests, `logins` and `passwords` for local users.

    `cookie_logins`: logins of browsers. `single_sign_on`: those at the OpenID Connect provider, if
    they are set up.
    """

    identities: IdentityStore
    authenticator: Authenticator
    logins: LoginService
    cookie_logins: CookieLogins
    passwords: Passwords
    http: JsonClient
    single_sign_on: SingleSignOn | None = None

    async def close(self) -> None:
        """Close the connections to issuers and the Auth Service."""
        await self.http.close()
