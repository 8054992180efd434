"""Logins of browsers at an OpenID Connect provider: authorization code flow with PKCE.

A browser that begins a login gets a cookie. Nonce and PKCE verifier are derived from the cookie and
the state, so only that browser can finish the login, and nothing that is stored can.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from enum import StrEnum

from opsjobs.clock import Clock
from opsjobs.identity.tokens import ClockDiffers, IdTokens
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.token_issuers import (
    CodeRefused,
    OpenIdClient,
    OpenIdProvider,
    ProviderMetadata,
    plain,
)
from opsjobs.model.errors import Failure, TooMany, Unauthorised, Unavailable
from opsjobs.model.token_claims import (
    ClaimRules,
    Claims,
    external,
    is_name,
    seconds_of,
    subject,
)
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.cookie_sessions import OIDC, BrowserClient, CookieSession
from opsjobs.store.identities.provider import LOGIN_COOKIE_PREFIX, BegunLogin, NotTaken
from opsjobs.store.identities.session_owner import ExternalPerson, SessionOwner
from opsjobs.telemetry.logs import log

CODE_CHARACTERS_MAX = 4_096
_VERIFIER, _NONCE = "verifier", "nonce"


class LoginProblem(StrEnum):
    """Reasons why a login at the provider failed. The console explains each of them."""

    OFF = "oidc_off"
    """Such logins are not set up."""
    DENIED = "oidc_denied"
    """The person, or the provider, refused the login."""
    REFUSED = "oidc_refused"
    """The provider refused the request of opsjobs, or failed."""
    EXPIRED = "oidc_expired"
    """The login is unknown, was finished before, or took over five minutes."""
    OTHER_BROWSER = "oidc_other_browser"
    """Another browser began the login."""
    UNAVAILABLE = "oidc_unavailable"
    """The provider, or the database, does not answer."""
    CODE = "oidc_code"
    """The provider does not accept the code: it was used before, or is too old."""
    CLIENT = "oidc_client"
    """The provider does not accept the client: wrong id, secret or redirect address."""
    TOKEN = "oidc_token"  # noqa: S105  the name of a problem
    """The ID token is not valid: signature, issuer, audience, nonce or form."""
    CLOCK = "oidc_clock"
    """The clocks of the provider and of opsjobs differ."""
    NO_RIGHTS = "oidc_no_rights"
    """The claims give no permission."""
    OTHER_PERSON = "oidc_other_person"
    """A confirmation by another person than that of the session, or after its end."""
    NO_SESSION = "oidc_no_session"
    """A confirmation without a session of the provider's, or from a page of another address."""
    NOT_FRESH = "oidc_not_fresh"
    """The provider did not ask for a new proof, or does not say so."""
    LOCKED = "oidc_locked"
    """There were too many failed logins from this address."""
    PLAIN_HTTP = "oidc_plain_http"
    """The request came over plain http, and ENVIRONMENT is production."""


OURS = frozenset({LoginProblem.UNAVAILABLE, LoginProblem.CLIENT, LoginProblem.CLOCK})
"""Problems that are no failed attempt of the person."""


class LoginRefused(Failure):
    """A login at the provider failed; the message is for the log and the audit log."""

    def __init__(self, problem: LoginProblem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Redirection:
    """The address at which a browser logs in, and the cookie that binds it."""

    url: str
    cookie: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """The parameters with which the provider sends a browser back."""

    code: str | None = field(repr=False)
    error: str | None
    error_description: str | None
    issuer: str | None


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """A login whose answer has come, in the browser that began it."""

    begun: BegunLogin
    verifier: str = field(repr=False)
    nonce: str = field(repr=False)


class OidcLogins:
    """The logins. `rules`: those of the claims. `home`: the console's address, after a logout."""

    def __init__(
        self,
        people: IdentityStore,
        provider: OpenIdProvider,
        tokens: IdTokens,
        *,
        client: OpenIdClient,
        rules: ClaimRules,
        clock: Clock,
        home: str,
    ) -> None:
        assert rules.issuer is not None, "the provider is an issuer"
        self._people = people
        self._provider = provider
        self._tokens = tokens
        self._client = client
        self._rules = rules
        self._issuer = rules.issuer
        self._clock = clock
        self._home = home

    async def begin(
        self,
        browser: str | None,
        path: str,
        address: str | None,
        *,
        session: CookieSession | None,
        confirms: bool,
    ) -> Redirection:
        """Begin a login that comes back to `path`; raises LoginRefused.

        `browser`: its cookie of another login that is not finished yet. `session`: its session,
        which the new one replaces. `confirms`: the person of the session proves again who it is.
        """
        if confirms and (session is None or session.external is None):
            raise LoginRefused(
                LoginProblem.NO_SESSION, "there is no session of a person of the provider"
            )
        metadata = await self._metadata()
        browser = browser or LOGIN_COOKIE_PREFIX + secrets.token_urlsafe(32)
        state = secrets.token_urlsafe(32)
        await self._people.oidc_logins.begin(
            state,
            browser,
            path,
            address,
            session_id=None if session is None else session.id,
            confirms=confirms,
        )
        challenge = _base64(hashlib.sha256(_derive(browser, state, _VERIFIER).encode()).digest())
        parameters = {
            "response_type": "code",
            "client_id": self._client.id,
            "redirect_uri": self._client.redirect_uri,
            "scope": self._client.scopes,
            "state": state,
            "nonce": _derive(browser, state, _NONCE),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        if confirms:
            parameters |= {"prompt": "login", "max_age": "0"}
        return Redirection(metadata.authorization_url(parameters), browser)

    async def take(self, state: str | None, browser: str | None) -> PendingLogin:
        """Return the login that an answer of the provider belongs to; it can be taken once.

        Raises LoginRefused.
        """
        state, browser = state or "", browser or ""
        found = await self._people.oidc_logins.take(state, browser)
        if found is NotTaken.OTHER_BROWSER:
            raise LoginRefused(LoginProblem.OTHER_BROWSER, "another browser began this login")
        if isinstance(found, NotTaken):
            raise LoginRefused(
                LoginProblem.EXPIRED, "the state is unknown, was used before, or has expired"
            )
        verifier, nonce = (_derive(browser, state, what) for what in (_VERIFIER, _NONCE))
        return PendingLogin(found, verifier, nonce)

    async def finish(
        self, login: PendingLogin, answer: ProviderAnswer, client: BrowserClient
    ) -> str | None:
        """Finish a login; return the cookie of the new session, None if it confirms its session.

        Raises LoginRefused.
        """
        try:
            await self._people.attempts.begin(None, client.address, user_id=None)
        except TooMany as locked:
            raise LoginRefused(LoginProblem.LOCKED, locked.detail) from None
        try:
            person = await self._identify(login, answer)
            cookie = await self._admit(login.begun, person, client)
        except LoginRefused as refused:
            if refused.problem in OURS:
                await self._people.attempts.succeeded(None, client.address)
            else:
                await self._people.attempts.failed(None, user_id=None, reason=str(refused))
            raise
        await self._people.attempts.succeeded(None, client.address)
        return cookie

    async def _metadata(self) -> ProviderMetadata:
        try:
            return await self._provider.metadata()
        except ServiceUnavailable as away:
            raise LoginRefused(LoginProblem.UNAVAILABLE, str(away)) from None

    async def _identify(self, login: PendingLogin, answer: ProviderAnswer) -> ExternalPerson:
        """Return the person that the answer is about. Raises LoginRefused."""
        metadata = await self._metadata()
        code = self._code(answer, metadata)
        try:
            token = await self._provider.exchange(self._client, code, login.verifier)
            claims = await self._tokens.verify(token, login.nonce)
            person = self._person(claims, metadata)
            await self._check_rights(person)
            if login.begun.confirms:
                self._check_fresh(login.begun, claims)
        except CodeRefused as refused:
            problem = LoginProblem.CLIENT if refused.is_client else LoginProblem.CODE
            raise LoginRefused(problem, str(refused)) from None
        except (ServiceUnavailable, Unavailable) as away:
            raise LoginRefused(LoginProblem.UNAVAILABLE, str(away)) from None
        except ClockDiffers as differs:
            raise LoginRefused(LoginProblem.CLOCK, str(differs)) from None
        except Unauthorised as invalid:
            raise LoginRefused(LoginProblem.TOKEN, f"ID token: {invalid.detail}") from None
        return person

    def _code(self, answer: ProviderAnswer, metadata: ProviderMetadata) -> str:
        """Return the code of an answer. Raises LoginRefused."""
        other = answer.issuer is not None or metadata.sends_issuer
        if other and answer.issuer != self._issuer:
            raise LoginRefused(LoginProblem.REFUSED, "the answer is that of another issuer (iss)")
        if answer.error is not None:
            denied = answer.error == "access_denied"
            provider_error = f"{plain(answer.error)} {plain(answer.error_description)}".strip()
            raise LoginRefused(
                LoginProblem.DENIED if denied else LoginProblem.REFUSED,
                f"the provider answers {provider_error}",
            )
        if not answer.code or len(answer.code) > CODE_CHARACTERS_MAX:
            raise LoginRefused(LoginProblem.REFUSED, "the answer has no code")
        return answer.code

    def _person(self, claims: Claims, metadata: ProviderMetadata) -> ExternalPerson:
        """Return the person of the claims. Raises Unauthorised."""
        principal = external(claims, self._rules)
        proven_at = seconds_of(claims, "auth_time")
        age = None if proven_at is None else self._clock.now().timestamp() - proven_at
        return ExternalPerson(
            self._issuer,
            subject(claims),
            principal,
            display_name=_read_text(claims, "name"),
            email=_read_text(claims, "email"),
            logout_url=metadata.logout_url(self._client.id, self._home),
            proof_age_seconds=None if age is None else max(0.0, age),
        )

    async def _check_rights(self, person: ExternalPerson) -> None:
        """Raise LoginRefused if the claims give no permission; earlier rights end with that."""
        principal = person.principal
        if any(grant.permissions for grant in principal.grants):
            return
        await self._people.external_people.refresh(principal)
        await self._people.cookies.end_person(person)
        raise LoginRefused(
            LoginProblem.NO_RIGHTS, f"the claims of {principal.name} give no permission"
        )

    def _check_fresh(self, begun: BegunLogin, claims: Claims) -> None:
        """Raise LoginRefused if the person has not proven who it is since the login began."""
        proven_at = seconds_of(claims, "auth_time")
        if proven_at is None:
            raise LoginRefused(
                LoginProblem.NOT_FRESH, "the ID token does not say when the person logged in"
            )
        # auth_time is in whole seconds.
        since = begun.created_at.timestamp() - 1 - self._rules.leeway_seconds
        if proven_at < since:
            raise LoginRefused(
                LoginProblem.NOT_FRESH, "the provider did not ask the person to log in again"
            )

    async def _admit(
        self, begun: BegunLogin, person: ExternalPerson, client: BrowserClient
    ) -> str | None:
        cookies = self._people.cookies
        # Rights that continue without a session follow the latest claims.
        await self._people.external_people.refresh(person.principal)
        if begun.confirms:
            if begun.session_id is None or not await cookies.confirm_person(
                begun.session_id, person
            ):
                raise LoginRefused(
                    LoginProblem.OTHER_PERSON,
                    f"{person.principal.name} is not the person of the session, or it has ended",
                )
            return None
        cookie = await cookies.begin(SessionOwner.of_person(person), client, how=OIDC)
        if begun.session_id is not None:
            await cookies.end_replaced(begun.session_id)
        log.info("oidc_login", principal=person.principal.name)
        return cookie


def _derive(browser: str, state: str, purpose: str) -> str:
    """Return a secret of one login that only the browser with this cookie can cause again."""
    key = browser.encode("utf-8", "surrogatepass")
    text = f"{purpose} {state}".encode("utf-8", "surrogatepass")
    return _base64(hmac.digest(key, text, "sha256"))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read_text(claims: Claims, claim: str) -> str | None:
    """Return a claim that is only shown; None if it cannot be."""
    text = claims.get(claim)
    return text if is_name(text) else None
