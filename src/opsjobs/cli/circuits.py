"""`opsjobs circuits`: logins that are paused after repeated failures."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import connect
from opsjobs.cli.render import Column, Form, ago, pluralize, show_list, tell

app = typer.Typer(
    help="Circuits: logins that are paused after repeated failures.", no_args_is_help=True
)

COLUMNS = (
    Column("target", lambda c: c["target"]["name"] or c["target"]["id"]),
    Column("credential", lambda c: c["credential"]),
    Column("state", lambda c: c["state"]),
    Column("since", lambda c: ago(c["since"])),
    Column("until", lambda c: c["until"]),
    Column("failures", lambda c: c["failures"]),
    Column("why", lambda c: (c["error"] or {}).get("code")),
    Column("message", lambda c: (c["error"] or {}).get("message"), wide=True),
)


@app.command("list")
def list_circuits(
    closed: Annotated[bool, typer.Option("--closed", help="Include closed circuits.")] = False,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """List the circuits that are not closed, newest first."""
    with connect() as client:
        found, more = client.items(
            "/circuits", limit=limit, state=["closed", "open", "half_open"] if closed else None
        )
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def reset(
    targets: Annotated[list[str], typer.Argument(metavar="TARGET…", help="Names, ids or uuids.")],
) -> None:
    """Close the circuits of targets, so that they are contacted again at once."""
    with connect() as client:
        for ref in targets:
            target = client.by_name("target", ref)
            found = client.post(f"/circuits/{target['id']}/reset")["items"]
            tell(f"target {target['name']}: {pluralize(len(found), 'circuit')} closed")
