"""/auth/oidc: logins of browsers at an OpenID Connect provider, with a provider on loopback."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from api.kit import PUBLIC_URL, ApiClient, api_client, job, problem
from api.test_sessions import BEN, LOGIN, SAME, browser, expire
from docs.pages import ROOT
from kit.openid_provider import CLIENT, SECRET, Provider, openid_provider
from kit.token_issuer import private, signed
from opsjobs.api.paths import PREFIX
from opsjobs.clock import Clock, TurnedClock
from opsjobs.composition.paths import API, OIDC_CALLBACK, OIDC_LOGIN
from opsjobs.identity.oidc_login import LoginProblem
from opsjobs.model.access import Principal
from opsjobs.model.identity import Identity
from opsjobs.model.secret import Secret
from opsjobs.settings import IdentitySettings, OidcSettings
from opsjobs.store.transaction import Database

CALLBACK = f"{PUBLIC_URL}{OIDC_CALLBACK}"
CROSS = {"Sec-Fetch-Site": "cross-site"}
NAMES = {"jwt_name_claim": "preferred_username"}


@dataclass
class SignOn:
    """opsjobs and the provider."""

    ada: ApiClient
    provider: Provider

    @asynccontextmanager
    async def tab(self) -> AsyncIterator[Tab]:
        """Return a browser with cookies of its own, at both."""
        async with browser(self.ada) as http, httpx2.AsyncClient(trust_env=False) as idp:
            yield Tab(http, idp)


@dataclass
class Tab:
    """A browser: its requests to opsjobs and to the provider."""

    http: httpx2.AsyncClient
    idp: httpx2.AsyncClient

    async def begin(self, path: str | None = "/console/jobs/3?tab=runs", **more: str) -> str:
        """Begin a login; return the URL at the provider."""
        query = {**({} if path is None else {"return": path}), **more}
        answer = await self.http.get(OIDC_LOGIN, params=query, headers=SAME)
        assert answer.status_code == 303, answer.text
        assert answer.headers["cache-control"] == "no-store"
        location: str = answer.headers["location"]
        return location

    async def sign_in(self, url: str, user: str | None) -> str:
        """Sign in at the provider; return the callback's URL.

        The browser may be known there already.
        """
        answer = await self.idp.get(url if user is None else f"{url}&user={user}")
        assert answer.status_code == 302, answer.text
        location: str = answer.headers["location"]
        return location

    async def finish(self, back: str) -> str:
        """Call the callback; return the page of the console where it ends."""
        answer = await self.http.get(back, headers=CROSS)
        assert answer.status_code == 303, answer.text
        location: str = answer.headers["location"]
        return location

    async def log_in(self, user: str | None = "ada", **more: str) -> str:
        """Perform a whole login; return the page of the console where it ends."""
        return await self.finish(await self.sign_in(await self.begin(**more), user))

    async def me(self) -> Any:
        answer = await self.http.get("/auth/me", headers=SAME)
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def sign_on(
    database: Database,
    *,
    secret: str | None = SECRET,
    identity: Any = None,
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[SignOn]:
    """Run opsjobs with logins at a provider."""
    with openid_provider(CALLBACK) as provider:
        provider.secret = secret
        oidc = OidcSettings(
            client_id=CLIENT, client_secret=None if secret is None else Secret(secret), **settings
        )
        known = IdentitySettings(jwt_issuer=provider.url, **{**NAMES, **(identity or {})})
        async with api_client(database, identity=known, oidc=oidc, clock=clock) as ada:
            yield SignOn(ada, provider)


def check_failure_page(
    page: str, problem: LoginProblem, path: str = "/console/jobs/3?tab=runs"
) -> None:
    """Check that the page shows this reason for a failed login, and nothing else."""
    found = re.fullmatch(r"([^#]*)#login-problem=(\w+)&request=[0-9a-f]{32}", page)
    assert found is not None, page
    assert found.groups() == (path, problem.value)


async def reasons(on: SignOn) -> list[str]:
    """Return the reasons of failed logins in the audit log."""
    rows = (await on.ada.http.get("/audit?action=login.failed")).json()["items"]
    return [row["reason"] for row in rows]


# --- the login


async def test_a_login_begins_a_session_with_the_rights_of_the_claims(database: Database) -> None:
    assert API == PREFIX
    async with sign_on(database, label="Example IdP") as on, on.tab() as ben:
        methods = (await ben.http.get("/auth/methods")).json()
        assert methods["oidc"] == {"label": "Example IdP", "url": f"{PUBLIC_URL}{OIDC_LOGIN}"}
        url = await ben.begin()
        asked = {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}
        assert {name: asked.pop(name) for name in ("response_type", "scope", "client_id")} == {
            "response_type": "code",
            "scope": "openid profile email",
            "client_id": CLIENT,
        }
        assert asked.pop("redirect_uri") == CALLBACK
        assert asked.pop("code_challenge_method") == "S256"
        assert set(asked) == {"state", "nonce", "code_challenge"}
        assert all(len(value) == 43 for value in asked.values())
        assert await ben.finish(await ben.sign_in(url, "ben")) == "/console/jobs/3?tab=runs"
        me = await ben.me()
        assert (me["name"], me["kind"], me["person"], me["roles"]) == (
            *("ben.b", "external", "ben.b"),
            ["operator"],
        )
        session = me["session"]
        assert session["confirm_by"] == "oidc"
        logout = session["external"].pop("logout_url")
        assert logout.startswith(f"{on.provider.url}/logout?client_id={CLIENT}&")
        assert session["external"] == {
            "issuer": on.provider.url,
            "subject": "f81d-2",
            "name": None,
            "email": None,
        }
        assert (await ben.http.get("/jobs", headers=SAME)).status_code == 200
        problem(await ben.http.post("/jobs", json=job()), 403, "forbidden")


async def test_the_cookies_of_a_login_are_strict_and_short(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ben:
        answer = await ben.http.get(OIDC_LOGIN, headers=SAME)
        (begun,) = answer.headers.get_list("set-cookie")
        assert re.fullmatch(
            r"opsjobs-login=opsl_[\w-]{43}; HttpOnly; Max-Age=300; Path=/; SameSite=lax", begun
        )
        back = await ben.sign_in(answer.headers["location"], "ben")
        done = await ben.http.get(back, headers=CROSS)
        (session,) = done.headers.get_list("set-cookie")
        assert re.fullmatch(
            r"opsjobs=opss_[\w-]{43}; HttpOnly; Max-Age=28800; Path=/; SameSite=strict", session
        )
        assert done.headers["referrer-policy"] == "no-referrer"
        async with browser(on.ada, "https://opsjobs") as secure:
            answer = await secure.get(OIDC_LOGIN, headers=SAME)
            (begun,) = answer.headers.get_list("set-cookie")
            assert begun.startswith("__Host-opsjobs-login=opsl_")
            assert "; Secure" in begun


async def test_a_public_client_logs_in_by_pkce_alone(database: Database) -> None:
    async with sign_on(database, secret=None) as on, on.tab() as ben:
        assert await ben.log_in("ben") == "/console/jobs/3?tab=runs"
        assert (await ben.me())["name"] == "ben.b"


async def test_a_provider_that_takes_the_secret_in_the_form_gets_it_there(
    database: Database,
) -> None:
    async with sign_on(database) as on, on.tab() as ben:
        on.provider.document = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
        await ben.log_in("ben")
        assert (await ben.me())["name"] == "ben.b"


async def test_what_a_person_does_is_known_by_the_persons_name(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        await ada.log_in("ada")
        target = {"name": "web-1", "host": "10.0.0.1"}
        assert (await ada.http.post("/targets", json=target)).status_code == 201
        made = (await ada.http.post("/jobs", json=job(targets={"ids": ["web-1"]}))).json()
        launched = (await ada.http.post(f"/jobs/{made['id']}/execute")).json()
        assert (launched["triggered_by"], launched["requested_by"]) == ("manual", "ada.l")
        rows = (await on.ada.http.get("/audit?actor=ada.l")).json()["items"]
        assert {row["actor_kind"] for row in rows} == {"external"}
        assert {row["action"] for row in rows} >= {
            *("external.logged_in", "target.created", "execution.launched"),
        }
        (row,) = [row for row in rows if row["action"] == "external.logged_in"]
        assert (row["thing"], row["thing_id"], row["reason"]) == ("external", "f81d-1", "oidc")
        # Work that continues without the session has the rights of the claims.
        known = await on.ada.services.identities.current_principal(Identity("external", "ada.l"))
        assert known is not None
        assert known.has_permission("jobs:create")


async def test_a_login_and_a_token_of_one_person_are_one_person(database: Database) -> None:
    async with sign_on(database, identity={"jwt_audience": "opsjobs"}) as on, on.tab() as ada:
        scoped = [
            {"role": "viewer", "scope": "team in (web,db)"},
            {"permissions": ["approvals:decide"]},
        ]
        on.provider.people["ada"] |= {
            "roles": ["boss", "operator"],
            "scope_labels": "env=staging",
            "opsjobs_grants": scoped,
        }
        await ada.log_in("ada")
        authenticator = on.ada.services.authentication.authenticator
        by_login = (await authenticator.session(ada.http.cookies["opsjobs"])).principal
        now = int(time.time())
        claims = {"iss": on.provider.url, "aud": "opsjobs", "iat": now, "exp": now + 60}
        token = signed(
            {**on.provider.people["ada"], **claims}, private("rsa"), "RS256", kid="key-1"
        )
        by_token = await authenticator.principal(token)
        assert (by_login.identity, by_login.person) == (by_token.identity, by_token.person)
        assert by_login.grants == by_token.grants
        assert [one.roles for one in by_login.grants] == [one.roles for one in by_token.grants]
        assert by_login.has_role("boss", {"env": "staging"})
        assert not by_login.has_role("boss", {"env": "prod"})
        assert by_login.is_same_person(by_token)
        user = Principal.of_role("ada.l", "admin", "user", person="ada.l")
        assert by_login.is_same_person(user)
        await ada.log_in("ben")
        other = (await authenticator.session(ada.http.cookies["opsjobs"])).principal
        assert not other.is_same_person(by_token)


async def test_a_logout_ends_the_session_and_names_that_of_the_provider(
    database: Database,
) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        await ada.log_in("ada")
        logout = (await ada.me())["session"]["external"]["logout_url"]
        assert (await ada.http.delete("/auth/session", headers=SAME)).status_code == 204
        problem(await ada.http.get("/auth/me", headers=SAME), 401, "token_missing")
        rows = (await on.ada.http.get("/audit?action=external.logged_out")).json()["items"]
        assert [(row["actor"], row["thing_id"]) for row in rows] == [("ada.l", "f81d-1")]
        assert f"{PUBLIC_URL}/console/" in (await ada.idp.get(logout)).text
        assert on.provider.asked[-1] == "/logout"


async def test_a_provider_without_a_logout_names_none(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        on.provider.document = {"end_session_endpoint": None}
        await ada.log_in("ada")
        assert (await ada.me())["session"]["external"]["logout_url"] is None


# --- its end, and its confirmation


async def test_a_session_ends_with_the_age_of_its_claims(database: Database) -> None:
    async with sign_on(database, session_age=600.0) as on, on.tab() as ben:
        await ben.log_in("ben")
        session = (await ben.me())["session"]
        assert session["expires_at"][:15] >= session["created_at"][:15]
        await expire(database, "expires_at", 500)
        assert (await ben.me())["name"] == "ben.b"
        await expire(database, "expires_at", 101)
        problem(await ben.http.get("/auth/me", headers=SAME), 401, "session_ended")


async def test_a_refusal_of_a_login_is_a_page_for_a_browser(database: Database) -> None:
    page = {"Accept": "text/html,application/xhtml+xml;q=0.9", **SAME}
    async with api_client(database, clock=TurnedClock(), unauthenticated_a_second=1) as ada:
        path = f"{OIDC_LOGIN}?return=%2Fconsole%2Fjobs%2F3%22%3E%3Cb%3E&confirm=true"
        while (answer := await ada.http.get(path, headers=page)).status_code == 303:
            pass
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "(OPSJOBS_UNAUTHENTICATED_RATE_LIMIT)" in answer.text
        assert "Try again in a second." in answer.text
        again = re.findall(r'href="([^"]*)"', answer.text)
        assert again == [path.replace("&", "&amp;"), "/console/"]
        assert f"request {answer.headers['x-request-id']}" in answer.text
        back = await ada.http.get(f"{OIDC_CALLBACK}?state=<script>", headers=page)
        assert re.findall(r'href="([^"]*)"', back.text) == ["/console/"]
        assert "<script>" not in back.text
        problem(await ada.http.get(path, headers=SAME), 429, "too_many_requests")
        problem(await ada.http.get("/auth/methods", headers=page), 429, "too_many_requests")


async def test_sessions_of_another_provider_have_ended(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ben:
        await ben.log_in("ben")
        known = on.ada.services.identities.cookies
        for issuer in ("https://id.example.org", None):
            known._issuer = issuer  # as after a restart with other settings
            problem(await ben.http.get("/auth/me", headers=SAME), 401, "session_ended")
        known._issuer = on.provider.url
        assert (await ben.me())["name"] == "ben.b"


async def test_the_latest_claims_hold_in_all_sessions_of_a_person(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ben, on.tab() as phone, on.tab() as ada:
        await ben.log_in("ben")
        await ada.log_in("ada")
        on.provider.people["ben"]["roles"] = ["viewer"]
        await phone.log_in("ben")
        for tab in (ben, phone):
            assert (await tab.me())["roles"] == ["viewer"]
        assert (await ada.me())["roles"] == ["admin"]


@pytest.mark.parametrize("how", ["login", "confirmation"])
async def test_a_person_with_a_new_name_is_the_same_in_all_sessions(
    database: Database, how: str
) -> None:
    async with sign_on(database) as on, on.tab() as ben, on.tab() as phone:
        await ben.log_in("ben")
        if how == "confirmation":
            await phone.log_in("ben")
        on.provider.people["ben"] |= {
            "preferred_username": "ben.c",
            "name": "Ben C.",
            "roles": ["viewer"],
        }
        more = {"confirm": "true"} if how == "confirmation" else {}
        assert "#" not in await phone.log_in("ben", **more)
        for tab in (ben, phone):
            me = await tab.me()
            assert (me["name"], me["person"], me["roles"]) == ("ben.c", "ben.c", ["viewer"])
            assert me["session"]["external"]["name"] == "Ben C."
        own = (await ben.http.get("/auth/sessions", headers=SAME)).json()["items"]
        assert len(own) == 2


async def test_logins_of_a_person_are_listed_and_ended(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ben, on.tab() as phone:
        await ben.log_in("ben")
        await phone.log_in("ben")
        own = (await ben.http.get("/auth/sessions", headers=SAME)).json()["items"]
        assert sorted(one["current"] for one in own) == [False, True]
        assert {one["kind"] for one in own} == {"browser"}
        query = {"user": "ben.b", "kind": "external"}
        seen = (await on.ada.http.get("/auth/sessions", params=query)).json()["items"]
        assert len(seen) == 2
        assert (await on.ada.http.get("/auth/sessions?user=ben.b")).json()["items"] == []
        assert (await ben.http.delete("/auth/sessions", headers=SAME)).status_code == 204
        problem(await phone.http.get("/auth/me", headers=SAME), 401, "session_ended")
        assert (await on.ada.http.delete("/auth/sessions", params=query)).status_code == 204
        problem(await ben.http.get("/auth/me", headers=SAME), 401, "session_ended")
        rows = (await on.ada.http.get("/audit?action=login.ended")).json()["items"]
        assert [(row["thing"], row["thing_id"]) for row in rows] == [("external", "f81d-2")] * 2


async def test_people_are_listed_with_their_latest_rights_and_logins(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ben, on.tab() as phone, on.tab() as ada:
        assert (await on.ada.http.get("/external-people")).json() == {"items": [], "next": None}
        await ben.log_in("ben")
        await ada.log_in("ada")
        on.provider.people["ben"]["roles"] = ["viewer"]
        await phone.log_in("ben")
        found = (await on.ada.http.get("/external-people")).json()["items"]
        assert [(one["name"], one["logins"]) for one in found] == [("ada.l", 1), ("ben.b", 2)]
        seen = found[1].pop("last_seen_at")
        assert found[1] == {
            "name": "ben.b",
            "display_name": None,
            "email": None,
            "issuer": on.provider.url,
            "subject": "f81d-2",
            "grants": [{"role": "viewer", "permissions": [], "scope": ""}],
            "logins": 2,
        }
        only = (await on.ada.http.get("/external-people?q=LOVELACE&page=1")).json()
        assert (only["total"], only["items"][0]["email"]) == (1, "ada@example.org")
        first = (await on.ada.http.get("/external-people?sort=-last_seen_at&limit=1")).json()
        rest = await on.ada.http.get(f"/external-people?sort=-last_seen_at&cursor={first['next']}")
        assert [one["name"] for one in (*first["items"], *rest.json()["items"])] == [
            *("ben.b", "ada.l"),
        ]
        problem(await ben.http.get("/external-people", headers=SAME), 403, "forbidden")
        query = {"user": "ben.b", "kind": "external"}
        assert (await on.ada.http.delete("/auth/sessions", params=query)).status_code == 204
        (one,) = (await on.ada.http.get("/external-people?name=ben.b")).json()["items"]
        assert (one["logins"], one["last_seen_at"]) == (0, seen)


async def test_a_login_with_an_old_proof_is_confirmed_at_the_provider(database: Database) -> None:
    body = {"name": "gus", "role": "viewer"}
    async with sign_on(database) as on, on.tab() as ada:
        await ada.log_in("ada")
        assert (await ada.http.post("/api-keys", json=body)).status_code == 201
        await expire(database, "confirmed_at", 601)
        problem(await ada.http.post("/api-keys", json=body), 403, "password_again")
        problem(await ada.http.post("/auth/confirm", json={"password": "x"}), 403, "no_password")
        session = (await ada.me())["session"]["id"]
        url = await ada.begin(confirm="true")
        asked = parse_qs(urlsplit(url).query)
        assert (asked["prompt"], asked["max_age"]) == (["login"], ["0"])
        assert (await ada.idp.get(url)).status_code == 200, "it asks who is there"
        assert await ada.finish(await ada.sign_in(url, "ada")) == "/console/jobs/3?tab=runs"
        assert (await ada.me())["session"]["id"] == session
        body = {"name": "hal", "role": "viewer"}
        assert (await ada.http.post("/api-keys", json=body)).status_code == 201
        rows = (await on.ada.http.get("/audit?action=login.confirmed")).json()["items"]
        assert [(row["actor"], row["reason"]) for row in rows] == [("ada.l", "oidc")]


@pytest.mark.parametrize("auth_time", [None, 1_000_000_000])
async def test_a_session_counts_as_confirmed_since_the_provider_asked(
    database: Database, auth_time: int | None
) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        on.provider.claims = {"auth_time": auth_time}
        await ada.log_in("ada")
        body = {"name": "gus", "role": "viewer"}
        problem(await ada.http.post("/api-keys", json=body), 403, "password_again")
        check_failure_page(await ada.log_in("ada", confirm="true"), LoginProblem.NOT_FRESH)
        problem(await ada.http.post("/api-keys", json=body), 403, "password_again")
        assert (await ada.me())["name"] == "ada.l"


async def test_another_person_confirms_nothing(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada, on.tab() as ben:
        await ada.log_in("ada")
        await expire(database, "confirmed_at", 601)
        check_failure_page(await ada.log_in("ben", confirm="true"), LoginProblem.OTHER_PERSON)
        assert (await ada.me())["name"] == "ada.l"
        problem(await ada.http.post("/api-keys", json={}), 403, "password_again")
        check_failure_page(await ben.begin(confirm="true"), LoginProblem.NO_SESSION)


async def test_a_confirmation_at_another_address_is_not_blamed_on_another_person(
    database: Database,
) -> None:
    async with sign_on(database) as on, browser(on.ada, "http://127.0.0.1") as other:
        await on.ada.http.post("/users", json=BEN)
        assert (await other.post("/auth/session", json=LOGIN)).status_code == 200
        # The browser has a cookie for 127.0.0.1, and sends none to OPSJOBS_PUBLIC_URL.
        for site in ("cross-site", "same-site", "none"):
            answer = await other.get(
                f"{PUBLIC_URL}{OIDC_LOGIN}",
                params={"confirm": "true", "return": "/console/jobs"},
                headers={"Sec-Fetch-Site": site},
            )
            check_failure_page(answer.headers["location"], LoginProblem.NO_SESSION, "/console/jobs")


# --- what may go wrong


async def test_each_problem_is_explained_by_the_console() -> None:
    text = (ROOT / "console" / "src" / "state" / "login-problem.ts").read_text()
    explained = set(re.findall(r"^  (oidc_\w+):", text, re.MULTILINE))
    assert explained == {one.value for one in LoginProblem}


async def test_without_the_setting_there_is_no_such_login(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as tab:
        for path in (OIDC_LOGIN, OIDC_CALLBACK, "/auth/oidc"):
            answer = await tab.get(path, headers=SAME)
            check_failure_page(answer.headers["location"], LoginProblem.OFF, "/console/")


async def test_a_refusal_of_the_provider_leads_back_to_the_page(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ben:
        for error, problem_ in (
            ("access_denied", LoginProblem.DENIED),
            ("login_required", LoginProblem.REFUSED),
            ("server_error", LoginProblem.REFUSED),
        ):
            on.provider.error = error
            check_failure_page(await ben.log_in("ben"), problem_)
        assert await reasons(on) == [
            f"the provider answers {error} <b>no</b>x"
            for error in ("server_error", "login_required", "access_denied")
        ]
        assert "opsjobs" not in ben.http.cookies


async def test_claims_without_a_permission_begin_no_session(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as eve:
        check_failure_page(await eve.log_in("eve"), LoginProblem.NO_RIGHTS)
        on.provider.people["eve"]["roles"] = ["boss"]
        check_failure_page(await eve.log_in("eve"), LoginProblem.NO_RIGHTS)
        assert await reasons(on) == ["the claims of eve give no permission"] * 2
        assert "opsjobs" not in eve.http.cookies
        on.provider.people["eve"]["roles"] = "viewer"
        assert "#" not in await eve.log_in("eve")


@pytest.mark.parametrize("how", ["login", "confirmation"])
async def test_claims_without_a_permission_end_the_earlier_rights_of_the_person(
    database: Database, how: str
) -> None:
    async with sign_on(database) as on, on.tab() as ben, on.tab() as phone, on.tab() as ada:
        for tab, user in ((ben, "ben"), (phone, "ben"), (ada, "ada")):
            await tab.log_in(user)
        known = on.ada.services.identities
        cookie = ben.http.cookies["opsjobs"]
        await known.remember(None, (await known.cookies.find(cookie)).principal)
        on.provider.people["ben"]["roles"] = []
        on.provider.claims = {"auth_time": 1_000_000_000}
        more = {"confirm": "true"} if how == "confirmation" else {}
        check_failure_page(await phone.log_in("ben", **more), LoginProblem.NO_RIGHTS)
        for tab in (ben, phone):
            problem(await tab.http.get("/auth/me", headers=SAME), 401, "session_ended")
        assert (await ada.me())["roles"] == ["admin"]
        left = await known.current_principal(Identity("external", "ben.b"))
        assert left is not None
        assert not left.has_permission("jobs:read"), "schedules follow the claims, too"
        rows = (await on.ada.http.get("/audit?action=login.ended")).json()["items"]
        assert [(row["actor"], row["thing_id"], row["reason"]) for row in rows] == [
            ("ben.b", "f81d-2", "2 sessions: the claims give no permission")
        ]


@pytest.mark.parametrize(
    ("claims", "problem_"),
    [
        ({"exp": 1_000_000_000}, LoginProblem.CLOCK),
        ({"iat": 4_000_000_000, "exp": 4_000_000_300}, LoginProblem.CLOCK),
        ({"exp": None}, LoginProblem.TOKEN),
        ({"exp": "soon"}, LoginProblem.TOKEN),
        ({"iat": None}, LoginProblem.TOKEN),
        ({"sub": None}, LoginProblem.TOKEN),
        ({"roles": {"admin": True}}, LoginProblem.TOKEN),
        ({"preferred_username": "ada\u202e"}, LoginProblem.TOKEN),
        ({"auth_time": "now"}, LoginProblem.TOKEN),
    ],
)
async def test_claims_that_cannot_be_used_begin_no_session(
    database: Database, claims: dict[str, Any], problem_: LoginProblem
) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        on.provider.claims = claims
        check_failure_page(await ada.log_in("ada"), problem_)
        assert "opsjobs" not in ada.http.cookies


@pytest.mark.parametrize(
    "path", ["/.well-known/openid-configuration", "/token", "/keys"], ids=lambda path: path[1:6]
)
@pytest.mark.parametrize(
    "answer", [(503, b"{}"), (200, b"<html>"), (200, b"[]"), (302, b"{}")], ids=lambda a: a[1]
)
async def test_a_provider_that_is_away_leads_back_to_the_page(
    database: Database, path: str, answer: tuple[int, bytes]
) -> None:
    async with sign_on(database) as on, on.tab() as ben:
        on.provider.broken = {path: answer}
        if path.startswith("/.well-known"):
            check_failure_page(await ben.begin(), LoginProblem.UNAVAILABLE)
            check_failure_page(await ben.begin(), LoginProblem.UNAVAILABLE)
            assert len(on.provider.asked) == 1, "not asked again at once"
        else:
            check_failure_page(await ben.log_in("ben"), LoginProblem.UNAVAILABLE)
        assert await reasons(on) == [], "no failure of the person"


async def test_a_client_that_the_provider_does_not_know_is_named(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ben:
        on.provider.secret = "another"
        check_failure_page(await ben.log_in("ben"), LoginProblem.CLIENT)
        assert await reasons(on) == []


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://id.example.org"},
        {"authorization_endpoint": None},
        {"token_endpoint": "ftp://127.0.0.1/token"},
        {"authorization_endpoint": "http://"},
        {"authorization_endpoint": "http://id/x\r\nset-cookie: a=b"},
        {"authorization_endpoint": "http://id/#x"},
        {"end_session_endpoint": "javascript:alert(1)"},
    ],
)
async def test_a_discovery_document_that_is_not_right_is_not_used(
    database: Database, document: dict[str, Any]
) -> None:
    async with sign_on(database) as on, on.tab() as ben:
        on.provider.document = document
        check_failure_page(await ben.begin(), LoginProblem.UNAVAILABLE)


async def test_keys_of_the_provider_may_change(database: Database) -> None:
    clock = TurnedClock(datetime.now(UTC))
    async with sign_on(database, clock=clock) as on, on.tab() as ben:
        await ben.log_in("ben")
        on.provider.rotate()
        clock.turn(61)
        assert "#" not in await ben.log_in("ben")
        assert on.provider.asked.count("/keys") == 2
        assert on.provider.asked.count("/.well-known/openid-configuration") <= 3


async def test_failed_logins_of_an_address_are_limited(database: Database) -> None:
    async with sign_on(database, identity={"login_attempts": 1}) as on, on.tab() as ben:
        on.provider.error = "access_denied"
        for _ in range(5):
            check_failure_page(await ben.log_in("ben"), LoginProblem.DENIED)
        on.provider.error = None
        check_failure_page(await ben.log_in("ben"), LoginProblem.LOCKED)


async def test_an_address_has_so_many_unfinished_logins(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.store.identities.provider.UNFINISHED_MAX", 3)
    async with sign_on(database) as on, on.tab() as ben:
        first = await ben.sign_in(await ben.begin(), "ben")
        begun = [await ben.begin() for _ in range(3)]
        check_failure_page(await ben.finish(first), LoginProblem.EXPIRED, "/console/")
        # Several tabs of one browser do not interfere.
        for url in reversed(begun):
            assert "#" not in await ben.finish(await ben.sign_in(url, "ben"))
        assert await database.fetch("select from oidc_logins") == []
