"""`opsjobs targets set`, `label` and `maintenance`, and the warnings after a change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, RequestRefused, connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, tell
from opsjobs.cli.options import All, Chosen, Group, render_failure, select_targets
from opsjobs.cli.winrm_options import WinrmFields
from opsjobs.model.target import HostKeyPolicy, TargetDraft, Transport
from opsjobs.model.target_import import differences
from opsjobs.model.winrm import HTTP_PORT, HTTPS_PORT

Platform = Literal["linux", "macos", "bsd", "network", "windows"]
Durable = Literal["auto", "required", "off"]


@dataclass(frozen=True, slots=True)
class Fields:
    """Options of `targets set`."""

    name: Annotated[str | None, typer.Option("--name", help="The new name; only for one target.")]
    host: Annotated[
        str | None,
        typer.Option("--host", help="The new address or host name; only for one target."),
    ]
    port: Annotated[int | None, typer.Option("--port", min=1, max=65_535, help="The new port.")]
    credential: Annotated[
        str | None,
        typer.Option(
            "-c",
            "--credential",
            metavar="NAME",
            help="The credential to log in with; it includes the user.",
        ),
    ]
    no_credential: Annotated[
        bool | None, typer.Option("--no-credential", help="Remove the credential.")
    ]
    jump: Annotated[
        str | None, typer.Option("--jump", metavar="TARGET", help="The target to use as jump host.")
    ]
    no_jump: Annotated[
        bool | None, typer.Option("--no-jump", help="Connect directly, without a jump host.")
    ]
    zone: Annotated[str | None, typer.Option("--zone", help="The zone whose workers reach it.")]
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, help="Maximum number of runs on it at a time.")
    ]
    group: Annotated[
        list[str] | None,
        typer.Option("-g", "--group", metavar="GROUP[,GROUP]", help="Add it to these groups."),
    ]
    no_group: Annotated[
        list[str] | None,
        typer.Option("--no-group", metavar="GROUP[,GROUP]", help="Remove it from these groups."),
    ]
    transport: Annotated[Transport | None, typer.Option("--transport", help="How it is reached.")]
    platform: Annotated[Platform | None, typer.Option("--platform", help="Its operating system.")]
    host_key_policy: Annotated[
        HostKeyPolicy | None, typer.Option("--host-key-policy", help="How host keys are verified.")
    ]
    durable: Annotated[
        Durable | None,
        typer.Option("--durable", help="Whether its commands survive a lost connection."),
    ]

    def patch(self) -> Json:
        """Return the JSON Merge Patch, without groups.

        Raises CommandFailed for exclusive options.
        """
        given: Json = {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if option.name in TargetDraft.model_fields
        }
        patch: Json = {name: value for name, value in given.items() if value is not None}
        for name, none in (("credential", self.no_credential), ("jump", self.no_jump)):
            if none and name in patch:
                raise CommandFailed(f"--{name} and --no-{name} exclude each other.", ExitCode.USAGE)
            if none:
                patch[name] = None
        return patch

    def groups(self, so_far: Sequence[str]) -> list[str] | None:
        """Return the new groups of a target; None if they do not change."""
        if self.group is None and self.no_group is None:
            return None
        out = options.split(self.no_group)
        return [
            name for name in dict.fromkeys([*so_far, *options.split(self.group)]) if name not in out
        ]


@options.spread(WinrmFields, "winrm")
@options.spread(Fields, "fields")
def set_(targets: Chosen = None, *, fields: Fields, winrm: WinrmFields) -> None:
    """Change fields of targets. Options that are not given change nothing.

    Labels are changed with `opsjobs targets label`, host keys with `opsjobs targets trust`.
    """
    patch = fields.patch()
    if options_given := winrm.body():
        patch["winrm"] = options_given
    if fields.transport is Transport.WINRM:
        port = HTTP_PORT if winrm.winrm_scheme == "http" else HTTPS_PORT
        patch = {"platform": "windows", "port": port, **patch}
    elif fields.transport is not None:
        patch.setdefault("winrm", None)
    if not patch and fields.groups([]) is None:
        raise CommandFailed(
            "nothing to change. See the options with: opsjobs targets set --help", ExitCode.USAGE
        )
    with connect() as client:
        found = select_targets(client, targets or ())
        if len(found) > 1 and (alone := [name for name in ("name", "host") if name in patch]):
            raise CommandFailed(
                f"--{alone[0]}: only valid for one target, and {len(found)} are given.",
                ExitCode.USAGE,
            )

        def make_patch(target: Json) -> Json:
            groups = fields.groups(target["groups"])
            return patch if groups is None else {**patch, "groups": groups}

        for after in _change_all(client, found, make_patch):
            if {"host", "port", "jump"} & patch.keys():
                warn_of_twins_of(client, after)
        warn_of_zones(client, [fields.zone])


def label(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[TARGET[,TARGET]] CHANGE",
            help="Names, ids or uuids; then key=value to set a label, key- to remove it.",
        ),
    ],
    *,
    selector: options.Selector = None,
    group: Group = None,
    all_: All = False,
) -> None:
    """Set and remove labels of targets. Other labels stay.

    With -l, -g or --all, give no TARGET.
    """
    several = bool(selector or group or all_)
    refs, changes = ([], words) if several else (options.split(words[:1]), words[1:])
    labels = dict(_label(word) for word in changes)
    if not labels:
        raise CommandFailed(
            "no label is given. Use key=value to set one, key- to remove one.", ExitCode.USAGE
        )
    with connect() as client:
        _change_all(
            client,
            select_targets(client, refs, selector, group, everything=all_),
            lambda _: {"labels": labels},
        )


def _label(word: str) -> tuple[str, str | None]:
    key, equals, value = word.partition("=")
    if equals and key:
        return key.strip(), value.strip()
    if not equals and word.endswith("-") and len(word) > 1:
        return word[:-1], None
    raise CommandFailed(
        f"{word}: not a label. Use key=value to set one, key- to remove one.", ExitCode.USAGE
    )


def _change_all(
    client: Client, targets: Sequence[Json], patch: Callable[[Json], Json]
) -> list[Json]:
    """Patch each target, report its changes, and return the new targets.

    One that fails does not stop the others.
    """
    done: list[Json] = []
    failed: CommandFailed | None = None
    for target in targets:
        try:
            after: Json = client.patch(path_of("target", target["id"]), patch(target))
        except CommandFailed as error:
            if len(targets) == 1:
                raise
            failed = error
            tell(render_failure(target, error))
            continue
        words = changes_in_words(differences(_writable(target), _writable(after)))
        tell(f"{plain(target['name'])}: {plain(words) or 'unchanged'}")
        done.append(after)
    if failed is not None:
        raise CommandFailed(f"{len(done)} of {len(targets)} targets are changed.", failed.exit_code)
    return done


def _writable(target: Json) -> dict[str, Any]:
    return {name: value for name, value in target.items() if name in TargetDraft.model_fields}


def maintenance(
    targets: Chosen = None,
    *,
    selector: options.Selector = None,
    group: Group = None,
    all_: All = False,
    reason: Annotated[
        str | None, typer.Option(help="The reason; waiting executions show it.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends, such as 2026-11-30T06:00:00Z.")
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How long it lasts, such as 2h.")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End it now.")] = False,
) -> None:
    """Begin or end maintenance of targets: new runs on them wait until it is over.

    Without --until and --for it lasts until it is ended. Running commands continue.
    """
    if sum((until is not None, for_ is not None, end)) > 1:
        raise CommandFailed("--until, --for and --end exclude each other.", ExitCode.USAGE)
    given: Json = {
        "until": until,
        "duration": options.duration("--for", for_),
        "reason": reason,
        "off": end or None,
    }
    body: Json = {name: value for name, value in given.items() if value is not None}
    with connect() as client:
        for target in select_targets(client, targets or (), selector, group, everything=all_):
            state = client.post(f"{path_of('target', target['id'])}/maintenance", body)[
                "maintenance"
            ]
            tell(f"{plain(target['name'])}: {maintenance_in_words(state)}")


def maintenance_in_words(state: Json | None) -> str:
    """Return `under maintenance until …: reason`, or that there is none."""
    if state is None:
        return "not under maintenance"
    until = f"until {state['until']}" if state.get("until") else "until it is ended"
    return f"under maintenance {until}" + (
        f": {plain(state['reason'])}" if state.get("reason") else ""
    )


# --- reports and warnings


_LABEL = "labels."
_TWINS_SHOWN_MAX = 10


def changes_in_words(changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the changes of a target in words.

    For example `port 22 -> 2222, label env prod -> dev, +label team=a, -label rack`.
    """
    return ", ".join(
        _change_in_words(name, change.get("from"), change.get("to"))
        for name, change in changes.items()
    )


def warn_of_zones(client: Client, zones: Iterable[str | None]) -> None:
    """Warn of each zone without a worker, if the caller is permitted to list workers."""
    asked = sorted({zone for zone in zones if zone})
    if not asked:
        return
    try:
        served = {
            worker["zone"] for worker in client.get("/workers")["items"] if worker.get("alive")
        }
    except RequestRefused:
        return
    for zone in asked:
        if zone not in served:
            tell(
                f"warning: zone {plain(zone)} has no worker now. Start one with: "
                f"opsjobs worker --zone {plain(zone)}"
            )


def warn_of_twins(items: Sequence[Json]) -> None:
    """Warn of targets with the same address: a job on both runs twice on one machine."""
    twins = [item for item in items if item.get("same_address")]
    for item in twins[:_TWINS_SHOWN_MAX]:
        others = plain(", ".join(item["same_address"][:3]))
        tell(
            f"warning: {plain(item['name'])} has the same host and port as {others}: "
            "a job on both runs twice there."
        )
    if len(twins) > _TWINS_SHOWN_MAX:
        tell(
            f"warning: and {len(twins) - _TWINS_SHOWN_MAX} more have the host and port of another "
            "target."
        )


def warn_of_twins_of(client: Client, target: Json) -> None:
    """Warn if another visible target has the host and port of this new or moved one."""
    if target.get("transport") != "ssh":
        return
    found, _ = client.items("/targets", limit=10, host=target["host"], port=target["port"])
    others = [
        one["name"]
        for one in found
        if one["id"] != target["id"] and one.get("jump") == target.get("jump")
    ]
    warn_of_twins([{"name": target["name"], "same_address": others}])


def _change_in_words(name: str, old: object, new: object) -> str:
    if name.startswith(_LABEL):
        key = name.removeprefix(_LABEL)
        if old is None:
            return f"+label {key}={new}"
        return f"-label {key}" if new is None else f"label {key} {old} -> {new}"
    if isinstance(old, list) or isinstance(new, list):
        before = list(old) if isinstance(old, list) else []
        after = list(new) if isinstance(new, list) else []
        moved = [
            *(f"+{one}" for one in after if one not in before),
            *(f"-{one}" for one in before if one not in after),
        ]
        return f"{name} {' '.join(map(str, moved)) or 'in another order'}"
    return f"{name} {_or_none(old)} -> {_or_none(new)}"


def _or_none(value: object) -> object:
    return "none" if value is None else value
