"""/auth/oidc: logins of browsers at the OpenID Connect provider.

Browsers come here by links and redirections, not from scripts, so every answer is a redirection: to
the provider, or to a page of the console, which explains a failure.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote, urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from opsjobs.api.cookies import LOGIN, CookiePolicy, check_same_origin
from opsjobs.api.dependencies import ServicesDep
from opsjobs.api.request import browser_client
from opsjobs.composition.paths import CONSOLE
from opsjobs.composition.services import Services
from opsjobs.identity.oidc_login import LoginProblem, LoginRefused, OidcLogins, ProviderAnswer
from opsjobs.model.errors import Forbidden, Unauthorised, Unavailable
from opsjobs.store.identities.cookie_sessions import CookieSession
from opsjobs.store.identities.provider import LOGIN_SECONDS
from opsjobs.telemetry.logs import log

router = APIRouter(tags=["access"])

PATH_CHARACTERS_MAX = 2_000
_PATH = re.compile(
    r"/console/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*"
    r"(\?[\x21\x24-\x5b\x5d-\x7e]*)?"  # printable, without quotes, backslash and fragment
)
_BROWSER = re.compile(r"opsl_[A-Za-z0-9_-]{43}")

Text = Annotated[str | None, Query()]
Path = Annotated[
    str | None,
    Query(alias="return", description="The page of the console to come back to"),
]
Confirm = Annotated[
    str | None,
    Query(description="`true`: confirm the current session"),
]


@router.get(
    "/auth/oidc",
    status_code=303,
    response_class=RedirectResponse,
    summary="Begin a login at the OpenID Connect provider",
)
async def begin(
    request: Request, services: ServicesDep, path: Path = None, confirm: Confirm = None
) -> Response:
    """Send a browser to the provider, with a cookie that binds the login to it for 5 minutes.

    A failure leads to the console, which explains it.
    """
    cookies: CookiePolicy = request.app.state.cookies
    back = _page(path)
    try:
        logins = _logins(services)
        cookies.check(request.scope)
        redirection = await logins.begin(
            _browser(request, cookies),
            back,
            request.state.address,
            session=await _session(request, services, cookies, confirms=confirm == "true"),
            confirms=confirm == "true",
        )
    except (LoginRefused, Forbidden, Unavailable) as failed:
        return _explain(request, back, failed)
    answer = _redirect(redirection.url)
    cookies.set(
        answer, request.scope, redirection.cookie, max_age_seconds=LOGIN_SECONDS, kind=LOGIN
    )
    return answer


@router.get(
    "/auth/oidc/callback",
    status_code=303,
    response_class=RedirectResponse,
    summary="Finish a login at the OpenID Connect provider",
)
async def finish(
    request: Request,
    services: ServicesDep,
    *,
    state: Text = None,
    code: Text = None,
    error: Text = None,
    error_description: Text = None,
    iss: Text = None,
) -> Response:
    """Begin, or confirm, the session of a browser that comes back from the provider.

    The answer leads to the page at which the login began, and sets the session's cookie.
    """
    cookies: CookiePolicy = request.app.state.cookies
    back = CONSOLE
    try:
        logins = _logins(services)
        cookies.check(request.scope)
        login = await logins.take(state, _browser(request, cookies))
        back = login.begun.path
        given = ProviderAnswer(code, error, error_description, iss)
        cookie = await logins.finish(login, given, browser_client(request))
    except (LoginRefused, Forbidden, Unavailable) as failed:
        return _explain(request, back, failed)
    answer = _redirect(back)
    if cookie is not None:
        seconds = services.identities.cookies.external_seconds
        cookies.set(answer, request.scope, cookie, max_age_seconds=seconds)
    return answer


def _logins(services: Services) -> OidcLogins:
    found = services.authentication.single_sign_on
    if found is None:
        raise LoginRefused(LoginProblem.OFF, "OPSJOBS_OIDC_CLIENT_ID is not set")
    return found.logins


def _page(path: str | None) -> str:
    """Return a path below /console/; that of its first page if the given one is anything else.

    A fragment is refused as well: `#code=` would begin another session.
    """
    text = path or CONSOLE
    if len(text) > PATH_CHARACTERS_MAX or not _PATH.fullmatch(text):
        return CONSOLE
    plain = unquote(text.partition("?")[0])
    segments = re.split(r"[/\\]", plain)
    return CONSOLE if {".", ".."} & set(segments) or "//" in plain else text


def _browser(request: Request, cookies: CookiePolicy) -> str | None:
    found = cookies.read(request.scope, LOGIN)
    return found if found is not None and _BROWSER.fullmatch(found) else None


async def _session(
    request: Request, services: Services, cookies: CookiePolicy, *, confirms: bool
) -> CookieSession | None:
    """Return the browser's session, which the login replaces or confirms; None without one."""
    cookie = cookies.read(request.scope)
    if confirms:
        check_same_origin(request.scope, has_cookie=cookie is not None)
    if cookie is None:
        return None
    try:
        return await services.authentication.authenticator.session(cookie)
    except Unauthorised:
        return None


def _redirect(url: str) -> Response:
    return RedirectResponse(url, 303, headers={"Referrer-Policy": "no-referrer"})


def _explain(
    request: Request, back: str, failed: LoginRefused | Forbidden | Unavailable
) -> Response:
    """Lead to the page, where the console explains the problem."""
    match failed:
        case LoginRefused():
            problem = failed.problem
        case Forbidden() if failed.code == "https_required":
            problem = LoginProblem.PLAIN_HTTP
        case Forbidden():  # a page of another address has no session here
            problem = LoginProblem.NO_SESSION
        case _:
            problem = LoginProblem.UNAVAILABLE
    log.warning("oidc_login_failed", problem=problem.value, reason=str(failed))
    fragment = {"login-problem": problem.value, "request": request.state.request_id}
    return _redirect(f"{back}#{urlencode(fragment)}")
