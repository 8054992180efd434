"""`opsjobs dead-letters`: list, retry or discard runs that ended lost or dead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.render import Column, Form, ago, shorten, show_list
from opsjobs.model.execution import ErrorCode
from opsjobs.model.units import parse_duration

app = typer.Typer(
    help="Dead letters: runs that ended lost or dead, to be revived or discarded.",
    no_args_is_help=True,
)

Letters = Annotated[
    list[int] | None, typer.Argument(metavar="LETTER", help="Ids, as `list` prints them.", min=1)
]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@dataclass(frozen=True)
class Filter:
    """Options that select dead letters."""

    job: Annotated[str | None, typer.Option(help="Only those of this job, by name or id.")]
    target: Annotated[
        str | None, typer.Option("-t", "--target", help="Only those of this target, by name or id.")
    ]
    error: Annotated[
        ErrorCode | None, typer.Option(help="Only those with this error code.", metavar="CODE")
    ]
    status: Annotated[
        Literal["lost", "dead"] | None, typer.Option(help="Only those with this status.")
    ]
    execution: Annotated[
        int | None, typer.Option("--execution", min=1, help="Only those of this execution.")
    ]
    since: Annotated[
        str | None,
        typer.Option(
            help="Only those since this time, or this long ago: 2026-11-25T09:00:00Z, 3d, 2h."
        ),
    ]

    def to_query(self) -> dict[str, Any]:
        """Return the given filters as query parameters."""
        return {
            name: value
            for name, value in {**vars(self), "since": _moment(self.since)}.items()
            if value is not None
        }


filtered = options.spread(Filter, "only")

COLUMNS = (
    Column("id", lambda d: d["id"]),
    Column("execution", lambda d: d["execution_id"]),
    Column("job", lambda d: d["job_name"]),
    Column("summary", lambda d: shorten(d.get("summary")), sparse=True),
    Column("target", lambda d: d["target"]["name"]),
    Column("host", lambda d: d["target"]["host"], wide=True),
    Column("status", lambda d: d["status"]),
    Column("error", lambda d: (d.get("error") or {}).get("code")),
    Column("attempts", lambda d: d["attempts"]),
    Column("ended", lambda d: ago(d.get("at"))),
    Column("found later", lambda d: (d.get("late_result") or {}).get("status")),
    Column("message", lambda d: (d.get("error") or {}).get("message"), wide=True),
)


@app.command("list")
@filtered
def list_letters(
    *,
    only: Filter,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List dead letters, the newest first."""
    named = only.to_query()
    with connect() as client:
        found, more = client.items("/dead-letters", limit=limit, **named)
    show_list(found, COLUMNS, output, name="id")
    options.tell_more(more, limit)


@app.command()
@filtered
def revive(
    letters: Letters = None,
    *,
    only: Filter,
    everything: All = False,
    reason: options.Reason = None,
    override_safety: options.OverrideSafety = None,
) -> None:
    """Retry dead letters, each from the step that failed.

    Starts one new execution for each original one, and prints their ids.
    """
    named = only.to_query()
    selection = _build_selection(letters, everything, named)
    made = 0
    with connect() as client:
        for answer in _answers(
            client, "revive", {**selection, **options.because(reason, override_safety)}
        ):
            for started in answer["executions"]:
                made += 1
                tell(
                    f"execution {started['id']} of {plain(started['job_name'])} retries "
                    f"{pluralize(started['total_targets'], 'target')} "
                    f"of execution {started['parent']}"
                )
                print(started["id"])
    if not made:
        tell("no dead letters to revive")


@app.command()
@filtered
def discard(
    letters: Letters = None,
    *,
    reason: Annotated[str, typer.Option(help="The reason; it is stored.")],
    only: Filter,
    everything: All = False,
) -> None:
    """Remove dead letters from the list. Their runs keep the status they ended with."""
    named = only.to_query()
    selection = _build_selection(letters, everything, named)
    with connect() as client:
        discarded = client.post("/dead-letters/discard", {**selection, "reason": reason})[
            "discarded"
        ]
    tell(f"discarded {pluralize(len(discarded), 'dead letter')}")


def _answers(client: Client, verb: str, selection: Json) -> list[Json]:
    """Return the responses to as many requests as needed; each handles a bounded part."""
    answers = [dict(client.post(f"/dead-letters/{verb}", selection))]
    while answers[-1]["more"]:
        answers.append(dict(client.post(f"/dead-letters/{verb}", selection)))
    return answers


def _moment(since: str | None) -> str | None:
    """Return a time for the API; a duration counts back from now."""
    if since is None:
        return None
    try:
        return (datetime.now(UTC) - timedelta(seconds=parse_duration(since))).isoformat()
    except (ValueError, OverflowError):
        return since


def _build_selection(letters: list[int] | None, everything: bool, named: dict[str, Any]) -> Json:
    if sum((bool(letters), everything, bool(named))) != 1:
        raise CommandFailed(
            "select dead letters in exactly one way: "
            "ids, filters such as --job and --error, or --all.",
            ExitCode.USAGE,
        )
    return {"ids": letters} if letters else {"filter": named}
