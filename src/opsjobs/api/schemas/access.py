"""Schemas of users, services, API keys and logins."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from opsjobs.api.schemas.base import AnswerModel, PageModel, StoredModel, Timestamp
from opsjobs.model.identity import PrincipalKind


class GrantOut(AnswerModel):
    """A role or permissions, limited to the labels of `scope`; an empty scope has no limit."""

    role: str | None
    permissions: list[str]
    scope: str


class UserOut(StoredModel):
    """A user with a password."""

    name: str
    grants: list[GrantOut]
    disabled: bool
    created_at: Timestamp
    updated_at: Timestamp
    last_login_at: Timestamp | None


class UserPageOut(PageModel):
    """A page of users."""

    items: list[UserOut]


class ServiceOut(StoredModel):
    """A service that signs its own tokens."""

    name: str
    public_key: str
    grants: list[GrantOut]
    disabled: bool
    made_by: str | None
    created_at: Timestamp
    updated_at: Timestamp


class ServicePageOut(PageModel):
    """A page of services."""

    items: list[ServiceOut]


class ApiKeyOut(StoredModel):
    """An API key without its token."""

    name: str
    role: str | None
    grants: list[GrantOut]
    person: str | None = Field(description="The user who holds it")
    made_by: str | None
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None


class NewApiKeyOut(ApiKeyOut):
    """A new API key. The token is shown this once; an answer that is replayed has none."""

    token: str = ""


class ApiKeyListOut(AnswerModel):
    """All API keys of one user."""

    items: list[ApiKeyOut]


class ApiKeyPageOut(PageModel):
    """A page of API keys."""

    items: list[ApiKeyOut]


class TokensOut(AnswerModel):
    """The tokens of a login."""

    access_token: str
    refresh_token: str = Field(description="Can be used once")
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="Seconds until the access token expires")


class ExternalPersonOut(AnswerModel):
    """A person that the OpenID Connect provider has logged in."""

    issuer: str
    subject: str = Field(description="The person's identifier at the issuer")
    name: str | None = Field(description="The claim name")
    email: str | None
    logout_url: str | None = Field(
        description="The address at which a browser also logs out at the issuer"
    )


class SessionOut(AnswerModel):
    """A session of a browser, of the caller."""

    id: str
    created_at: Timestamp
    expires_at: Timestamp
    idle_seconds: float = Field(description="It ends if it is unused for so long")
    confirmed_until: Timestamp = Field(
        description="From then on sensitive changes need POST /auth/confirm"
    )
    confirm_by: Literal["password", "code", "oidc"] = Field(
        description="How to confirm there; oidc: by GET /auth/oidc?confirm=true instead"
    )
    external: ExternalPersonOut | None = Field(description="Null for users and API keys")


class MeOut(AnswerModel):
    """The caller, as the service understands its token or cookie."""

    name: str
    kind: PrincipalKind
    person: str | None
    roles: list[str]
    grants: list[GrantOut]
    permissions: dict[str, list[str]] = Field(
        description="Each permission that is held, with its scopes; an empty one is everywhere"
    )
    session: SessionOut | None = Field(description="Of a cookie; null for a token")


class LoginOut(AnswerModel):
    """A running login: of a browser with a cookie, or of a program with tokens."""

    id: str
    kind: Literal["browser", "tokens"]
    current: bool = Field(description="True for the login of the request")
    created_at: Timestamp
    last_used_at: Timestamp
    expires_at: Timestamp
    address: str | None
    agent: str | None = Field(description="The User-Agent at the login")


class LoginListOut(AnswerModel):
    """All logins of one identity that have not ended."""

    items: list[LoginOut]


class PersonOut(AnswerModel):
    """A person who has logged in at the OpenID Connect provider."""

    name: str = Field(description="The name by which the person acts here")
    display_name: str | None = Field(description="The claim name")
    email: str | None
    issuer: str
    subject: str = Field(description="The person's identifier at the issuer")
    grants: list[GrantOut] = Field(description="What the claims of the latest login gave")
    logins: int = Field(description="Sessions of browsers that have not ended")
    last_seen_at: Timestamp


class PersonPageOut(PageModel):
    """A page of people of the OpenID Connect provider."""

    items: list[PersonOut]


class SingleSignOnOut(AnswerModel):
    """The login at the OpenID Connect provider."""

    label: str = Field(description="The text of its button")
    url: str = Field(description="The address at which a browser begins it")


class LoginMethodsOut(AnswerModel):
    """The ways to log in."""

    password: bool = Field(description="False if there is no user")
    code: bool = Field(description="By a code of `opsjobs console`")
    oidc: SingleSignOnOut | None = Field(description="Null if it is not set up")


class LoginCodeOut(AnswerModel):
    """A code that begins one session."""

    code: str
    expires_in: int = Field(description="Seconds until it expires")
    path: str = Field(description="The console with this code, relative to the address")
