"""`opsjobs executions diff`: compare the output of two targets, or with the last good run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Annotated, Literal

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, connect, path_of
from opsjobs.cli.messages import plain, tell

OUTPUT_BYTES_MAX = 4 << 20
"""Only this much of each output is compared."""

# In one pass, as opsjobs_generalize in SQL: in "Mar31" the month is no word of its own.
_VARYING = re.compile(
    r"\b(?:0x)?[0-9a-fA-F]*[0-9][0-9a-fA-F]*\b|[0-9]+"
    r"|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b",
    re.ASCII,
)
_SPACES = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class _Side:
    title: str
    target: str
    lines: Sequence[str]
    cut: bool


def diff(
    execution: Annotated[str, typer.Argument(metavar="EXECUTION", help="Id or uuid.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Name or id.")],
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]", help="Another target. Default: the last good run of TARGET."
        ),
    ] = None,
    *,
    stream: Annotated[
        Literal["stdout", "stderr"], typer.Option(help="The stream that is compared.")
    ] = "stdout",
    action: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only this action's output.")
    ] = None,
    normalise: Annotated[
        bool,
        typer.Option("--normalise", help="Ignore names of the machines, numbers, times and hex."),
    ] = False,
    context: Annotated[
        int,
        typer.Option(
            "-U", "--unified", min=0, metavar="N", help="Show N equal lines around each difference."
        ),
    ] = 3,
    raw: options.Raw = False,
) -> None:
    """Compare the output of a target with another one, or with its last good run.

    The last good run is that of the same job, before this execution. To compare two groups, name a
    target of each.
    """
    with connect() as client:
        path = path_of("execution", execution)
        here = _read(client, path, target, target, stream=stream, action=action)
        if other is not None:
            sides = (here, _read(client, path, other, other, stream=stream, action=action))
        else:
            good = client.get(f"{path}/baseline", target=target)
            number, name = good["execution"]["id"], good["target_run"]["target"]["name"]
            title = f"{name} in execution {number}"
            before = _read(
                client, f"/executions/{number}", name, title, stream=stream, action=action
            )
            sides = (before, here)
    found = list(_changes(sides, context, normalise=normalise))
    for line in found:
        sys.stdout.write((line if raw else plain(line)) + "\n")
    for side in sides:
        if side.cut:
            tell(f"only the first {OUTPUT_BYTES_MAX >> 20} MiB of {plain(side.title)} are compared")
    if not found:
        tell(f"no difference in {stream}")


def _read(
    client: Client, path: str, target: str, title: str, *, stream: str, action: str | None
) -> _Side:
    held = bytearray()
    for portion in client.raw(
        f"{path}/log", format="text", target=target, stream=stream, action=action
    ):
        held += portion
        if len(held) > OUTPUT_BYTES_MAX:
            break
    text = bytes(held[:OUTPUT_BYTES_MAX]).decode("utf-8", "replace")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    return _Side(title, target, lines if text else (), len(held) > OUTPUT_BYTES_MAX)


def _changes(sides: tuple[_Side, _Side], context: int, *, normalise: bool) -> Iterator[str]:
    """Yield the lines of a unified diff; none if the outputs are equal."""
    names = [side.target for side in sides]
    keys = [
        [generalize(line, names) for line in side.lines] if normalise else side.lines
        for side in sides
    ]
    first, second = sides
    groups = SequenceMatcher(None, keys[0], keys[1]).get_grouped_opcodes(context)
    for number, group in enumerate(groups):
        if number == 0:
            yield from (f"--- {first.title}", f"+++ {second.title}")
        (_, begin, _, other_begin, _), (_, _, end, _, other_end) = group[0], group[-1]
        yield f"@@ -{begin + 1},{end - begin} +{other_begin + 1},{other_end - other_begin} @@"
        for kind, i, j, k, m in group:
            if kind == "equal":
                yield from (f" {line}" for line in second.lines[k:m])
                continue
            yield from (f"-{line}" for line in first.lines[i:j])
            yield from (f"+{line}" for line in second.lines[k:m])


def generalize(line: str, names: Sequence[str]) -> str:
    """Return the line without what differs on every machine, as `normalise` of groups has it.

    >>> generalize("web-1 up 12 days, Mon 10:11, id 0xfe01", ["web-1"])
    '@ up # days, # #:#, id #'
    """
    for name in names:
        line = line.replace(name, "@")
    return _SPACES.sub(" ", _VARYING.sub("#", line))
