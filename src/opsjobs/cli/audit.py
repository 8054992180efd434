"""`opsjobs audit`: list, verify and export the audit log."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import pluralize, tell
from opsjobs.cli.render import Column, Form, ago, show_list
from opsjobs.model.audit_chain import FIELDS, NOTHING, ChainBreak, ChainLink, ChainWalk, SigningKeys
from opsjobs.model.secret import Secret
from opsjobs.model.units import parse_duration

app = typer.Typer(help="The audit log: list, verify and export it.", no_args_is_help=True)


def changed(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str | None:
    """Return the names of the changed fields, except the version.

    Return None if the thing was created or deleted, or if it is a file.
    """
    if before is None or after is None or "sha256" in after:
        return None
    names = [
        name
        for name in {**before, **after}
        if name != "version" and before.get(name) != after.get(name)
    ]
    return ", ".join(names) or None


COLUMNS = (
    Column("seal", lambda r: r["seal"]),
    Column("at", lambda r: ago(r["at"])),
    Column("actor", lambda r: r["actor"]),
    Column("kind", lambda r: r["actor_kind"], wide=True),
    Column("from", lambda r: r["address"], wide=True),
    Column("action", lambda r: r["action"]),
    Column("thing", lambda r: r["thing_name"] or r["thing_id"]),
    Column("id", lambda r: r["thing_id"], wide=True),
    Column("request", lambda r: r["request_id"], wide=True),
    Column("changed", lambda r: changed(r["before"], r["after"])),
    Column("reason", lambda r: r["reason"]),
    Column("before", lambda r: _short(r["before"]), wide=True),
    Column("after", lambda r: _short(r["after"]), wide=True),
)
_HEAD = re.compile(r"(?:\d+:)?([0-9a-f]{64})")
Since = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="Only entries since this time (2026-11-27T09:00:00Z) or this long ago (24h).",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN", help="Only entries before this time, or older than this, such as 24h."
    ),
]


@app.command("list")
def list_rows(
    *,
    actor: Annotated[
        list[str] | None, typer.Option(help="Only entries of this actor. May be repeated.")
    ] = None,
    action: Annotated[
        list[str] | None,
        typer.Option(help="Only this action, such as job.updated. May be repeated."),
    ] = None,
    thing: Annotated[
        str | None,
        typer.Option(
            metavar="NOUN[/ID]", help="Only entries about this kind of thing, or about this one."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Only entries about things with this name.")
    ] = None,
    request: Annotated[str | None, typer.Option(help="Only entries with this request_id.")] = None,
    since: Since = None,
    until: Until = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List audit log entries, newest first."""
    noun, _, ref = (thing or "").partition("/")
    query = {
        "actor": actor,
        "action": action,
        "thing": noun or None,
        "thing_id": ref or None,
        "thing_name": name,
        "request_id": request,
        "at_after": _moment("--since", since),
        "at_before": _moment("--until", until),
    }
    with connect() as client:
        found, more = client.items("/audit", limit=limit, **query)
    show_list(found, COLUMNS, output, name="id")
    options.tell_more(more, limit)


@app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(
            help="A head that was recorded earlier, SEAL:HASH; the chain must contain it."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Verify this export offline, without the service.")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="With --file: a file of ENCRYPTION_KEYS, one per line, to check the signatures."
        ),
    ] = None,
) -> None:
    """Verify that no row was changed, removed or moved. Exit code 1 if one was.

    Prints the head of the chain; record it outside of the database.
    """
    recorded = _parse_head(head)
    if keys is not None and file is None:
        raise CommandFailed(
            "--keys: only valid with --file; the service uses its own keys.", ExitCode.USAGE
        )
    if file is not None:
        with _opened(file) as lines:
            found, broken = _walk_file(file, lines, recorded, _signing(keys))
    else:
        with connect() as client:
            found, broken = _walk_service(client, recorded)
    if broken is not None:
        what = "cannot be verified" if broken.kind == "key" else "is not intact"
        raise CommandFailed(f"the audit log {what}. {broken.detail}")
    print(found)


@app.command()
def export(
    after: Annotated[int, typer.Option(min=0, help="Only rows after this number (`seal`).")] = 0,
) -> None:
    """Write the sealed rows to stdout, one JSON object per line, with their hashes.

    The oldest row comes first.
    """
    rows = 0
    with connect() as client:
        while page := b"".join(client.raw("/audit/export", after=after)).decode():
            sys.stdout.write(page)
            lines = page.rstrip("\n").split("\n")
            after, rows = int(json.loads(lines[-1])["seal"]), rows + len(lines)
    tell(f"{pluralize(rows, 'row')} exported, up to number {after}")


@app.command()
def anchor(
    reason: Annotated[str, typer.Option(help="The reason; it is stored in the audit log.")],
) -> None:
    """Restart the hash chain after the last row, if it is permanently broken or a key is lost.

    Find the cause first: `audit verify` shows what is wrong. The rows before it stay, but can no
    longer be verified.
    """
    with connect() as client:
        base = client.post("/audit/anchor", {"reason": reason})["base"]
    tell(
        f"the chain now starts after {base}; restart processes that report having seen a later head"
    )


def _walk_service(client: Client, recorded: str | None) -> tuple[ChainLink, ChainBreak | None]:
    """Verify the whole chain at the service, one range of rows per request."""
    after, checked, seen, missing = None, 0, False, set[str]()
    while True:
        found = client.get("/audit/verify", after=after, head=recorded)
        checked += found["checked"]
        seen = seen or found["noted_at"] is not None
        after = found["next"]
        missing.update(found.get("keys_missing", ()))
        if after is None:
            break
    if found["unsealed"]:
        tell(
            f"{pluralize(found['unsealed'], 'row')} not sealed for over 10 s: "
            "check that the scheduler or a worker is running"
        )
    begun = found["base"].partition(":")[0]
    start = f", starting after number {begun}" if begun != "0" else ""
    tell(f"{pluralize(checked, 'row')} checked{start}")
    _tell_missing(missing)
    broken = ChainBreak(**found["broken"]) if found["broken"] is not None else None
    return _link(found["at"]), broken or _missing_head(recorded, seen=seen)


def _walk_file(
    file: Path, lines: Iterator[str], recorded: str | None, keys: SigningKeys | None
) -> tuple[ChainLink, ChainBreak | None]:
    """Verify an export offline, from the `previous` hash of its first line on."""
    walk: ChainWalk | None = None
    seen = False
    for number, line in enumerate(lines, start=1):
        row = _row(file, number, line)
        if walk is None:
            walk = ChainWalk(ChainLink(row["seal"] - 1, row["previous"]), keys)
            seen = row["previous"] == recorded
            if row["seal"] == 1 and row["previous"] != NOTHING:
                return walk.at, ChainBreak(
                    1, "changed", "Row 1 has a previous hash, but no row precedes it."
                )
        if not walk.step(row, row["hash"]):
            return walk.at, walk.broken
        seen = seen or row["hash"] == recorded
    if walk is None:
        raise CommandFailed(
            f"{file}: the file is empty. Write it with `opsjobs audit export > {file}`."
        )
    tell(f"{pluralize(walk.checked, 'row')} checked")
    _tell_missing(walk.keys_missing)
    if walk.unproven is not None:
        return walk.at, ChainBreak(
            walk.unproven,
            "key",
            f"Row {walk.unproven} and the rows after it cannot be verified: their key is missing.",
        )
    return walk.at, _missing_head(recorded, seen=seen)


def _tell_missing(keys: Collection[str]) -> None:
    if keys:
        tell(
            f"rows signed with missing keys ({', '.join(sorted(keys))}) are verified by later rows"
        )


def _signing(file: Path | None) -> SigningKeys | None:
    """Return the signing keys in this file. Raises CommandFailed if it is unusable."""
    if file is None:
        return None
    with _opened(file) as lines:
        try:
            return SigningKeys([Secret(key) for key in lines.read().replace(",", "\n").split()])
        except ValueError as error:
            raise CommandFailed(f"{file}: {error}", ExitCode.USAGE) from None


def _missing_head(recorded: str | None, *, seen: bool) -> ChainBreak | None:
    if recorded is None or seen:
        return None
    return ChainBreak(
        0,
        "head",
        "The recorded head is not in the chain: rows were removed or rewritten, or retention "
        "deleted it.",
    )


def _row(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if (
            isinstance(row, dict)
            and {*FIELDS, "previous", "hash"} <= set(row)
            and type(row["seal"]) is int
        ):
            bytes.fromhex(row["previous"])
            return row
    except (ValueError, TypeError):
        pass
    raise CommandFailed(f"{file}, line {number}: not a row of `opsjobs audit export`.")


def _opened(file: Path) -> Any:
    try:
        return file.open(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}.") from None


def _parse_head(head: str | None) -> str | None:
    if head is None:
        return None
    spelt = _HEAD.fullmatch(head)
    if spelt is None:
        raise CommandFailed(
            "--head: not a head. Give it as `opsjobs audit verify` printed it, SEAL:HASH.",
            ExitCode.USAGE,
        )
    return spelt[1]


def _link(text: str) -> ChainLink:
    seal, _, hash_ = text.partition(":")
    return ChainLink(int(seal), hash_)


def _moment(option: str, text: str | None) -> str | None:
    """Return a time for the API; a duration counts back from now."""
    if text is None or "T" in text or "-" in text:
        return text
    try:
        return (datetime.now(UTC) - timedelta(seconds=parse_duration(text))).isoformat()
    except OverflowError:
        raise CommandFailed(f"{option}: {text} is too long ago.", ExitCode.USAGE) from None
    except ValueError as error:
        raise CommandFailed(f"{option}: {error}", ExitCode.USAGE) from None


def _short(change: Mapping[str, Any] | None) -> str | None:
    return None if change is None else json.dumps(change, ensure_ascii=False)
