"""`opsjobs login` and `opsjobs logout`."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli.client import RequestRefused, connect, is_clear_text, without_token
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.render import tell
from opsjobs.cli.secret_input import read_password
from opsjobs.cli.token_store import StoredLogin, TokenStore


def login(
    username: Annotated[str, typer.Argument(help="Your user name at the service.")],
) -> None:
    """Log in; later commands run as this user.

    Prompts for the password, or reads it from the first line of standard input. The login is stored
    in your configuration folder, readable only by you, and renews itself until it ends or you log
    out. OPSJOBS_TOKEN takes precedence over it.
    """
    with without_token() as client:
        url = client.endpoint.url
        if is_clear_text(url):
            tell(f"warning: {url} is not https: the password is sent in clear text")
        body = {"username": username, "password": read_password(f"Password of {username}")}
        tokens = client.once("/auth/login", body)
    logins = TokenStore()
    with logins.lock():
        logins.keep(url, StoredLogin.of_answer(username, tokens))
    tell(f"logged in at {url} as {username}")


def logout() -> None:
    """Log out: end the login at the service and delete it here."""
    logins = TokenStore()
    with connect(as_login=True) as client:
        url = client.endpoint.url
        if logins.get(url) is None:
            raise CommandFailed(f"not logged in at {url}.", ExitCode.NOT_FOUND)
        try:
            client.once("/auth/logout", {})
        except RequestRefused as refused:
            if refused.status != 401:  # it has ended there already
                raise
    with logins.lock():
        logins.forget(url)
    tell(f"logged out at {url}")
