"""`opsjobs events`: follow everything that happens and that the caller may see."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from opsjobs.cli.client import connect
from opsjobs.cli.event_stream import Event
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.options import split
from opsjobs.cli.render import paint, render_counts
from opsjobs.cli.terminal_escapes import escape_json

_PREFIX, _SUFFIX = "io.opsconductor.", ".v1"
_BAD = ("failed", "timeout", "lost", "dead", "opened", "disabled", "rejected")
_ODD = ("partial", "cancelled", "missed", "skipped", "retried", "requested")
_STYLES = dict.fromkeys(_BAD, "red") | dict.fromkeys(_ODD, "yellow")
TYPE_COLUMNS = 20


def events(
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="Only these types, such as execution.failed, or all of a noun: 'schedule.*'. "
            "Separated by commas, or repeated.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION",
            help="Start after this position, such as 12-3; 0: at the oldest event kept "
            "(default: now).",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print each event as one line of JSON: id (position), event, data."
        ),
    ] = False,
) -> None:
    """Follow all events that you may see, until Ctrl-C.

    A lost connection is resumed without a gap or a repeat. At the end the place is printed with
    which `--after` continues.
    """
    place = after
    with connect() as client:
        try:
            for reached, found in client.follow_all(tell, types=split(kinds), after=after):
                place = reached
                for event in found:
                    sys.stdout.write((_json_line if as_json else _line)(event) + "\n")
                sys.stdout.flush()
        except KeyboardInterrupt:
            if place is not None:
                tell(f"continue with: opsjobs events --after {place}")
            raise


def _json_line(event: Event) -> str:
    found = {"id": event.id, "event": event.event, "data": json.loads(event.data)}
    return escape_json(json.dumps(found, ensure_ascii=False))


def _line(event: Event) -> str:
    """Return the line of an event for people: time, type and subject."""
    event_body = json.loads(event.data)
    kind = str(event_body.get("type", event.event)).removeprefix(_PREFIX).removesuffix(_SUFFIX)
    data = event_body.get("data")
    about = _about(kind, data if isinstance(data, dict) else {}) or str(
        event_body.get("subject", "")
    )
    time = str(event_body.get("time", "")).replace("T", " ")[:19]
    verb = kind.rpartition(".")[2]
    painted = paint(plain(kind).ljust(TYPE_COLUMNS), _STYLES.get(verb), sys.stdout)
    return f"{plain(time)}  {painted}  {plain(about)}".rstrip()


def _about(kind: str, data: Mapping[str, Any]) -> str:
    """Return the subject of an event in a few words; "" if only its subject is known."""
    noun = kind.partition(".")[0]
    if "total_targets" in data:
        return _about_execution(data, is_begin=kind.endswith((".queued", ".started")))
    match noun:
        case "target_run":
            return _about_run(data)
        case "schedule":
            return _about_schedule(data)
        case "approval":
            waits = f"of execution {data.get('execution_id')}"
            return f"{data.get('id')} {waits}: {data.get('status')}"
        case "circuit":
            return _join(_name_of(data.get("target")), data.get("state"), data.get("reason"))
    return _join(data.get("name"), data.get("disabled_reason"))


def _about_execution(data: Mapping[str, Any], *, is_begin: bool) -> str:
    """Return the name and the state; at its beginning without, as that may be a later one."""
    number = f" #{data['number']}" if data.get("number") is not None else ""
    counts = data.get("counts")
    share = f" ({render_counts(counts)})" if isinstance(counts, dict) and counts else ""
    targets = f"on {pluralize(int(data['total_targets']), 'target')}"
    state = targets if is_begin else f"{data.get('status')} {targets}{share}"
    return f"{data.get('job_name')}{number}, execution {data.get('id')}: {state}"


def _about_run(data: Mapping[str, Any]) -> str:
    error = data.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return _join(_name_of(data.get("target")), data.get("status"), message)


def _about_schedule(data: Mapping[str, Any]) -> str:
    firing = data.get("firing")
    firing = firing if isinstance(firing, dict) else {}
    launched = firing.get("execution_id")
    outcome = f"execution {launched}" if launched is not None else firing.get("reason")
    return _join(data.get("name"), outcome)


def _name_of(target: object) -> object:
    return target.get("name") if isinstance(target, dict) else target


def _join(*parts: object) -> str:
    return ": ".join(str(part) for part in parts if part not in (None, ""))
