"""`opsjobs login` and `opsjobs logout`: who the commands speak as, until they are told otherwise."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli import password_prompt
from opsjobs.cli.client import RequestRefused, connect, is_in_the_open, without_token
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.render import tell
from opsjobs.cli.token_store import StoredLogin, TokenStore


def login(
    username: Annotated[str, typer.Argument(help="Your name there.")],
) -> None:
    """Log in, so that commands speak as you.

    Asks for the password, or reads it from the first line of standard input. The login is kept in your configuration folder,
    readable by you alone, and goes on by itself until it ends or you log out. OPSJOBS_TOKEN wins over it.
    """
    with without_token() as client:
        url = client.place.url
        if is_in_the_open(url):
            tell(f"careful: {url} is not https, so whoever is on the way can read the password")
        body = {"username": username, "password": password_prompt.password(f"Password of {username}")}
        told = client.once("/auth/login", body)
    logins = TokenStore()
    with logins.alone():
        logins.keep(url, StoredLogin.of_answer(username, told))
    tell(f"you are logged in at {url} as {username}")


def logout() -> None:
    """Log out: the login ends there, and is forgotten here."""
    logins = TokenStore()
    with connect(as_login=True) as client:
        url = client.place.url
        if logins.of(url) is None:
            raise CommandFailed(f"nobody is logged in at {url}.", ExitCode.NOT_FOUND)
        try:
            client.once("/auth/logout", {})
        except RequestRefused as refused:
            if refused.status != 401:  # it has ended there already
                raise
    with logins.alone():
        logins.forget(url)
    tell(f"you are logged out at {url}")
