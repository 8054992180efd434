"""`opsjobs credentials`: logins. A secret comes from a file, a prompt or standard input, never from the command line itself."""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from opsjobs.cli import options, sources
from opsjobs.cli.client import Json, connect, path_of
from opsjobs.cli.exits import CommandFailed, Exit
from opsjobs.cli.render import Column, Form, ago, plain, show_list, show_one, tell
from opsjobs.model.secret import CredentialType

app = typer.Typer(help="Credentials: logins, whose secrets never come back out.", no_args_is_help=True)

SECRET_BYTES_AT_MOST = 65_536
COLUMNS = (
    Column("id", lambda c: c["id"]),
    Column("name", lambda c: c["name"]),
    Column("type", lambda c: c["type"]),
    Column("username", lambda c: c.get("username")),
    Column("used", lambda c: ago(c.get("last_used_at"))),
    Column("changed", lambda c: ago(c.get("updated_at"))),
    Column("version", lambda c: c.get("version"), wide=True),
    Column("secrets", lambda c: (c.get("source") or {}).get("backend", "here"), wide=True),
)

USERS = (
    Column("kind", lambda u: u["kind"]),
    Column("id", lambda u: u["id"]),
    Column("name", lambda u: u["name"]),
    Column("actions", lambda u: ", ".join(u["actions"])),
)


@app.command("list")
def list_credentials(output: options.Output = Form.TABLE, limit: options.Limit = 200) -> None:
    """List credentials, without their secrets."""
    with connect() as client:
        found, more = client.items("/credentials", limit=limit)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


Key = Annotated[str | None, typer.Option("--key", metavar="FILE", help="A private key; - reads it from standard input.")]
PassphraseFile = Annotated[str | None, typer.Option(metavar="FILE", help="The key's passphrase; asked for where needed.")]
Certificate = Annotated[
    str | None, typer.Option(metavar="FILE", help="The certificate of the key: OpenSSH's, or X.509 in PEM form.")
]
PasswordFile = Annotated[str | None, typer.Option(metavar="FILE", help="A password; - reads standard input.")]
Password = Annotated[bool, typer.Option("--password", help="Ask for a password.")]
Keytab = Annotated[str | None, typer.Option(metavar="FILE", help="A Kerberos keytab; - reads it from standard input.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name, such as web-key.")],
    username: Annotated[str, typer.Option("-u", "--username", help="The user to log in as; of Kerberos the principal.")],
    *,
    key: Key = None,
    passphrase_file: PassphraseFile = None,
    certificate: Certificate = None,
    password_file: PasswordFile = None,
    password: Password = False,
    keytab: Keytab = None,
    kerberos: Annotated[bool, typer.Option("--kerberos", help="The password is that of a Kerberos principal.")] = False,
    agent: Annotated[bool, typer.Option("--agent", help="Use the SSH agent that the worker can reach.")] = False,
    vault_path: sources.VaultPath = None,
    vault_role: sources.VaultRole = None,
    vault_mount: sources.VaultMount = None,
    vault_field: sources.VaultField = None,
    vault_version: sources.VaultVersion = None,
    vault_namespace: sources.VaultNamespace = None,
    secret_type: sources.SecretType = None,
    ssh_ca: sources.SshCa = None,
    principal: sources.Principals = None,
    validity: sources.Validity = None,
) -> None:
    """Add a login.

    With one of --key FILE, --password (asks), --password-file FILE, --keytab FILE, --agent; or, for secrets that are elsewhere,
    --vault-path PATH, --vault-role ROLE, --ssh-ca CREDENTIAL.
    """
    given = _Given(key, passphrase_file, certificate, password_file, password, keytab)
    elsewhere = sources.SourceOptions(
        vault_path, vault_role, vault_mount, vault_field, vault_version, vault_namespace, secret_type, ssh_ca, principal, validity
    )
    if given.ways + agent + elsewhere.ways != 1:
        ways = f"{_WAYS}, --agent, --vault-path, --vault-role, --ssh-ca"
        raise CommandFailed(f"with what does it log in? Give one of {ways}.", Exit.USAGE)
    if key is None and (certificate or passphrase_file):
        raise CommandFailed("--certificate and --passphrase-file go with --key FILE.", Exit.USAGE)
    if elsewhere.ways:
        _add_linked({"name": name, "username": username, **elsewhere.body()})
        return
    secret = given.read(username)
    type_ = CredentialType.AGENT if agent else _type(secret, kerberos=kerberos)
    who = "principal" if type_ is CredentialType.KERBEROS else "username"
    body: Json = {"name": name, "type": type_, who: username, **secret}
    with connect() as client:
        made = client.post("/credentials", body)
    print(made["id"])
    tell(f"credential {name} is stored, encrypted")


def _add_linked(body: Json) -> None:
    with connect() as client:
        made = client.post("/credentials", body)
    print(made["id"])
    tell(f"credential {body['name']} is added, without its secrets; next: opsjobs credentials test {body['name']}")


@app.command("test")
def try_out(
    credential: Annotated[str, typer.Argument(metavar="CREDENTIAL", help="Its name, id or uuid.")],
    output: options.Output = Form.TABLE,
) -> None:
    """Try whether the secrets of a login can be had and used now, without showing them.

    Prints the public key: of a CA's that is the line for TrustedUserCAKeys. Ends with 1 where a step fails.
    """
    with connect() as client:
        found = client.by_name("credential", credential)
        told = client.post(f"{path_of('credential', found['id'])}/test")
    if output is not Form.TABLE:
        show_one(told, output)
    else:
        for step in told["steps"]:
            tell(f"{step['name']}: {'good' if step['ok'] else plain(str(step['error']))}")
        if told["public_key"]:
            print(told["public_key"])
    if not told["ok"]:
        raise CommandFailed(f"the secrets of {found['name']} cannot be had or used.")


@app.command()
def rotate(
    credential: Annotated[str, typer.Argument(metavar="CREDENTIAL", help="Its name, id or uuid.")],
    *,
    key: Key = None,
    passphrase_file: PassphraseFile = None,
    certificate: Certificate = None,
    password_file: PasswordFile = None,
    password: Password = False,
    keytab: Keytab = None,
) -> None:
    """Give a login a new secret: runs from now on log in with it.

    Without an option it asks for the new password. --certificate alone is a new signature of the same key.
    """
    given = _Given(key, passphrase_file, certificate, password_file, password, keytab)
    if given.ways > 1:
        raise CommandFailed(f"which one is the new secret? Give one of {_WAYS}.", Exit.USAGE)
    with connect() as client:
        found = client.by_name("credential", credential)
        if given.ways == 0 and certificate is None:
            given = replace(given, password=True)
        path = path_of("credential", found["id"])
        made = client.post(f"{path}/rotate", {**given.read(found["username"]), "version": found["version"]})
    tell(f"credential {found['name']} is at version {made['version']}")


@app.command()
def bind(
    credential: Annotated[str, typer.Argument(metavar="CREDENTIAL", help="Its name, id or uuid.")],
    *,
    target: Annotated[list[str] | None, typer.Option("-t", "--target", help="A target that may use it. May be repeated.")] = None,
    group: Annotated[list[str] | None, typer.Option("-g", "--group", help="A group that may use it. May be repeated.")] = None,
    job: Annotated[list[str] | None, typer.Option("-j", "--job", help="A job that may use it. May be repeated.")] = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="It may be used anywhere.")] = False,
) -> None:
    """Say where a login may be used, and nowhere else: on these targets or groups, for these jobs."""
    bound = {"targets": target or [], "groups": group or [], "jobs": job or []}
    if any(bound.values()) == anywhere:
        raise CommandFailed("bound to what? Give -t TARGET, -g GROUP, -j JOB, or --anywhere alone.", Exit.USAGE)
    with connect() as client:
        found = client.by_name("credential", credential)
        client.put(f"{path_of('credential', found['id'])}/bound-to", bound)
    tell(f"credential {found['name']} may be used {'anywhere' if anywhere else 'there alone'}")


@app.command()
def usage(
    credential: Annotated[str, typer.Argument(metavar="CREDENTIAL", help="Its name, id or uuid.")],
    output: options.Output = Form.TABLE,
) -> None:
    """List the targets that log in with it, and the jobs whose actions name it."""
    with connect() as client:
        path = path_of("credential", client.by_name("credential", credential)["id"])
        found = client.get(f"{path}/usage")
    users = [{"kind": "target", **t, "actions": []} for t in found["targets"]] + [{"kind": "job", **j} for j in found["jobs"]]
    show_list(users, USERS, output)
    hidden = sum(found["total"].values()) - len(users)
    if hidden:
        tell(f"and {hidden} more")


@app.command()
def rm(credentials: Annotated[list[str], typer.Argument(metavar="CREDENTIAL…", help="Names, ids or uuids.")]) -> None:
    """Remove credentials."""
    with connect() as client:
        for ref in credentials:
            found = client.by_name("credential", ref)
            client.delete(path_of("credential", found["id"]))
            tell(f"credential {found['name']} is removed")


_WAYS = "--key FILE, --password, --password-file FILE, --keytab FILE"


@dataclass(frozen=True, slots=True)
class _Given:
    """What a secret comes from: options of `add` and `rotate`."""

    key: str | None
    passphrase_file: str | None
    certificate: str | None
    password_file: str | None
    password: bool
    keytab: str | None

    @property
    def ways(self) -> int:
        """How many ways to log in are meant."""
        return sum((self.key is not None, self.password or self.password_file is not None, self.keytab is not None))

    def read(self, username: str) -> Json:
        """The secret parts of the body. Raises CommandFailed."""
        body: Json = {}
        if self.passphrase_file is not None and self.key is None:
            raise CommandFailed("--passphrase-file goes with --key FILE.", Exit.USAGE)
        if self.key is not None:
            body |= _key(self.key, self.passphrase_file)
        if self.certificate is not None:
            body["certificate"] = _read(self.certificate)
        if self.keytab is not None:
            body["keytab"] = base64.b64encode(_bytes(self.keytab)).decode()
        elif self.password_file is not None:
            body["password"] = _read(self.password_file).rstrip("\r\n")
        elif self.password:
            body["password"] = _asked(f"Password of {username}")
        return body


def _type(secret: Json, *, kerberos: bool) -> CredentialType:
    """The type of what is given, which of a certificate its first line says."""
    if "keytab" in secret or kerberos:
        return CredentialType.KERBEROS
    if "password" in secret:
        return CredentialType.PASSWORD
    if "certificate" not in secret:
        return CredentialType.SSH_KEY
    of_tls = "BEGIN CERTIFICATE" in secret["certificate"]
    return CredentialType.CLIENT_CERTIFICATE if of_tls else CredentialType.SSH_CERTIFICATE


def _key(key: str, passphrase_file: str | None) -> Json:
    body: Json = {"private_key": _read(key)}
    if "PRIVATE KEY" not in body["private_key"]:
        raise CommandFailed(f"{key} holds no private key: it should begin with -----BEGIN OPENSSH PRIVATE KEY-----.", Exit.USAGE)
    if passphrase_file is not None:
        body["passphrase"] = _read(passphrase_file).rstrip("\r\n")
    elif "ENCRYPTED" in body["private_key"] and sys.stdin.isatty():
        body["passphrase"] = _asked(f"Passphrase of {key}")
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
        text = _bytes(path).decode()
    except UnicodeDecodeError:
        raise CommandFailed(f"{path} is no text (UTF-8).", Exit.USAGE) from None
    if not text.strip():
        raise CommandFailed(f"{path} is empty: that is no secret to log in with.", Exit.USAGE)
    return text


def _bytes(path: str) -> bytes:
    """A file, or standard input, of at most 64 KiB."""
    try:
        if path == "-":
            content = sys.stdin.buffer.read(SECRET_BYTES_AT_MOST + 1)
        else:
            with Path(path).expanduser().open("rb") as file:
                content = file.read(SECRET_BYTES_AT_MOST + 1)
    except OSError as away:
        raise CommandFailed(f"{path} cannot be read: {away.strerror}.", Exit.USAGE) from None
    if len(content) > SECRET_BYTES_AT_MOST:
        raise CommandFailed(f"{path} is over 64 KiB: that is no secret to log in with.", Exit.USAGE)
    return content
