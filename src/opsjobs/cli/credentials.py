"""`opsjobs credentials`: logins. A secret comes from a file, a prompt or standard input, never from the command line itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Json, connect, path_of
from opsjobs.cli.exits import CommandFailed, Exit
from opsjobs.cli.render import Column, Form, ago, show_list, tell
from opsjobs.model.secret import CredentialType

app = typer.Typer(help="Credentials: logins, whose secrets never come back out.", no_args_is_help=True)

SECRET_BYTES_AT_MOST = 65_536
COLUMNS = (
    Column("id", lambda c: c["id"]),
    Column("name", lambda c: c["name"]),
    Column("type", lambda c: c["type"]),
    Column("username", lambda c: c.get("username")),
    Column("changed", lambda c: ago(c.get("updated_at"))),
    Column("version", lambda c: c.get("version"), wide=True),
)


@app.command("list")
def list_credentials(output: options.Output = Form.TABLE, limit: options.Limit = 200) -> None:
    """List credentials, without their secrets."""
    with connect() as client:
        found, more = client.items("/credentials", limit=limit)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name, such as web-key.")],
    username: Annotated[str, typer.Option("-u", "--username", help="The user to log in as.")],
    *,
    key: Annotated[str | None, typer.Option(metavar="FILE", help="A private key; - reads it from standard input.")] = None,
    passphrase_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The key's passphrase; asked for where needed.")
    ] = None,
    certificate: Annotated[str | None, typer.Option(metavar="FILE", help="The OpenSSH certificate of the key.")] = None,
    password_file: Annotated[str | None, typer.Option(metavar="FILE", help="A password; - reads standard input.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a password.")] = False,
    agent: Annotated[bool, typer.Option("--agent", help="Use the SSH agent that the worker can reach.")] = False,
) -> None:
    """Add a login.

    With one of --key FILE, --password (asks), --password-file FILE, --agent.
    """
    if sum((key is not None, password or password_file is not None, agent)) != 1:
        raise CommandFailed(
            "with what does it log in? Give one of --key FILE, --password, --password-file FILE, --agent.", Exit.USAGE
        )
    if key is None and (certificate or passphrase_file):
        raise CommandFailed("--certificate and --passphrase-file go with --key FILE.", Exit.USAGE)
    body: Json = {"name": name, "username": username}
    if key is not None:
        body |= _key(key, passphrase_file, certificate)
    elif agent:
        body["type"] = CredentialType.AGENT
    else:
        secret = _asked(f"Password of {username}") if password_file is None else _read(password_file).rstrip("\r\n")
        body |= {"type": CredentialType.PASSWORD, "password": secret}
    with connect() as client:
        made = client.post("/credentials", body)
    print(made["id"])
    tell(f"credential {name} is stored, encrypted")


@app.command()
def rm(credentials: Annotated[list[str], typer.Argument(metavar="CREDENTIAL…", help="Names, ids or uuids.")]) -> None:
    """Remove credentials."""
    with connect() as client:
        for ref in credentials:
            found = client.by_name("credential", ref)
            client.delete(path_of("credential", found["id"]))
            tell(f"credential {found['name']} is removed")


def _key(key: str, passphrase_file: str | None, certificate: str | None) -> Json:
    body: Json = {"type": CredentialType.SSH_KEY, "private_key": _read(key)}
    if "PRIVATE KEY" not in body["private_key"]:
        raise CommandFailed(f"{key} holds no private key: it should begin with -----BEGIN OPENSSH PRIVATE KEY-----.", Exit.USAGE)
    if passphrase_file is not None:
        body["passphrase"] = _read(passphrase_file).rstrip("\r\n")
    elif "ENCRYPTED" in body["private_key"] and sys.stdin.isatty():
        body["passphrase"] = _asked(f"Passphrase of {key}")
    if certificate is not None:
        body |= {"type": CredentialType.SSH_CERTIFICATE, "certificate": _read(certificate)}
    return body


def _asked(question: str) -> str:
    if not sys.stdin.isatty():
        raise CommandFailed(
            "nobody is here to ask: use --password-file FILE, or --password-file - and standard input.", Exit.USAGE
        )
    return str(typer.prompt(question, hide_input=True, err=True))


def _read(path: str) -> str:
    """A secret's text, at most 64 KiB."""
    try:
        if path == "-":
            content = sys.stdin.buffer.read(SECRET_BYTES_AT_MOST + 1)
        else:
            with Path(path).expanduser().open("rb") as file:
                content = file.read(SECRET_BYTES_AT_MOST + 1)
        text = content.decode()
    except OSError as away:
        raise CommandFailed(f"{path} cannot be read: {away.strerror}.", Exit.USAGE) from None
    except UnicodeDecodeError:
        raise CommandFailed(f"{path} is no text (UTF-8).", Exit.USAGE) from None
    if not text.strip() or len(content) > SECRET_BYTES_AT_MOST:
        raise CommandFailed(
            f"{path} is {'empty' if not text.strip() else 'over 64 KiB'}: that is no secret to log in with.", Exit.USAGE
        )
    return text
