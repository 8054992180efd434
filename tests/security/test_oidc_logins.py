"""Point 26: a login at the OpenID Connect provider belongs to one browser and is used once.

It does not lead to other sites.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from api.kit import problem
from api.test_sessions import BEN, LOGIN, SAME, browser
from api.test_single_sign_on import CALLBACK, CROSS, check_failure_page, sign_on
from kit.openid_provider import CLIENT
from kit.token_issuer import by_hand, pem, private, signed
from opsjobs.composition.paths import OIDC_CALLBACK, OIDC_LOGIN
from opsjobs.identity.oidc_login import LoginProblem
from opsjobs.store.transaction import Database

Claims = dict[str, Any]
PAGE = "/console/jobs/3?tab=runs"


def hmac_by_the_public_key(claims: Claims) -> str:
    """Return what a verifier that mixes families would take for a valid signature."""
    text = by_hand({"alg": "HS256", "typ": "JWT", "kid": "key-1"}, claims).rpartition(".")[0]
    mac = hmac.digest(pem("rsa").encode(), text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def with_kid(kind: str, kid: str, **changed: Any) -> Callable[[Claims], str]:
    return lambda claims: signed({**claims, **changed}, private(kind), "RS256", kid=kid)


FORGED: dict[str, Callable[[Claims], str]] = {
    "alg none": lambda claims: by_hand({"alg": "none", "kid": "key-1"}, claims),
    "no signature": lambda claims: by_hand({"alg": "RS256", "kid": "key-1"}, claims),
    "the public key as a shared secret": hmac_by_the_public_key,
    "another key under its id": with_kid("other-rsa", "key-1"),
    "a key that is not published": with_kid("other-rsa", "key-9"),
    "another audience": with_kid("rsa", "key-1", aud="another-client"),
    "no audience": with_kid("rsa", "key-1", aud=[]),
    "issued to another client": with_kid("rsa", "key-1", azp="another-client"),
    "several audiences and no client": with_kid("rsa", "key-1", aud=[CLIENT, "another"]),
    "another issuer": with_kid("rsa", "key-1", iss="https://id.example.org"),
    "a nonce of another login": with_kid("rsa", "key-1", nonce="A" * 43),
    "no nonce": with_kid("rsa", "key-1", nonce=7),
    "no token": lambda _: "a.b",
    "a long one": with_kid("rsa", "key-1", more="x" * 9_000),
}


@pytest.mark.parametrize("how", FORGED)
async def test_an_id_token_that_is_not_for_this_login_is_refused(
    database: Database, how: str
) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        on.provider.forge = FORGED[how]
        check_failure_page(await ada.log_in("ada"), LoginProblem.TOKEN)
        assert "opsjobs" not in ada.http.cookies
        assert await database.fetch("select from sessions") == []


async def test_an_id_token_is_no_bearer_token(database: Database) -> None:
    async with sign_on(database, identity={"jwt_audience": "opsjobs"}) as on, on.tab() as ada:
        given: list[str] = []

        def noted(claims: Claims) -> str:
            given.append(signed(claims, private("rsa"), "RS256", kid="key-1"))
            return given[0]

        on.provider.forge = noted
        await ada.log_in("ada")
        bearer = {"Authorization": f"Bearer {given[0]}"}
        problem(await on.ada.http.get("/jobs", headers=bearer), 401, "token_invalid")


async def test_a_state_is_used_once(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        back = await ada.sign_in(await ada.begin(), "ada")
        assert await ada.finish(back) == PAGE
        session = ada.http.cookies["opsjobs"]
        check_failure_page(await ada.finish(back), LoginProblem.EXPIRED, "/console/")
        assert ada.http.cookies["opsjobs"] == session, "a replay ends nothing"


async def test_a_code_is_used_once_and_for_the_login_that_asked_for_it(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada, on.tab() as eve:
        stolen = parse_qs(urlsplit(await ada.sign_in(await ada.begin(), "ada")).query)["code"][0]
        # Eve has a login of her own, with ada's code: PKCE.
        own = parse_qs(urlsplit(await eve.sign_in(await eve.begin(), "ben")).query)
        query = {"state": own["state"][0], "iss": own["iss"][0], "code": stolen}
        check_failure_page(await eve.finish(f"{CALLBACK}?{urlencode(query)}"), LoginProblem.CODE)
        assert "opsjobs" not in eve.http.cookies


async def test_a_login_is_finished_in_the_browser_that_began_it(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada, on.tab() as eve:
        # Eve would have ada work as eve: a link to the end of a login of hers.
        link = await eve.sign_in(await eve.begin(), "ben")
        check_failure_page(await ada.finish(link), LoginProblem.OTHER_BROWSER, "/console/")
        await ada.begin()
        check_failure_page(await ada.finish(link), LoginProblem.OTHER_BROWSER, "/console/")
        for planted in ("opsl_", "opsl_" + "x" * 43, "opsl_" + "x" * 5_000, "x"):
            headers = {**CROSS, "Cookie": f"opsjobs-login={planted}"}
            answer = await eve.http.get(link, headers=headers)
            check_failure_page(answer.headers["location"], LoginProblem.OTHER_BROWSER, "/console/")
        assert await eve.finish(link) == PAGE, "that ended nothing"


async def test_a_login_takes_five_minutes_at_most(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        back = await ada.sign_in(await ada.begin(), "ada")
        async with database.connection() as connection:
            await connection.execute(
                "update oidc_logins set expires_at = expires_at - interval '301 s'"
            )
        check_failure_page(await ada.finish(back), LoginProblem.EXPIRED, "/console/")
        await ada.begin()
        assert len(await database.fetch("select from oidc_logins")) == 1


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/console/",
        "//evil.example/console/",
        "/\\evil.example",
        "/console/\\evil.example",
        "/console//evil.example",
        "/console/../auth/logout",
        "/console/%2e%2e/auth/logout",
        "/console/..%2fauth",
        "/console/..%5cauth",
        "/consoles/",
        "/console",
        "/api/v1/jobs",
        "javascript:alert(1)",
        "/console/#code=eves",
        "/console/jobs?x#code=eves",
        "/console/%0d%0aset-cookie: a=b",
        "/console/\r\nset-cookie: a=b",
        "/console/\x00",
        "/console/é",
        "/console/" + "x" * 2_000,
        "",
    ],
)
async def test_a_login_comes_back_to_a_page_of_the_console_only(
    database: Database, path: str
) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        page = await ada.log_in("ada", path=path)
        assert page in ("/console/", "/console/%250d%250aset-cookie:%20a=b"), page


async def test_each_login_begins_a_session_and_ends_the_one_before(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as tab:
        await on.ada.http.post("/users", json=BEN)
        await tab.http.post("/auth/session", json=LOGIN)
        before = tab.http.cookies["opsjobs"]
        await tab.log_in("ada")
        after = tab.http.cookies["opsjobs"]
        assert after != before
        async with browser(on.ada) as copy:
            problem(
                await copy.get("/auth/me", headers={**SAME, "Cookie": f"opsjobs={before}"}),
                401,
                "session_ended",
            )
        await tab.log_in("ada")
        assert tab.http.cookies["opsjobs"] != after
        assert len(await database.fetch("select from sessions where ended_at is null")) == 1


async def test_an_answer_names_the_provider_that_was_asked(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        for iss in ("https://evil.example", None):
            back = parse_qs(urlsplit(await ada.sign_in(await ada.begin(), "ada")).query)
            query = {"state": back["state"][0], "code": back["code"][0], "iss": iss}
            query = {name: value for name, value in query.items() if value is not None}
            check_failure_page(
                await ada.finish(f"{CALLBACK}?{urlencode(query)}"), LoginProblem.REFUSED
            )


async def test_other_sites_confirm_nothing(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        await ada.log_in("ada")
        query = {"confirm": "true"}
        for site in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": site}
            answer = await ada.http.get(OIDC_LOGIN, params=query, headers=headers)
            check_failure_page(answer.headers["location"], LoginProblem.NO_SESSION, "/console/")


async def test_what_no_browser_sends_is_explained_as_well(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        await ada.begin()
        for query in (
            {},
            {"state": "", "code": ""},
            {"state": "x" * 30_000},
            {"state": "\x00", "code": "\ud800".encode("utf-8", "surrogatepass")},
            {"error": "\x00" * 100},
        ):
            answer = await ada.http.get(OIDC_CALLBACK, params=query, headers=CROSS)  # type: ignore[arg-type]
            check_failure_page(answer.headers["location"], LoginProblem.EXPIRED, "/console/")
        back = parse_qs(urlsplit(await ada.sign_in(await ada.begin(), "ada")).query)
        query = {"state": back["state"][0], "iss": on.provider.url, "code": "\x00é" * 10}
        check_failure_page(await ada.finish(f"{CALLBACK}?{urlencode(query)}"), LoginProblem.CODE)


async def test_nothing_of_a_login_in_progress_is_stored_in_the_open(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        asked = parse_qs(urlsplit(await ada.begin()).query)
        cookie = ada.http.cookies["opsjobs-login"]
        (row,) = await database.fetch("select * from oidc_logins")
        kept = repr(row) + repr([bytes(v) for v in row.values() if isinstance(v, memoryview)])
        for secret in (cookie, asked["state"][0], asked["nonce"][0]):
            assert secret not in kept


async def test_production_begins_no_login_over_plain_http(database: Database) -> None:
    async with sign_on(database) as on, on.tab() as ada:
        cookies = ada.http._transport.app.state.cookies  # type: ignore[attr-defined]
        cookies._plain_http = False
        check_failure_page(await ada.begin(), LoginProblem.PLAIN_HTTP)
