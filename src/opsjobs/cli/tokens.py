"""`opsjobs tokens`: create, list and revoke API keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Json, connect, path_of
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.render import Column, Form, ago, show_list, tell
from opsjobs.cli.users import render_grants
from opsjobs.model.access import Role
from opsjobs.model.units import parse_duration

app = typer.Typer(help="Tokens: create, list and revoke API keys.", no_args_is_help=True)

COLUMNS = (
    Column("id", lambda k: k["id"]),
    Column("name", lambda k: k["name"]),
    Column("may", lambda k: render_grants(k["grants"])),
    Column("last used", lambda k: ago(k.get("last_used_at"))),
    Column("expires", lambda k: k.get("expires_at") or "never"),
    Column("made by", lambda k: k.get("made_by"), wide=True),
    Column("person", lambda k: k.get("person"), wide=True),
    Column("uuid", lambda k: k["uuid"], wide=True),
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The name, such as ada or deploy-bot.")],
    *,
    role: Annotated[
        Role | None,
        typer.Option(help="Its role (default: operator, unless --permission is given)."),
    ] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option(
            "--permission",
            metavar="PERMISSION",
            help="A permission, such as jobs:read, instead of a role. May be repeated.",
        ),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(metavar="LABELS", help="Restrict it to these labels, such as env=staging."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="When it expires: in 30d, or at a time such as 2027-01-31T00:00:00Z.",
        ),
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(metavar="USER", help="The user who will hold it (default: its creator)."),
    ] = None,
    reuse_name: options.ReuseName = False,
) -> None:
    """Create a token and print it. It is shown only once: only its hash is stored."""
    if role is not None and permission:
        raise CommandFailed("--role and --permission exclude each other.", ExitCode.USAGE)
    body: Json = {"name": name, "scope": scope or ""}
    body |= (
        {"permissions": options.split(permission)}
        if permission
        else {"role": role or Role.OPERATOR}
    )
    if person is not None:
        body["person"] = person
    if reuse_name:
        body["reuse_name"] = True
    if expires is not None:
        body["expires_at"] = _moment(expires)
    with connect() as client:
        made = client.post("/api-keys", body)
    print(made["token"])
    may = render_grants(made["grants"])
    tell(
        f"token {name} is created ({may}). It is shown only now; "
        "use it in OPSJOBS_TOKEN or `Authorization: Bearer …`"
    )


@app.command("list")
def list_tokens(output: options.Output = Form.TABLE, limit: options.Limit = 200) -> None:
    """List tokens by name. The tokens themselves are not stored."""
    with connect() as client:
        found, more = client.items("/api-keys", limit=limit)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def revoke(
    tokens: Annotated[
        list[str],
        typer.Argument(metavar="TOKEN…", help="Names, ids or uuids, not the tokens themselves."),
    ],
) -> None:
    """Revoke tokens: from now on they are refused."""
    with connect() as client:
        for ref in tokens:
            found = client.by_name("api-key", ref)
            client.delete(path_of("api-key", found["id"]))
            tell(f"token {found['name']} is revoked")


def _moment(text: str) -> str:
    """Return a time for the API: `30d` from now, or the time itself."""
    try:
        return (datetime.now(UTC) + timedelta(seconds=parse_duration(text))).isoformat()
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(
            f"--expires: {text!r} is neither a duration such as 30d nor a time such as "
            "2027-01-31T00:00:00Z.",
            ExitCode.USAGE,
        ) from None
    if moment.tzinfo is None:
        raise CommandFailed(
            f"--expires: {text!r} has no zone: write {text}Z for UTC.", ExitCode.USAGE
        )
    return moment.isoformat()
