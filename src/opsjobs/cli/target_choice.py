"""Select the targets of a command, and query many of them in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.render import plain

AT_A_TIME = 8
"""Parallel requests of one command: the API connects to a machine for each of them."""
Chosen = Annotated[list[str] | None, typer.Argument(metavar="TARGET", help="Names, ids or uuids.")]
Group = Annotated[
    str | None, typer.Option("-g", "--group", metavar="GROUP", help="All targets of this group.")
]
All = Annotated[bool, typer.Option("--all", help="All targets.")]
T = TypeVar("T")


def select_targets(
    client: Client,
    refs: Sequence[str],
    selector: str | None = None,
    group: str | None = None,
    *,
    everything: bool = False,
) -> list[Json]:
    """Return the named targets, those with these labels, or those of this group; each once.

    Raises CommandFailed (usage) if nothing is given, RequestRefused (404) for an unknown name, and
    CommandFailed if no target matches.
    """
    if not (refs or selector or group or everything):
        raise CommandFailed(
            "no targets are given. Use TARGET…, -l SELECTOR, -g GROUP or --all.", ExitCode.USAGE
        )
    found = [client.by_name("target", ref) for ref in refs]
    if everything:
        found += client.items("/targets", limit=0)[0]
    else:
        if selector:
            found += client.items("/targets", limit=0, selector=selector)[0]
        if group:
            found += client.items(f"/target-groups/{_group(client, group)}/targets", limit=0)[0]
    if not found:
        raise CommandFailed(
            "no matching target. List targets with: opsjobs targets list", ExitCode.NOT_FOUND
        )
    return list({target["id"]: target for target in found}.values())


def query_each(
    targets: Sequence[Json], ask: Callable[[Json], T]
) -> Iterator[tuple[Json, T | CommandFailed]]:
    """Yield each target in order with its answer or its error; several are asked in parallel."""

    def query(target: Json) -> T | CommandFailed:
        try:
            return ask(target)
        except CommandFailed as failed:
            return failed

    with ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="target") as pool:
        waiting = [pool.submit(query, target) for target in targets]
        try:
            for target, answer in zip(targets, waiting, strict=True):
                yield target, answer.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _group(client: Client, ref: str) -> object:
    found, _ = client.items("/target-groups", limit=2, name=ref)
    named = next((group["id"] for group in found if group["name"] == ref), None)
    if named is None:
        raise CommandFailed(
            f"There is no group {ref}: `opsjobs groups list` shows them.", ExitCode.NOT_FOUND
        )
    return named


def render_failure(target: Json, wrong: CommandFailed) -> str:
    """Return the error of a target, prefixed with its name unless it begins with it."""
    name = plain(target["name"])
    return str(wrong) if str(wrong).startswith((f"{name} ", f"{name}:")) else f"{name}: {wrong}"


def parse_labels(option: str, pairs: Sequence[str] | None) -> dict[str, str]:
    """Return the labels of repeated KEY=VALUE options. Raises CommandFailed."""
    return {
        key.strip(): value.strip()
        for key, value in options.pairs(option, list(pairs or ())).items()
    }
