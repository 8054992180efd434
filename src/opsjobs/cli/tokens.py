"""`opsjobs tokens`: API keys for people and programs."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli.client import connect
from opsjobs.cli.render import tell
from opsjobs.model.access import Role

app = typer.Typer(help="Tokens: make API keys for people and programs.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, such as ada or deploy-bot.")],
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.OPERATOR,
) -> None:
    """Make a token and print it, this once: only its hash is kept."""
    with connect() as client:
        made = client.post("/api-keys", {"name": name, "role": role})
    print(made["token"])
    tell(f"this is the token of {name} ({role.value}), shown only now; it goes into OPSJOBS_TOKEN or `Authorization: Bearer …`")
