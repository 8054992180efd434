"""`opsjobs services`: programs that sign their own tokens and may act for users."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Json, connect, path_of
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.render import Column, Form, show_list, show_one, tell
from opsjobs.cli.users import Roles, parse_grant, render_grants

app = typer.Typer(
    help="Services: programs that sign their own tokens, and their roles.", no_args_is_help=True
)

# The limit of the API.
KEY_CHARACTERS_MAX = 16_384
COLUMNS = (
    Column("id", lambda s: s["id"]),
    Column("name", lambda s: s["name"]),
    Column("may", lambda s: render_grants(s["grants"])),
    Column("state", lambda s: "disabled" if s["disabled"] else "enabled"),
    Column("changed", lambda s: s["updated_at"], wide=True),
    Column("uuid", lambda s: s["uuid"], wide=True),
)

Named = Annotated[str, typer.Argument(metavar="SERVICE", help="A name, id or uuid.")]
Many = Annotated[list[str], typer.Argument(metavar="SERVICE…", help="Names, ids or uuids.")]
KEY_HELP = "A file with its public key (PEM); - is standard input."
Permissions = Annotated[
    list[str] | None,
    typer.Option(
        "--permission",
        metavar="PERMISSION[@LABELS]",
        help="A permission, such as jobs:read; labels as with --role. May be repeated.",
    ),
]


@app.command("list")
def list_services(output: options.Output = Form.TABLE, limit: options.Limit = 200) -> None:
    """List services and their grants."""
    with connect() as client:
        found, more = client.items("/services", limit=limit)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command("show")
def show_service(service: Named, output: options.Output = Form.TABLE) -> None:
    """Show one service, with its public key."""
    with connect() as client:
        show_one(client.by_name("service", service), output)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Its client id: `iss` and `sub` of its tokens.")],
    *,
    key: Annotated[Path, typer.Option(metavar="FILE", help=KEY_HELP)],
    role: Roles = None,
    permission: Permissions = None,
    reuse_name: options.ReuseName = False,
) -> None:
    """Register a service, so that tokens that it signs are accepted.

    Without --role or --permission it is a viewer.
    """
    body: Json = {
        "name": name,
        "public_key": _public_key(key),
        "grants": _grants(role, permission) or [parse_grant("viewer")],
    }
    if reuse_name:
        body["reuse_name"] = True
    with connect() as client:
        made = client.post("/services", body)
    print(made["id"])
    tell(f"service {name} may: {render_grants(made['grants'])}")


@app.command("set")
def set_service(
    service: Named,
    *,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help=KEY_HELP)] = None,
    role: Roles = None,
    permission: Permissions = None,
) -> None:
    """Replace a service's key, or all of its grants. Takes effect at once."""
    changes: Json = {"grants": given} if (given := _grants(role, permission)) else {}
    if key is not None:
        changes["public_key"] = _public_key(key)
    if not changes:
        raise CommandFailed("nothing to change. Use --key, --role or --permission.", ExitCode.USAGE)
    changed = _replaced(service, changes)
    tell(f"service {changed['name']} may: {render_grants(changed['grants'])}")


@app.command()
def disable(services: Many) -> None:
    """Disable services: their tokens are refused until they are enabled again."""
    for service in services:
        tell(f"service {_replaced(service, {'disabled': True})['name']} is disabled")


@app.command()
def enable(services: Many) -> None:
    """Enable services again."""
    for service in services:
        tell(f"service {_replaced(service, {'disabled': False})['name']} is enabled")


@app.command()
def rm(services: Many) -> None:
    """Remove services: from now on their tokens are refused."""
    with connect() as client:
        for ref in services:
            found = client.by_name("service", ref)
            client.delete(path_of("service", found["id"]))
            tell(f"service {found['name']} is removed")


def _replaced(ref: str, changes: Json) -> Json:
    """Change these fields of the service, keep all others, and return it."""
    with connect() as client:
        found = client.by_name("service", ref)
        kept = {field: found[field] for field in ("name", "public_key", "grants", "disabled")}
        changed: Json = client.put(path_of("service", found["id"]), {**kept, **changes})
    return changed


def _grants(roles: list[str] | None, permissions: list[str] | None) -> list[Json]:
    """Return a grant for each role, and one for the permissions of each scope."""
    by_scope: dict[str, list[str]] = {}
    for text in permissions or ():
        permission, _, scope = text.partition("@")
        by_scope.setdefault(scope, []).append(permission)
    return [parse_grant(role) for role in roles or ()] + [
        {"permissions": given, "scope": scope} for scope, given in by_scope.items()
    ]


def _public_key(file: Path) -> str:
    """Return the text of the file. Raises CommandFailed.

    It must be readable, and must not be a private key.
    """
    if str(file) == "-":
        text = sys.stdin.read(KEY_CHARACTERS_MAX + 1)
    else:
        try:
            with file.open(encoding="utf-8") as opened:
                text = opened.read(KEY_CHARACTERS_MAX + 1)
        except (OSError, UnicodeDecodeError) as away:
            raise CommandFailed(f"--key: {file} cannot be read: {away}", ExitCode.USAGE) from None
    if "PRIVATE KEY-----" in text:
        detail = (
            "this is a private key. Keep it secret, and extract the public key with `openssl pkey "
            "-in FILE -pubout`."
        )
        raise CommandFailed(f"--key: {detail}", ExitCode.USAGE)
    if not text.strip() or len(text) > KEY_CHARACTERS_MAX:
        raise CommandFailed(
            f"--key: give a public key in PEM form, at most {KEY_CHARACTERS_MAX:,} characters.",
            ExitCode.USAGE,
        )
    return text
