"""`opsjobs console`: open the web console in a browser, logged in as the caller."""

from __future__ import annotations

import html
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from opsjobs.cli.client import Client, connect
from opsjobs.cli.endpoint import TokenStore
from opsjobs.cli.errors import CommandFailed
from opsjobs.cli.messages import tell

PAGE_FILE = "console.html"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>opsjobs</title>
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={url}"><a href="{url}">Open the console</a></html>
"""


def console(
    printed: Annotated[
        bool, typer.Option("--print", help="Print the address instead of opening a browser.")
    ] = False,
) -> None:
    """Open the web console in your browser, logged in as you.

    The address holds a code that works once, within 60 seconds, with your rights and no others.
    """
    with connect() as client:
        url = login_url(client)
    if printed:
        print(url)
        return
    if not _has_display():
        raise CommandFailed(
            "no browser can be opened here: there is no display. Print the address with "
            "`opsjobs console --print`, and open it where you have a browser."
        )
    if not webbrowser.open(_write_page(TokenStore().folder, url).as_uri()):
        raise CommandFailed(
            "no browser was found. Print the address with `opsjobs console --print`."
        )
    tell("opened the console in your browser; if it does not come up: opsjobs console --print")


def login_url(client: Client) -> str:
    """Return the address of the console with a new code of the client's caller."""
    path: str = client.once("/auth/codes", {})["path"]
    return client.endpoint.url + path


def _has_display() -> bool:
    """Return False if only a browser in the terminal could be opened."""
    if sys.platform != "linux":
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _write_page(folder: Path, url: str) -> Path:
    """Write the page that leads to the address, readable only by the caller; return its path.

    A browser is given its page as an argument, which every user of the machine can read.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / PAGE_FILE
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(_PAGE.format(url=html.escape(url)))
    return path
