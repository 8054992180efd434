"""`opsjobs users`: people who can log in, and their roles."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Json, connect, path_of
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.render import Column, Form, ago, show_list, show_one, tell
from opsjobs.cli.secret_input import read_password

app = typer.Typer(help="Users: people who can log in, and their roles.", no_args_is_help=True)


def render_grants(grants: list[Json]) -> str:
    """Return `viewer, operator@env=staging`: roles or permissions with their labels."""
    return ", ".join(
        (grant.get("role") or " ".join(grant.get("permissions") or ()))
        + (f"@{grant['scope']}" if grant.get("scope") else "")
        for grant in grants
    )


COLUMNS = (
    Column("id", lambda u: u["id"]),
    Column("name", lambda u: u["name"]),
    Column("may", lambda u: render_grants(u["grants"])),
    Column("state", lambda u: "disabled" if u["disabled"] else "enabled"),
    Column("last login", lambda u: ago(u.get("last_login_at"))),
    Column("uuid", lambda u: u["uuid"], wide=True),
)

Named = Annotated[str, typer.Argument(metavar="USER", help="A name, id or uuid.")]
Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--role", metavar="ROLE[@LABELS]",
        help=("viewer, operator, developer, manager or admin; restricted to labels: "
            "operator@env=staging. May be repeated."),
    ),
]  # fmt: skip


@app.command("list")
def list_users(output: options.Output = Form.TABLE, limit: options.Limit = 200) -> None:
    """List users and their roles."""
    with connect() as client:
        found, more = client.items("/users", limit=limit)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command("show")
def show_user(user: Named, output: options.Output = Form.TABLE) -> None:
    """Show one user."""
    with connect() as client:
        show_one(client.by_name("user", user), output)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name to log in with.")],
    *,
    role: Roles = None,
    reuse_name: options.ReuseName = False,
) -> None:
    """Add a user. Without --role it is a viewer.

    Prompts for the password twice, or reads it from the first line of standard input.
    """
    body: Json = {"name": name, "grants": [parse_grant(one) for one in role or ["viewer"]]}
    if reuse_name:
        body["reuse_name"] = True
    body["password"] = read_password(f"Password for {name}", twice=True)
    with connect() as client:
        made = client.post("/users", body)
    print(made["id"])
    tell(f"user {name} may: {render_grants(made['grants'])}")


@app.command("set")
def set_roles(user: Named, role: Roles = None) -> None:
    """Replace all roles of a user. Takes effect at once."""
    if not role:
        raise CommandFailed(
            "no role is given. Use --role, such as --role operator@env=staging.", ExitCode.USAGE
        )
    with connect() as client:
        found = client.by_name("user", user)
        body = {
            "name": found["name"],
            "disabled": found["disabled"],
            "grants": [parse_grant(one) for one in role],
        }
        changed = client.put(path_of("user", found["id"]), body)
    tell(f"user {changed['name']} may: {render_grants(changed['grants'])}")


@app.command()
def passwd(
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", help="The user (default: yourself).")
    ] = None,
) -> None:
    """Change a password; all logins of that user end.

    For your own, it asks for the current one first. On standard input, give one per line.
    """
    with connect() as client:
        if user is None:
            current = read_password("Your current password")
            client.once(
                "/auth/password",
                {
                    "current_password": current,
                    "password": read_password("New password", twice=True),
                },
            )
            tell("your password is changed. Log in again")
            return
        found = client.by_name("user", user)
        body = {"name": found["name"], "grants": found["grants"], "disabled": found["disabled"]}
        body["password"] = read_password(f"Password for {found['name']}", twice=True)
        client.put(path_of("user", found["id"]), body)
    tell(f"the password of {found['name']} is changed, and all logins with the old one have ended")


@app.command()
def disable(
    users: Annotated[list[str], typer.Argument(metavar="USER…", help="Names, ids or uuids.")],
) -> None:
    """Disable users: their logins end at once.

    Their tokens are refused until they are enabled again.
    """
    _each(users, "disable", "is disabled")


@app.command()
def enable(
    users: Annotated[list[str], typer.Argument(metavar="USER…", help="Names, ids or uuids.")],
) -> None:
    """Enable users again."""
    _each(users, "enable", "is enabled")


@app.command()
def rm(
    users: Annotated[list[str], typer.Argument(metavar="USER…", help="Names, ids or uuids.")],
) -> None:
    """Remove users, with their logins and their tokens."""
    with connect() as client:
        for ref in users:
            found = client.by_name("user", ref)
            client.delete(path_of("user", found["id"]))
            tell(f"user {found['name']} is removed")


def _each(users: list[str], verb: str, outcome: str) -> None:
    with connect() as client:
        for ref in users:
            found = client.by_name("user", ref)
            client.post(f"{path_of('user', found['id'])}/{verb}")
            tell(f"user {found['name']} {outcome}")


def parse_grant(text: str) -> Json:
    """Return `operator@env=staging` as a grant of the API."""
    role, _, scope = text.partition("@")
    return {"role": role, "scope": scope}
