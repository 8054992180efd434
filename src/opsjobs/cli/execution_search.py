"""`opsjobs executions search`: find lines in the output of all targets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.execution_output import parse_lines
from opsjobs.cli.render import pluralize, tell
from opsjobs.cli.terminal import Terminal
from opsjobs.model.line_search import CONTEXT_LINES_MAX

LINES_PER_REQUEST = 10_000


def search(
    execution: Annotated[str, typer.Argument(metavar="EXECUTION", help="Id or uuid.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text in a line.")],
    *,
    pattern: Annotated[
        bool, typer.Option("-e", "--pattern", help="TEXT is a pattern (a regular expression).")
    ] = False,
    ignore_case: Annotated[bool, typer.Option("-i", "--ignore-case", help="Ignore case.")] = False,
    context: Annotated[
        int,
        typer.Option(
            "-C",
            "--context",
            min=0,
            max=CONTEXT_LINES_MAX,
            metavar="N",
            help="Show N lines before and after.",
        ),
    ] = 0,
    target: Annotated[
        str | None, typer.Option("-t", "--target", help="Only this target's lines.")
    ] = None,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only stderr.")] = False,
    action: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only this action's lines.")
    ] = None,
    names: Annotated[
        bool, typer.Option("--names", help="Print only the names of the targets, each once.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Lines to find. 0: all.")] = 1_000,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what is found, one line of JSON each.")
    ] = False,
    raw: options.Raw = False,
) -> None:
    """Find lines in the output of an execution, on all of its targets."""
    if names and as_json:
        raise CommandFailed("--names and --json exclude each other: give one.", ExitCode.USAGE)
    query = {
        "pattern" if pattern else "q": text,
        "ignore_case": ignore_case,
        "context": context or None,
        "target": target,
        "stream": "stderr" if stderr else None,
        "action": action,
    }
    terminal, found = Terminal(raw=raw), _FoundLines()
    with connect() as client:
        for match in _matches(client, path_of("execution", execution), query, limit, found):
            is_new = match["target"] not in found.targets
            found.targets.add(match["target"])
            found.lines += 1
            if names:
                written = f"{match['target']}\n" if is_new else ""
            else:
                written = (
                    json.dumps(match, ensure_ascii=False) + "\n"
                    if as_json
                    else _render(match, separate=found.lines > 1)
                )
            terminal.write("stdout", written.encode())
    terminal.close_line()
    tell(
        f"{pluralize(found.lines, 'line')} on {pluralize(len(found.targets), 'target')}"
        f"{found.remark}"
    )


class _FoundLines:
    def __init__(self) -> None:
        self.lines = 0
        self.targets = set[str]()
        self.remark = ""


def _matches(
    client: Client, path: str, query: dict[str, Any], limit: int, found: _FoundLines
) -> Iterator[dict[str, Any]]:
    """Yield matches, request by request; a search that ends by its time is continued."""
    after: int | None = 0
    while after is not None:
        wanted = min(limit - found.lines, LINES_PER_REQUEST) if limit else LINES_PER_REQUEST
        after, position = None, after
        for item in parse_lines(
            client.raw(f"{path}/search", **query, limit=wanted, after=position)
        ):
            if "complete" not in item:
                yield item
                continue
            after = item["next"]
            if after is None and not item["complete"]:
                found.remark = f". The search ended early: {item['reason']}."
        if after is not None and limit and found.lines >= limit:
            found.remark = f". There may be more: give --limit over {limit}, or 0 for all."
            return


def _render(match: dict[str, Any], *, separate: bool) -> str:
    name = match["target"]
    around = [*match.get("before", ()), *match.get("after", ())]
    lines = [f"{name} - {line}" for line in match.get("before", ())]
    lines.append(f"{name} | {match['text']}")
    lines += [f"{name} - {line}" for line in match.get("after", ())]
    return ("--\n" if around and separate else "") + "\n".join(lines) + "\n"
