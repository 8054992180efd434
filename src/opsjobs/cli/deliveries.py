"""`opsjobs webhooks` and `notifications`: receivers of messages, and what was sent."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import typer

from opsjobs.cli import inputs, options, yaml_documents
from opsjobs.cli.client import Client, Json, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, tell
from opsjobs.cli.nouns import Noun, add_each, add_list, add_remove, add_show
from opsjobs.cli.render import Column, Form, ago, show_list, show_one
from opsjobs.model.notification import NotificationChannel

webhooks = typer.Typer(help="Webhooks: URLs that receive events.", no_args_is_help=True)

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


add_list(webhooks, WEBHOOK, "List webhooks by name.")
add_show(webhooks, WEBHOOK, "Show one webhook, without its secret.")


@webhooks.command()
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
    if selector is not None and not selector.strip():
        raise options.names_nothing("-l")
    body = {"name": name, "url": url, "events": options.split(event), "selector": selector}
    with connect() as client:
        made = client.post("/webhooks", {key: value for key, value in body.items() if value})
    _show_secret(made, output)


@webhooks.command("set")
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
    webhooks,
    WEBHOOK,
    "Enable webhooks: they receive events from now on.",
    _enable,
    verb="enable",
    done="enabled",
)
add_each(
    webhooks,
    WEBHOOK,
    "Disable webhooks; their pending deliveries are cancelled.",
    _disable,
    verb="disable",
    done="disabled",
)


@webhooks.command()
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


@webhooks.command()
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


@webhooks.command()
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


@webhooks.command()
def redeliver(webhook: Webhook, delivery: Delivery) -> None:
    """Send the message of a delivery that has ended again; print the new delivery's id."""
    with connect() as client:
        found = WEBHOOK.find(client, webhook)
        made = client.post(f"{WEBHOOK.path(found)}/deliveries/{delivery}/redeliver")
    print(made["id"])
    tell(f"delivery {made['id']} sends {plain(made['event'])} again")


add_remove(webhooks, WEBHOOK, "Remove webhooks with the log of their deliveries.")


def _show_secret(made: Json, output: Form) -> None:
    shown = {name: value for name, value in made.items() if value not in (None, [], "")}
    show_one(shown if output in (Form.TABLE, Form.WIDE) else made, output)
    tell("the secret is shown this once: store it at the receiver now")


# --- notifications: try channels, set the default, list and repeat what was sent


TEXT_BYTES_MAX = 64 << 10

notifications = typer.Typer(
    help="Notifications: test channels, set the default rules, list and resend messages.",
    no_args_is_help=True,
)
OUTGOING = (
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


@notifications.command("test")
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
    """Send a test message now, once, and show the result.

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


@notifications.command()
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
            body = yaml_documents.single_body(file, "default")
            stored = client.put("/notifications/default", body)
            tell("the default notifications are replaced")
    show_one(stored, output)


@notifications.command("deliveries")
def list_outgoing(
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
    show_list(found, OUTGOING, output, name="id")
    options.tell_more(more, limit)


@notifications.command("redeliver")
def redeliver_outgoing(
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
