"""Options that several commands share: parsers, and selections of targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from opsjobs.cli.client import Client, Json, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, tell
from opsjobs.cli.render import Form
from opsjobs.model.units import parse_duration

Output = Annotated[Form, typer.Option("-o", "--output", help="Output format.")]


class _Chosen(int):
    """A limit that was given on the command line."""


def _mark_chosen(context: typer.Context, limit: int) -> int:
    source = context.get_parameter_source("limit")
    return _Chosen(limit) if source is not None and source.name == "COMMANDLINE" else limit


Limit = Annotated[
    int, typer.Option(min=0, callback=_mark_chosen, help="Maximum number of items; 0 shows all.")
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "-t",
        "--target",
        metavar="NAME[,NAME]",
        help="Targets: names, ids or hosts. May be repeated.",
    ),
]
Groups = Annotated[
    list[str] | None,
    typer.Option("-g", "--group", metavar="GROUP[,GROUP]", help="All targets of these groups."),
]
Selector = Annotated[
    str | None,
    typer.Option(
        "-l",
        "--selector",
        metavar="SELECTOR",
        help="Targets with these labels, such as env=prod,role!=db.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "-x",
        "--exclude",
        metavar="NAME[,NAME]",
        help="Exclude these targets: names or ids. May be repeated.",
    ),
]
Reason = Annotated[str | None, typer.Option(help="The reason; it is stored with the execution.")]
OverrideSafety = Annotated[
    str | None,
    typer.Option(
        "--override-safety",
        metavar="REASON",
        help="Bypass the safety check and approvals, for this reason; audited.",
    ),
]
Raw = Annotated[
    bool,
    typer.Option(
        "--raw", help="Do not escape control characters of the remote output on a terminal."
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print every event as one line of JSON, instead of the output."),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "-p", "--param", metavar="NAME=VALUE", help="A parameter's value. May be repeated."
    ),
]
ParamFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--param-file",
        metavar="NAME=FILE",
        help="A parameter's value from a file; - is standard input. May be repeated.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would run where, and start nothing.")
]
ReuseName = Annotated[
    bool,
    typer.Option(
        "--reuse-name", help="Reuse the name of a deleted identity and inherit what it owned."
    ),
]
WaitLimit = Annotated[
    str | None,
    typer.Option(
        "--wait-limit",
        metavar="DURATION",
        help=(
            "Exit with 7 after waiting this long for a person's decision (default: "
            "never on a terminal, else 10m)."
        ),
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Print the id of the execution and exit without waiting.")
]


NO_TARGETS = "no targets are given. Use -t web-1,web-2, -g GROUP or -l env=prod."


def split(values: Iterable[str] | None) -> list[str]:
    """Return the items of a repeatable option that accepts commas, in order, each once."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return list(dict.fromkeys(part for part in parts if part))


def names_nothing(option: str) -> CommandFailed:
    """Return how an option is refused whose value is empty, as of a variable that is not set."""
    return CommandFailed(
        f"{option}: the value is empty. Give one, or leave {option} out.", ExitCode.USAGE
    )


def selection(
    targets: list[str] | None,
    groups: list[str] | None,
    selector: str | None,
    exclude: list[str] | None = None,
    *,
    alone: bool = False,
) -> dict[str, Any]:
    """Return the `targets` of a request; empty if nothing is selected.

    `alone`: exclusions without a selection are accepted: a job has targets of its own. Raises
    CommandFailed for an option that names nothing: without it more targets would be selected.
    """
    for option, values in (("-t", targets), ("-g", groups)):
        if values and not split(values):
            raise names_nothing(option)
    if not all(split([value]) for value in exclude or ()):
        raise names_nothing("-x")
    if selector is not None and not selector.strip():
        raise names_nothing("-l")
    named: dict[str, Any] = {"ids": split(targets), "groups": split(groups), "selector": selector}
    given = {key: value for key, value in named.items() if value}
    if exclude and not (given or alone):
        raise CommandFailed(
            "--exclude: nothing is selected to exclude it from. Use -t, -g or -l with it.",
            ExitCode.USAGE,
        )
    return {**given, "exclude": split(exclude)} if exclude else given


def because(reason: str | None, override: str | None) -> dict[str, Any]:
    """Return `reason` and `override_safety` of a request.

    Raises CommandFailed without a reason.
    """
    if override is None:
        return {"reason": reason} if reason else {}
    if not override.strip():
        raise CommandFailed(
            "--override-safety: the reason is empty. Give one for the audit log.", ExitCode.USAGE
        )
    return {
        "override_safety": True,
        "reason": override if reason is None else f"{override}: {reason}",
    }


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """Return the values of a repeatable NAME=VALUE option. Raises CommandFailed without a `=`."""
    found: dict[str, str] = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise CommandFailed(f"{option}: write NAME=VALUE, not {one!r}.", ExitCode.USAGE)
        found[name] = value
    return found


def duration(option: str, text: str | None) -> str | None:
    """Return a duration for the API. Raises CommandFailed if it is invalid."""
    try:
        seconds = 1.0 if text is None else parse_duration(text)
    except ValueError as error:
        raise CommandFailed(f"{option}: {error}", ExitCode.USAGE) from None
    if seconds <= 0:
        raise CommandFailed(
            f"{option}: duration must be greater than zero, such as 30s or 5m", ExitCode.USAGE
        )
    return text


def expiry(option: str, text: str) -> str:
    """Return a time for the API: `30d` from now, or the time itself. Raises CommandFailed."""
    try:
        return (datetime.now(UTC) + timedelta(seconds=parse_duration(text))).isoformat()
    except OverflowError:
        raise CommandFailed(
            f"{option}: {text!r} is too far away. Use `never`, or a shorter time.", ExitCode.USAGE
        ) from None
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(
            f"{option}: {text!r} is neither a duration such as 30d nor a time such as "
            "2027-01-31T00:00:00Z.",
            ExitCode.USAGE,
        ) from None
    if moment.tzinfo is None:
        raise CommandFailed(
            f"{option}: {text!r} has no zone: write {text}Z for UTC.", ExitCode.USAGE
        )
    return moment.isoformat()


def tell_more(more: bool, limit: int) -> None:
    """Report on stderr that a list was cut, unless --limit was given."""
    if more and not isinstance(limit, _Chosen):
        tell(f"there are more items: use --limit {limit * 2} for more, or --limit 0 for all")


def spread(group: type[Any], name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: its parameter `name` becomes one option per field of `group`.

    Each option is None if it is not given.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = signature(command, eval_str=True).parameters
        hints = get_type_hints(group, include_extras=True)
        spread_out = [
            Parameter(f.name, Parameter.KEYWORD_ONLY, annotation=hints[f.name], default=None)
            for f in fields(group)
        ]
        parameters: list[Parameter] = []
        for parameter_name, parameter in own.items():
            parameters += spread_out if parameter_name == name else [parameter]

        @wraps(command)
        def run_command(**values: Any) -> None:
            grouped = group(**{field.name: values[field.name] for field in fields(group)})
            others = {
                parameter_name: value
                for parameter_name, value in values.items()
                if parameter_name in own
            }
            command(**others, **{name: grouped})

        run_command.__dict__["__signature__"] = Signature(parameters)  # Typer reads it
        return run_command

    return decorate


# --- targets


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
            found_group = client.by_name("target-group", group, command="group")
            found += client.items(f"{path_of('target-group', found_group['id'])}/targets", limit=0)[
                0
            ]
    if not found:
        raise CommandFailed(
            "no matching target. List targets with: opsjobs targets list", ExitCode.NOT_FOUND
        )
    return list({target["id"]: target for target in found}.values())


def query_each(
    targets: Sequence[Json], ask: Callable[[Json], T]
) -> Iterator[tuple[Json, T | CommandFailed]]:
    """Yield each target in order with its response or its error; requests run in parallel."""

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


def render_failure(target: Json, wrong: CommandFailed) -> str:
    """Return the error of a target, prefixed with its name unless it starts with it."""
    name = plain(target["name"])
    return str(wrong) if str(wrong).startswith((f"{name} ", f"{name}:")) else f"{name}: {wrong}"


def parse_labels(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """Return the labels of repeated KEY=VALUE options. Raises CommandFailed."""
    return {key.strip(): value.strip() for key, value in pairs(option, list(given or ())).items()}
