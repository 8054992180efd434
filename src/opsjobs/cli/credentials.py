"""`opsjobs credentials`: logins and job secrets.

Secrets are read from files, prompts or standard input, never from the arguments.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from opsjobs.cli import credential_sources, inputs, options
from opsjobs.cli.client import Json, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.inputs import (
    SECRET_BYTES_MAX,
    ask_passphrase,
    ask_secret,
    is_encrypted_key,
    read_secret,
    read_secret_text,
)
from opsjobs.cli.messages import plain, tell
from opsjobs.cli.nouns import Noun, add_list, add_remove
from opsjobs.cli.render import Column, Form, ago, show_list, show_one
from opsjobs.model.credential import CredentialType

app = typer.Typer(
    help="Credentials: logins and secrets of jobs; secrets are write-only.", no_args_is_help=True
)

_OTHERWISE = "Use --password-file FILE, or --password-file - to read standard input."
CREDENTIAL = Noun(
    "credential",
    (
        Column("id", lambda c: c["id"]),
        Column("name", lambda c: c["name"]),
        Column("type", lambda c: c["type"]),
        Column("username", lambda c: c.get("username")),
        Column("used", lambda c: ago(c.get("last_used_at"))),
        Column("changed", lambda c: ago(c.get("updated_at"))),
        Column("version", lambda c: c.get("version"), wide=True),
        Column("secrets", lambda c: (c.get("source") or {}).get("backend", "here"), wide=True),
    ),
)

USERS = (
    Column("kind", lambda u: u["kind"]),
    Column("id", lambda u: u["id"]),
    Column("name", lambda u: u["name"]),
    Column("actions", lambda u: ", ".join(u["actions"])),
    Column("parameters", lambda u: ", ".join(u["parameters"])),
)


add_list(app, CREDENTIAL, "List credentials, without their secrets.")

Credential = Annotated[str, typer.Argument(metavar="CREDENTIAL", help="Name, id or uuid.")]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="FILE", help="A file with a private key; - is standard input."),
]
PassphraseFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="A file with the key's passphrase; on a terminal it is prompted for."
    ),
]
Certificate = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="The certificate of the key: OpenSSH's, or X.509 in PEM form."
    ),
]
PasswordFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="A file with a password; - is standard input.")
]
Password = Annotated[bool, typer.Option("--password", help="Prompt for a password.")]
SecretFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A file with a secret of jobs; - is standard input."),
]
Keytab = Annotated[
    str | None, typer.Option(metavar="FILE", help="A Kerberos keytab; - is standard input.")
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name, such as web-key.")],
    *,
    username: Annotated[
        str | None,
        typer.Option(
            "-u", "--username", help="The user to log in as; for Kerberos, the principal."
        ),
    ] = None,
    key: Key = None,
    passphrase_file: PassphraseFile = None,
    certificate: Certificate = None,
    password_file: PasswordFile = None,
    password: Password = False,
    keytab: Keytab = None,
    kerberos: Annotated[
        bool, typer.Option("--kerberos", help="The password is that of a Kerberos principal.")
    ] = False,
    agent: Annotated[
        bool, typer.Option("--agent", help="Use the SSH agent that the worker can reach.")
    ] = False,
    secret_file: SecretFile = None,
    vault_path: credential_sources.VaultPath = None,
    vault_role: credential_sources.VaultRole = None,
    vault_mount: credential_sources.VaultMount = None,
    vault_field: credential_sources.VaultField = None,
    vault_version: credential_sources.VaultVersion = None,
    vault_namespace: credential_sources.VaultNamespace = None,
    secret_type: credential_sources.SecretType = None,
    ssh_ca: credential_sources.SshCa = None,
    principal: credential_sources.Principals = None,
    validity: credential_sources.Validity = None,
) -> None:
    """Add a login or, with --type secret, a secret for jobs.

    A secret for jobs is prompted for, or read from --secret-file FILE. A login needs exactly one of
    --key FILE, --password (prompts), --password-file FILE, --keytab FILE, --agent or, if its secret
    is stored elsewhere, --vault-path PATH, --vault-role ROLE, --ssh-ca CREDENTIAL.
    """
    given = _Given(key, passphrase_file, certificate, password_file, password, keytab, secret_file)
    elsewhere = credential_sources.SourceOptions(
        vault_path,
        vault_role,
        vault_mount,
        vault_field,
        vault_version,
        vault_namespace,
        secret_type,
        ssh_ca,
        principal,
        validity,
    )
    if secret_type is CredentialType.SECRET or secret_file is not None:
        _add_secret(name, username, given, elsewhere)
        return
    if username is None:
        raise CommandFailed(
            "--username is missing: a login needs it. For a secret of jobs, use --type secret.",
            ExitCode.USAGE,
        )
    if given.method_count + agent + elsewhere.source_count != 1:
        methods = f"{_WAYS}, --agent, --vault-path, --vault-role, --ssh-ca"
        raise CommandFailed(
            f"exactly one authentication method is required: {methods}.", ExitCode.USAGE
        )
    if key is None and (certificate or passphrase_file):
        raise CommandFailed(
            "--certificate and --passphrase-file: only valid with --key FILE.", ExitCode.USAGE
        )
    if elsewhere.source_count:
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


def _add_secret(
    name: str, username: str | None, given: _Given, elsewhere: credential_sources.SourceOptions
) -> None:
    if (
        username is not None
        or given.method_count + elsewhere.source_count > 1
        or given.method_count > (given.secret_file is not None)
    ):
        raise CommandFailed(
            "--type secret: only --secret-file FILE or --vault-path PATH is valid with it, and no "
            "login option.",
            ExitCode.USAGE,
        )
    if elsewhere.source_count:
        _add_linked({"name": name, **elsewhere.body()})
        return
    if elsewhere.type is not CredentialType.SECRET:
        raise CommandFailed("--secret-file: only valid with --type secret.", ExitCode.USAGE)
    body: Json = {"name": name, "type": CredentialType.SECRET, **given.value(name)}
    with connect() as client:
        made = client.post("/credentials", body)
    print(made["id"])
    tell(
        f"secret {name} is stored, encrypted; jobs use it with a parameter `type: "
        f"secret, from_credential: {name}`"
    )


def _add_linked(body: Json) -> None:
    with connect() as client:
        made = client.post("/credentials", body)
    print(made["id"])
    tell(
        f"credential {body['name']} is added. Test it with: opsjobs credentials test {body['name']}"
    )


@app.command("test")
def try_out(
    credential: Credential,
    output: options.Output = Form.TABLE,
) -> None:
    """Test whether the secrets of a login can be fetched and used, without showing them.

    Prints the public key; for a CA, that is the line for TrustedUserCAKeys. Exit code 1 if a step
    fails.
    """
    with connect() as client:
        found = CREDENTIAL.find(client, credential)
        report = client.post(f"{CREDENTIAL.path(found)}/test")
    if output is not Form.TABLE:
        show_one(report, output)
    else:
        for step in report["steps"]:
            tell(f"{step['name']}: {'ok' if step['ok'] else plain(str(step['error']))}")
        if report["public_key"]:
            print(report["public_key"])
    if not report["ok"]:
        raise CommandFailed(f"credential {found['name']}: its secrets cannot be fetched or used.")


@app.command()
def rotate(
    credential: Credential,
    *,
    key: Key = None,
    passphrase_file: PassphraseFile = None,
    certificate: Certificate = None,
    password_file: PasswordFile = None,
    password: Password = False,
    keytab: Keytab = None,
    secret_file: SecretFile = None,
) -> None:
    """Replace the secret. Runs that start from now on use the new one.

    Without an option it prompts for the new password or secret. --certificate alone renews the
    certificate of the same key.
    """
    given = _Given(key, passphrase_file, certificate, password_file, password, keytab, secret_file)
    if given.method_count > 1:
        raise CommandFailed(f"only one new secret can be given: {_WAYS}.", ExitCode.USAGE)
    with connect() as client:
        found = CREDENTIAL.find(client, credential)
        path = CREDENTIAL.path(found)
        made = client.post(
            f"{path}/rotate", {**_rotated(found, given), "version": found["version"]}
        )
    tell(f"credential {found['name']} is at version {made['version']}")


def _rotated(found: Json, given: _Given) -> Json:
    """Return the new secret parts, in the form of the credential's type."""
    if found["type"] == CredentialType.SECRET:
        if (
            given.method_count > (given.secret_file is not None)
            or given.certificate
            or given.passphrase_file
        ):
            raise CommandFailed(
                f"{found['name']} is a secret of jobs: only --secret-file FILE is valid for it.",
                ExitCode.USAGE,
            )
        return given.value(found["name"])
    if given.secret_file is not None:
        raise CommandFailed(
            f"{found['name']} is a login: --secret-file is only valid for secrets of jobs.",
            ExitCode.USAGE,
        )
    if given.method_count == 0 and given.certificate is None:
        given = replace(given, password=True)
    return given.read(found["username"])


@app.command()
def bind(
    credential: Credential,
    *,
    target: Annotated[
        list[str] | None,
        typer.Option("-t", "--target", help="A target that may use it. May be repeated."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("-g", "--group", help="A group that may use it. May be repeated."),
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option("-j", "--job", help="A job that may use it. May be repeated."),
    ] = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Remove all restrictions.")] = False,
) -> None:
    """Restrict a login to these targets, groups and jobs."""
    bound = {"targets": target or [], "groups": group or [], "jobs": job or []}
    if any(bound.values()) == anywhere:
        raise CommandFailed(
            "nothing to bind to: give -t TARGET, -g GROUP, -j JOB, or --anywhere alone.",
            ExitCode.USAGE,
        )
    with connect() as client:
        found = CREDENTIAL.find(client, credential)
        client.put(f"{CREDENTIAL.path(found)}/bound-to", bound)
    tell(
        f"credential {found['name']} "
        f"{'can be used anywhere' if anywhere else 'can be used only there'}"
    )


@app.command()
def usage(
    credential: Credential,
    output: options.Output = Form.TABLE,
) -> None:
    """List the targets and jobs that use a credential.

    Targets log in with it; jobs name it in actions or parameters.
    """
    with connect() as client:
        path = CREDENTIAL.path(CREDENTIAL.find(client, credential))
        found = client.get(f"{path}/usage")
    users = [{"kind": "target", **t, "actions": [], "parameters": []} for t in found["targets"]] + [
        {"kind": "job", **j} for j in found["jobs"]
    ]
    show_list(users, USERS, output)
    hidden = sum(found["total"].values()) - len(users)
    if hidden:
        tell(f"and {hidden} more")


add_remove(app, CREDENTIAL, "Remove credentials.")


_WAYS = "--key FILE, --password, --password-file FILE, --keytab FILE"


@dataclass(frozen=True, slots=True)
class _Given:
    """Options of `add` and `rotate` that provide a secret."""

    key: str | None
    passphrase_file: str | None
    certificate: str | None
    password_file: str | None
    password: bool
    keytab: str | None
    secret_file: str | None = None

    @property
    def method_count(self) -> int:
        """The number of authentication methods that are given."""
        given = (
            self.key,
            self.password_file or self.password or None,
            self.keytab,
            self.secret_file,
        )
        return sum(source is not None for source in given)

    def value(self, name: str) -> Json:
        """Return the value of a job secret, from its file or a prompt. Raises CommandFailed."""
        if self.secret_file is not None:
            return {"value": read_secret(self.secret_file)}
        return {
            "value": ask_secret(
                f"Secret {name}",
                otherwise="Use --secret-file FILE, or --secret-file - to read standard input.",
            )
        }

    def read(self, username: str) -> Json:
        """Return the secret parts of the body. Raises CommandFailed."""
        body: Json = {}
        if self.passphrase_file is not None and self.key is None:
            raise CommandFailed("--passphrase-file: only valid with --key FILE.", ExitCode.USAGE)
        if self.key is not None:
            body |= _key(self.key, self.passphrase_file)
        if self.certificate is not None:
            body["certificate"] = read_secret_text(self.certificate)
        if self.keytab is not None:
            body["keytab"] = base64.b64encode(
                inputs.read_bytes(self.keytab, SECRET_BYTES_MAX)
            ).decode()
        elif self.password_file is not None:
            body["password"] = read_secret_text(self.password_file).rstrip("\r\n")
        elif self.password:
            body["password"] = ask_secret(f"Password of {username}", otherwise=_OTHERWISE)
        return body


def _type(secret: Json, *, kerberos: bool) -> CredentialType:
    """Return the credential type of these secrets; the first line shows a certificate's."""
    if "keytab" in secret or kerberos:
        return CredentialType.KERBEROS
    if "password" in secret:
        return CredentialType.PASSWORD
    if "certificate" not in secret:
        return CredentialType.SSH_KEY
    of_tls = "BEGIN CERTIFICATE" in secret["certificate"]
    return CredentialType.CLIENT_CERTIFICATE if of_tls else CredentialType.SSH_CERTIFICATE


def _key(key: str, passphrase_file: str | None) -> Json:
    body: Json = {"private_key": read_secret_text(key)}
    if "PRIVATE KEY" not in body["private_key"]:
        raise CommandFailed(
            f"{key}: not a private key. It must begin with a line such as -----BEGIN OPENSSH "
            "PRIVATE KEY-----.",
            ExitCode.USAGE,
        )
    if passphrase_file is not None:
        body["passphrase"] = read_secret_text(passphrase_file).rstrip("\r\n")
    elif is_encrypted_key(body["private_key"]):
        body["passphrase"] = ask_passphrase(key, otherwise="Add --passphrase-file FILE.")
    return body
