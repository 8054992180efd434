"""Options of `credentials add` for secrets that are stored elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from opsjobs.cli.client import Json
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.model.credential import CredentialType

VaultPath = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Read the secret from this path of Vault's KV engine (version 2)."
    ),
]
VaultRole = Annotated[
    str | None,
    typer.Option(metavar="ROLE", help="Get a certificate from Vault's SSH engine, with this role."),
]
VaultMount = Annotated[
    str | None,
    typer.Option(
        metavar="MOUNT", help="The engine's mount (default: secret, or ssh with --vault-role)."
    ),
]
VaultField = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PART=FIELD",
        help="The field that holds a part, such as private_key=key. May be repeated.",
    ),
]
VaultVersion = Annotated[
    int | None, typer.Option(min=1, help="Use only this version of the secret.")
]
VaultNamespace = Annotated[
    str | None,
    typer.Option(metavar="NAMESPACE", help="The namespace below OPSJOBS_VAULT_NAMESPACE."),
]
SecretType = Annotated[
    CredentialType | None,
    typer.Option(
        "--type",
        help="The type of the secret (default in Vault: ssh_key); `secret` for a secret of jobs.",
    ),
]
SshCa = Annotated[
    str | None,
    typer.Option(
        "--ssh-ca",
        metavar="CREDENTIAL",
        help="Sign certificates with the SSH CA key of this credential.",
    ),
]
Principals = Annotated[
    list[str] | None,
    typer.Option(
        "--principal",
        metavar="NAME",
        help="A principal of the certificate (default: the username). May be repeated.",
    ),
]
Validity = Annotated[
    str | None, typer.Option(metavar="TIME", help="Validity of a certificate (default: 5m).")
]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """The values of the options for external secrets; None if not given."""

    path: str | None
    role: str | None
    mount: str | None
    fields: list[str] | None
    version: int | None
    namespace: str | None
    type: CredentialType | None
    authority: str | None
    principals: list[str] | None
    validity: str | None

    @property
    def source_count(self) -> int:
        """The number of sources that are given; only one is valid."""
        return sum(source is not None for source in (self.path, self.role, self.authority))

    def body(self) -> Json:
        """Return `type` and `source` of the body. Raises CommandFailed if options conflict."""
        of_vault = {"mount": self.mount, "namespace": self.namespace}
        of_certificates = {"principals": self.principals, "validity": self.validity}
        of_secrets = {"version": self.version, "fields": self._parse_fields()}
        if self.path is not None:
            _refuse("--vault-path", of_certificates)
            type_ = self.type or CredentialType.SSH_KEY
            return {
                "type": type_,
                "source": {
                    "backend": "vault",
                    "path": self.path,
                    **_drop_empty(of_vault),
                    **_drop_empty(of_secrets),
                },
            }
        option = "--vault-role" if self.role is not None else "--ssh-ca"
        _refuse(
            option, {**of_secrets, "type": self.type, **({} if self.role is not None else of_vault)}
        )
        made_by = (
            {"backend": "vault_ssh", "role": self.role}
            if self.role is not None
            else {"backend": "ssh_ca", "authority": self.authority}
        )
        return {
            "type": CredentialType.SSH_CERTIFICATE,
            "source": {**made_by, **_drop_empty(of_vault), **_drop_empty(of_certificates)},
        }

    def _parse_fields(self) -> dict[str, str] | None:
        pairs = [pair.partition("=") for pair in self.fields or ()]
        if bad := next(("".join(pair) for pair in pairs if not (pair[0] and pair[2])), None):
            raise CommandFailed(
                f"--vault-field {bad}: write PART=FIELD, such as private_key=key.", ExitCode.USAGE
            )
        return {part: field for part, _, field in pairs} or None


def _drop_empty(options: Json) -> Json:
    return {name: value for name, value in options.items() if value}


def _refuse(option: str, options: Json) -> None:
    names = {
        "fields": "--vault-field",
        "version": "--vault-version",
        "type": "--type",
        "principals": "--principal",
    }
    names |= {"validity": "--validity", "mount": "--vault-mount", "namespace": "--vault-namespace"}
    if surplus := [names[name] for name in _drop_empty(options)]:
        raise CommandFailed(f"{' and '.join(surplus)}: not valid with {option}.", ExitCode.USAGE)
