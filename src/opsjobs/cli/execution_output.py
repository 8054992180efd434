"""`opsjobs executions logs`, `search` and `artifacts`: output of an execution."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.render import Column, Form, show_list, size
from opsjobs.cli.terminal import OutputLines, Terminal
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.model.line_search import CONTEXT_LINES_MAX

SUCCEEDED = frozenset(
    {RunStatus.SUCCEEDED, RunStatus.WAITING, RunStatus.RUNNING, RunStatus.SKIPPED}
)
TAIL_MAX = 1_000_000
GROUP_NAMES_SHOWN = 8


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
        int | None,
        typer.Option(
            min=1, max=TAIL_MAX, metavar="N", help="Only the last N lines of each target."
        ),
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
    for item in parse_lines(client.raw(f"{path}/log", format="ndjson")):
        data = item["data"]
        if item["event"] == "output" and str(data.get("target")) in selected and only(data):
            moment[0] = str(item["at"])
            lines.output(data)
    lines.finish()
    for lasts in tails.values():
        terminal.write("stdout", b"".join(lasts))
    terminal.close_line()


def parse_lines(portions: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the objects of an ndjson response as they arrive."""
    rest = b""
    for portion in portions:
        *whole, rest = (rest + portion).split(b"\n")
        yield from (json.loads(line) for line in whole if line)
    if rest:
        yield json.loads(rest)


# --- artifacts


NAME_CHARACTERS_MAX = 200
_UNFIT = re.compile(r"[^\w.,+=@~ -]")
ARTIFACT_COLUMNS = (
    Column("id", lambda a: a["id"]),
    Column("target", lambda a: a["target"]["name"]),
    Column("path", lambda a: a["path"]),
    Column("size", lambda a: size(a["size"])),
    Column("action", lambda a: a["action_key"], wide=True),
    Column("sha256", lambda a: a["sha256"], wide=True),
)


def artifacts(
    execution: Annotated[str, typer.Argument(metavar="EXECUTION", help="Id or uuid.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Save the files as FOLDER/TARGET/path."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("-t", "--target", help="Only files of this target. May be repeated."),
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """List the files that an execution downloaded, or save them to a folder."""
    with connect() as client:
        path = f"{path_of('execution', execution)}/artifacts"
        found, more = client.items(path, limit=0 if to else limit, target_name=target)
        if to is None:
            show_list(found, ARTIFACT_COLUMNS, output, name="id")
            options.tell_more(more, limit)
            return
        for artifact in found:
            _fetch(client, to, artifact)
    tell(f"{pluralize(len(found), 'file')} in {to}")


def _fetch(client: Client, folder: Path, artifact: Json) -> None:
    parts = local_parts(str(artifact["target"]["name"]), str(artifact["path"]))
    try:
        write_below(folder, parts, client.raw(f"/artifacts/{artifact['id']}"))
    except OSError as error:
        raise CommandFailed(
            f"{folder.joinpath(*parts)} cannot be written: {error.strerror}."
        ) from None


def local_parts(target: str, path: str) -> list[str]:
    """Return the path of a target's file below the folder, without parts that leave it."""
    return [_fit(target), *(_fit(part) for part in path.split("/") if part not in ("", "."))]


def _fit(name: str) -> str:
    fit = _UNFIT.sub("_", name)[:NAME_CHARACTERS_MAX]
    return fit if fit.strip(".") else "_" * max(1, len(fit))


def write_below(folder: Path, parts: Sequence[str], pieces: Iterable[bytes]) -> None:
    """Write a file below the folder; remove it if it is not written whole. Raises OSError.

    A symbolic link on the way, or in place of the file, is not followed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            if not _is_there(part, at):
                os.mkdir(part, 0o755, dir_fd=at)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        made = os.open(
            parts[-1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644, dir_fd=at
        )
        with os.fdopen(made, "wb") as file:
            try:
                file.writelines(pieces)
            except BaseException:
                os.unlink(parts[-1], dir_fd=at)
                raise
    finally:
        os.close(at)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def render_result_group(group: dict[str, object]) -> str:
    """Return the text of a group of targets with equal results: names, status, output."""
    targets = group.get("targets")
    names: list[str] = []
    if isinstance(targets, list):
        names = [
            plain(target["name"] if isinstance(target, dict) else target) for target in targets
        ]
    who = ", ".join(names[:GROUP_NAMES_SHOWN]) + (" …" if len(names) > GROUP_NAMES_SHOWN else "")
    exit_code = "" if group.get("exit_code") is None else f", exit {group['exit_code']}"
    code = group.get("error_code")
    error = f" ({code})" if code and code not in (group["status"], ErrorCode.NONZERO_EXIT) else ""
    message = None if code in (None, ErrorCode.NONZERO_EXIT) else group.get("error_message")
    body = "".join(
        _indent(text, by)
        for text, by in (
            (message, "    "),
            (group.get("stdout"), "    "),
            (group.get("stderr"), "    ! "),
        )
    )
    return (
        f"{pluralize(int(str(group['count'])), 'target')}: {group['status']}{exit_code}{error}: "
        f"{who}\n{body}"
    )


def _indent(output: object, by: str) -> str:
    text = str(output or "").rstrip("\n")
    return "".join(f"{by}{plain(line)}\n" for line in text.split("\n")) if text else ""


# --- search: find lines in the output of all targets


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
