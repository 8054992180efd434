"""`opsjobs notifications`: try channels, set the default, list and repeat deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from opsjobs.cli import inputs, options, yaml_documents
from opsjobs.cli.client import connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.render import Column, Form, ago, plain, show_list, show_one, tell
from opsjobs.model.notification import NotificationChannel

TEXT_BYTES_MAX = 64 << 10

app = typer.Typer(
    help="Notifications: test channels, set the default rules, list and resend messages.",
    no_args_is_help=True,
)
COLUMNS = (
    Column("id", lambda d: d["id"]),
    Column("destination", lambda d: d["destination"]),
    Column("to", lambda d: d["to"]),
    Column("status", lambda d: d["status"]),
    Column("attempts", lambda d: d["attempts"]),
    Column("made", lambda d: ago(d["created_at"])),
    Column("title", lambda d: d["title"] or d["event"]),
    Column("error", lambda d: d["error"]),
    Column("message", lambda d: d["message_id"], wide=True),
)
TRIALS = (
    Column("to", lambda t: t["to"]),
    Column("result", lambda t: "delivered" if t["delivered"] else "not delivered"),
    Column("answer", lambda t: t["error"] or t["response"]),
)


@app.command("test")
def try_channel(
    channel: Annotated[
        NotificationChannel,
        typer.Argument(metavar="CHANNEL", help="email, webhook, service or apprise."),
    ],
    to: Annotated[
        list[str],
        typer.Argument(
            metavar="TO", help="E-mail addresses, or names of webhooks or credentials, or users."
        ),
    ],
    *,
    channel_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The channel of the Notification Service.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="A template of the subject.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="FILE", help="A file: template of the text.")
    ] = None,
    output: options.Output = Form.TABLE,
) -> None:
    """Send a test message now, once, and show what came of it.

    Exit code 1 if a recipient was not reached.
    """
    body: dict[str, Any] = {"channel": channel.value, "to": to}
    if channel_id is not None:
        body["channel_id"] = channel_id
    if subject is not None:
        body["subject"] = subject
    if text is not None:
        body["text"] = inputs.read_text(text, TEXT_BYTES_MAX)
    with connect() as client:
        trials = client.post("/notifications/test", body)["items"]
    show_list(trials, TRIALS, output, name="to")
    if not all(trial["delivered"] for trial in trials):
        raise CommandFailed("not all recipients were reached.", ExitCode.ERROR)


@app.command()
def default(
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="FILE", help="Replace the rules by this YAML file."),
    ] = None,
    *,
    output: options.Output = Form.TABLE,
) -> None:
    """Show or replace the default rules, for jobs and schedules without rules of their own."""
    with connect() as client:
        if file is None:
            stored = client.get("/notifications/default")
        else:
            body = yaml_documents.one(file, "default")
            stored = client.put("/notifications/default", body)
            tell("the default notifications are replaced")
    show_one(stored, output)


@app.command()
def deliveries(
    *,
    status: Annotated[
        Literal["pending", "delivered", "failed", "cancelled"] | None,
        typer.Option(help="Only those with this status; failed are given up."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="Only those to this recipient.")] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List deliveries of notifications and audit events, the newest first."""
    named = {name: value for name, value in (("status", status), ("to", to)) if value}
    with connect() as client:
        found, more = client.items("/deliveries", limit=limit, **named)
    show_list(found, COLUMNS, output, name="id")
    options.tell_more(more, limit)


@app.command()
def redeliver(
    ids: Annotated[
        list[int],
        typer.Argument(metavar="DELIVERY", min=1, help="Ids, as `deliveries` prints them."),
    ],
) -> None:
    """Send the messages of deliveries again, each with the same message id."""
    with connect() as client:
        for one in ids:
            made = client.post(f"/deliveries/{one}/redeliver")
            tell(f"delivery {made['id']} sends {plain(made['message_id'])} to {plain(made['to'])}")
            print(made["id"])
