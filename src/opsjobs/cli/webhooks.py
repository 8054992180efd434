"""`opsjobs webhooks`: URLs that get events, and what was delivered to them."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.nouns import Noun, add_each, add_list, add_remove, add_show
from opsjobs.cli.render import Column, Form, ago, plain, show_list, show_one, tell

app = typer.Typer(help="Webhooks: URLs that receive events.", no_args_is_help=True)

TEST_SECONDS = 15.0
POLL_SECONDS = 0.5
WEBHOOK = Noun(
    "webhook",
    (
        Column("id", lambda w: w["id"]),
        Column("name", lambda w: w["name"]),
        Column("url", lambda w: w["url"]),
        Column("events", lambda w: ", ".join(w["events"])),
        Column("selector", lambda w: w["selector"]),
        Column("enabled", lambda w: w["enabled"]),
        Column("failing since", lambda w: ago(w["failing_since"])),
        Column("owner", lambda w: w["owner"], wide=True),
        Column("disabled because", lambda w: w["disabled_reason"], wide=True),
    ),
)
DELIVERIES = (
    Column("id", lambda d: d["id"]),
    Column("event", lambda d: d["event"]),
    Column("status", lambda d: d["status"]),
    Column("attempts", lambda d: d["attempts"]),
    Column("code", lambda d: d["response_code"]),
    Column("made", lambda d: ago(d["created_at"])),
    Column("error", lambda d: d["error"]),
    Column("next attempt", lambda d: d["next_attempt_at"], wide=True),
    Column("subject", lambda d: d["subject"], wide=True),
    Column("message", lambda d: d["message_id"], wide=True),
)
Webhook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Name, id or uuid.")]
Delivery = Annotated[
    int, typer.Argument(metavar="DELIVERY", help="An id, as `deliveries` prints it.", min=1)
]
Selector = Annotated[
    str | None,
    typer.Option(
        "-l", "--selector", help="Only events about things with these labels: env=prod,role!=db."
    ),
]


add_list(app, WEBHOOK, "List webhooks by name.")
add_show(app, WEBHOOK, "Show one webhook, without its secret.")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name, such as tickets.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="The address that gets the events.")],
    *,
    event: Annotated[
        list[str],
        typer.Option(
            metavar="TYPE", help="A type such as execution.failed, job.* or *. May be repeated."
        ),
    ],
    selector: Selector = None,
    output: options.Output = Form.TABLE,
) -> None:
    """Add a webhook for the events that you may see; show it with its secret, this once."""
    body = {"name": name, "url": url, "events": options.split(event), "selector": selector}
    with connect() as client:
        made = client.post("/webhooks", {key: value for key, value in body.items() if value})
    _show_secret(made, output)


@app.command("set")
def change(
    webhook: Webhook,
    *,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The address that gets the events.")
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="The types, in place of those before. May be repeated."),
    ] = None,
    selector: Selector = None,
) -> None:
    """Change a webhook. You become its owner; its secret stays."""
    given = {"url": url, "events": options.split(event) or None, "selector": selector}
    body = {key: value for key, value in given.items() if value is not None}
    if not body:
        raise CommandFailed("nothing to change. Use --url, --event or --selector.", ExitCode.USAGE)
    with connect() as client:
        found = WEBHOOK.find(client, webhook)
        client.patch(WEBHOOK.path(found), body)
    tell(f"webhook {plain(found['name'])} is changed")


def _enable(client: Client, found: Json) -> None:
    client.patch(WEBHOOK.path(found), {"enabled": True})


def _disable(client: Client, found: Json) -> None:
    client.patch(WEBHOOK.path(found), {"enabled": False})


add_each(
    app,
    WEBHOOK,
    "Enable webhooks: they receive events from now on.",
    _enable,
    verb="enable",
    done="enabled",
)
add_each(
    app,
    WEBHOOK,
    "Disable webhooks; their pending deliveries are cancelled.",
    _disable,
    verb="disable",
    done="disabled",
)


@app.command()
def rotate(
    webhook: Webhook,
    *,
    overlap: Annotated[
        str | None,
        typer.Option(help="How long messages are also signed with the old secret: 1h, 1d."),
    ] = None,
    output: options.Output = Form.TABLE,
) -> None:
    """Make a new secret and show it, this once. For a day, the old one signs messages as well."""
    seconds = options.duration("--overlap", overlap)
    with connect() as client:
        found = WEBHOOK.find(client, webhook)
        body = {} if seconds is None else {"overlap": seconds}
        made = client.post(f"{WEBHOOK.path(found)}/rotate", body)
    _show_secret(made, output)


@app.command()
def test(webhook: Webhook) -> None:
    """Send a test message, and report the receiver's response."""
    with connect() as client:
        found = WEBHOOK.find(client, webhook)
        path = WEBHOOK.path(found)
        delivery = client.post(f"{path}/test")
        until = time.monotonic() + TEST_SECONDS
        while not delivery["attempts"] and delivery["status"] == "pending":
            if time.monotonic() > until:
                raise CommandFailed(
                    f"delivery {delivery['id']}: not sent within {TEST_SECONDS:g} s. "
                    "Is a scheduler or a worker running? See `opsjobs status`."
                )
            time.sleep(POLL_SECONDS)
            delivery = client.get(f"{path}/deliveries/{delivery['id']}")
    if delivery["status"] != "delivered":
        raise CommandFailed(f"{plain(found['url'])}: {plain(delivery['error'])}")
    tell(
        f"{plain(found['url'])} answered {delivery['response_code']} "
        f"in {delivery['duration_ms']} ms"
    )


@app.command()
def deliveries(
    webhook: Webhook,
    *,
    status: Annotated[
        str | None,
        typer.Option(help="Only those that are pending, delivered, failed or cancelled."),
    ] = None,
    event: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Only those of this type.")
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List deliveries with their last attempts, the newest first."""
    query: dict[str, Any] = {"status": status, "event": event}
    with connect() as client:
        found = WEBHOOK.find(client, webhook)
        items, more = client.items(f"{WEBHOOK.path(found)}/deliveries", limit=limit, **query)
    show_list(items, DELIVERIES, output, name="id")
    options.tell_more(more, limit)


@app.command()
def redeliver(webhook: Webhook, delivery: Delivery) -> None:
    """Send the message of a delivery that has ended again; print the new delivery's id."""
    with connect() as client:
        found = WEBHOOK.find(client, webhook)
        made = client.post(f"{WEBHOOK.path(found)}/deliveries/{delivery}/redeliver")
    print(made["id"])
    tell(f"delivery {made['id']} sends {plain(made['event'])} again")


add_remove(app, WEBHOOK, "Remove webhooks with the log of their deliveries.")


def _show_secret(made: Json, output: Form) -> None:
    shown = {name: value for name, value in made.items() if value not in (None, [], "")}
    show_one(shown if output in (Form.TABLE, Form.WIDE) else made, output)
    tell("the secret is shown this once: store it at the receiver now")
