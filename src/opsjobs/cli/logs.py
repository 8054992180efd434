"""`opsjobs executions logs`: the output of an execution, whole or filtered."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, connect, path_of
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.output_lines import OutputLines
from opsjobs.cli.terminal import Terminal
from opsjobs.model.execution import RunStatus

SUCCEEDED = frozenset(
    {RunStatus.SUCCEEDED, RunStatus.WAITING, RunStatus.RUNNING, RunStatus.SKIPPED}
)


def logs(
    execution: Annotated[str, typer.Argument(metavar="EXECUTION", help="Id or uuid.")],
    *,
    target: Annotated[
        str | None, typer.Option("-t", "--target", help="Only this target's lines.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            metavar="stdout|stderr", help="With -t: print the exact bytes of this stream."
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only targets that did not succeed.")
    ] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only stderr.")] = False,
    action: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only this action's lines.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the last N lines of each target.")
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Begin each line with its time, in UTC.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print log entries, one line of JSON each.")
    ] = False,
    raw: options.Raw = False,
) -> None:
    """Print the output of an execution so far."""
    if stream is not None and (stream not in ("stdout", "stderr") or target is None):
        raise CommandFailed(
            "--stream: must be stdout or stderr, and needs -t TARGET.", ExitCode.USAGE
        )
    picks = failed or stderr or action is not None or tail is not None or timestamps
    if picks and (as_json or stream is not None):
        raise CommandFailed(
            "--json and --stream print the whole log: "
            "they exclude --failed, --stderr, --action, --tail and --timestamps.",
            ExitCode.USAGE,
        )
    with connect() as client:
        path = path_of("execution", execution)
        if picks:
            terminal = Terminal(raw=raw)
            only = _only(stderr, action)
            _picked(
                client,
                path,
                target,
                terminal,
                only=only,
                failed=failed,
                tail=tail,
                timestamps=timestamps,
            )
            return
        form = "ndjson" if as_json else "text"
        terminal = Terminal(raw=raw)
        for portion in client.raw(f"{path}/log", format=form, target=target, stream=stream):
            terminal.write("stdout", portion)
        terminal.close_line()


def _only(stderr: bool, action: str | None) -> Callable[[dict[str, Any]], bool]:
    def is_selected(data: dict[str, Any]) -> bool:
        return (not stderr or data.get("stream") == "stderr") and action in (
            None,
            data.get("action"),
        )

    return is_selected


def _picked(
    client: Client,
    path: str,
    target: str | None,
    terminal: Terminal,
    *,
    only: Callable[[dict[str, Any]], bool],
    failed: bool,
    tail: int | None,
    timestamps: bool,
) -> None:
    runs, _ = client.items(f"{path}/targets", limit=0)
    names = {str(run["target"]["id"]): str(run["target"]["name"]) for run in runs}
    if target is not None and target not in (*names, *names.values()):
        raise CommandFailed(
            f"{target}: the execution has no such target. See: opsjobs executions show",
            ExitCode.NOT_FOUND,
        )
    unsuccessful = {str(run["target"]["id"]) for run in runs if run["status"] not in SUCCEEDED}
    selected = {
        i
        for i, name in names.items()
        if target in (None, i, name) and (not failed or i in unsuccessful)
    }
    tails: dict[str, deque[bytes]] = {}
    moment = [""]

    def put(_stream: str, portion: bytes) -> None:
        for line in portion.splitlines(keepends=True):
            stamped = f"{moment[0]} ".encode() + line if timestamps else line
            if tail is None:
                terminal.write("stdout", stamped)
            else:
                tails.setdefault(line.partition(b" | ")[0].decode(), deque(maxlen=tail)).append(
                    stamped
                )

    lines = OutputLines(put, lambda i: names.get(i, i))
    for item in _items(client.raw(f"{path}/log", format="ndjson")):
        data = item["data"]
        if item["event"] == "output" and str(data.get("target")) in selected and only(data):
            moment[0] = str(item["at"])
            lines.output(data)
    lines.finish()
    for lasts in tails.values():
        terminal.write("stdout", b"".join(lasts))
    terminal.close_line()


def _items(portions: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    rest = b""
    for portion in portions:
        *whole, rest = (rest + portion).split(b"\n")
        yield from (json.loads(line) for line in whole if line)
    if rest:
        yield json.loads(rest)
