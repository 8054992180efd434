"""`opsjobs targets import`: import targets from the inventories of other programs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from opsjobs.cli import inputs, options
from opsjobs.cli.client import Client, Json, RequestRefused, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.importing import FoundTarget, ImportedInventory, Skipped, SourceKind, guess, read
from opsjobs.cli.inputs import ask_passphrase, is_encrypted_key
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.render import Column, Form, render_counts, show_list
from opsjobs.cli.target_changes import changes_in_words, warn_of_twins, warn_of_zones
from opsjobs.model.target import HostKeyPolicy
from opsjobs.model.target_import import jumps_first

FILE_BYTES_MAX = 16 << 20
ENTRIES_A_REQUEST = 500
BYTES_A_REQUEST = 900_000
LEFT_SHOWN_MAX = 50
COLUMNS = (
    Column("name", lambda t: t["name"]),
    Column("host", lambda t: t.get("host")),
    Column("port", lambda t: t.get("port")),
    Column("credential", lambda t: t.get("credential")),
    Column("groups", lambda t: t.get("groups")),
    Column("labels", lambda t: t.get("labels"), wide=True),
    Column("jump", lambda t: t.get("jump"), wide=True),
    Column("outcome", lambda t: t["outcome"]),
    Column("changes", lambda t: changes_in_words(t.get("changes") or {})),
    Column("why", lambda t: (t.get("error") or {}).get("message")),
)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Options that apply to every imported target."""

    credential: str | None
    credentials: Mapping[str, str]
    groups: Sequence[str]
    labels: Mapping[str, str]
    labels_from: Sequence[str]
    zone: str | None
    host_key_policy: HostKeyPolicy | None

    def body(self, target: FoundTarget) -> Json:
        """Return the import entry of one target."""
        given = target.body()
        labels = {
            name: target.variables[name][:200]
            for name in self.labels_from
            if target.variables.get(name)
        }
        more: Json = {
            "credential": target.credential
            or self.credentials.get(target.user or "")
            or self.credential,
            "groups": list(dict.fromkeys([*target.groups, *self.groups])) or None,
            "labels": {**target.labels, **labels, **self.labels} or None,
            "zone": target.zone or self.zone,
            "host_key_policy": self.host_key_policy,
        }
        return {**given, **{name: value for name, value in more.items() if value is not None}}


def import_targets(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The inventory; - reads it from standard input.")
    ],
    *,
    kind: Annotated[
        SourceKind | None,
        typer.Option("--from", help="The format (default: guessed from the name and the content)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    existing: Annotated[
        Literal["update", "skip"], typer.Option(help="What to do with targets that exist already.")
    ] = "update",
    credential: Annotated[
        str | None,
        typer.Option("-c", "--credential", help="The credential of targets that have no other."),
    ] = None,
    credentials: Annotated[
        list[str] | None,
        typer.Option(
            "--credential-of",
            metavar="USER=NAME",
            help="The credential of targets with this login user.",
        ),
    ] = None,
    with_keys: Annotated[
        bool,
        typer.Option(
            "--with-keys", help="Store the private keys that the file names, and log in with them."
        ),
    ] = False,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "-g", "--group", metavar="GROUP[,GROUP]", help="Groups that all of them belong to."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="A label for all targets."),
    ] = None,
    label_from: Annotated[
        list[str] | None,
        typer.Option(
            "--label-from", metavar="VARIABLE", help="Make a label from this Ansible variable."
        ),
    ] = None,
    zone: Annotated[str | None, typer.Option(help="The zone whose workers reach them.")] = None,
    host_key_policy: Annotated[
        HostKeyPolicy | None, typer.Option(help="How host keys are verified (default: pinned).")
    ] = None,
    replace_labels: Annotated[
        bool,
        typer.Option(
            "--replace-labels",
            help="Remove labels of an existing target that its entry does not have.",
        ),
    ] = False,
    replace_groups: Annotated[
        bool,
        typer.Option(
            "--replace-groups",
            help="Remove an existing target from groups that its entry does not have.",
        ),
    ] = False,
    output: options.Output = Form.TABLE,
) -> None:
    """Import targets from an inventory of another program.

    An Ansible inventory (ini, YAML, JSON), an ssh_config, a CSV table, or /etc/hosts. Repeating the
    import changes only what is different, and shows each change. Labels and groups are added to
    those of a target. Whatever cannot be imported is reported with the reason. Exit code 1 if the
    service refused a target.
    """
    inventory = _inventory(file, kind)
    chosen = ImportOptions(
        credential,
        _pairs("--credential-of", credentials),
        options.split(group),
        _pairs("--label", label),
        options.split(label_from),
        zone,
        host_key_policy,
    )
    with connect() as client:
        stored = _keys(client, inventory.found, file) if with_keys and not dry_run else {}
        entries = [_with_key(chosen.body(one), one, stored) for one in inventory.found]
        placing = {"labels": _placing(replace_labels), "groups": _placing(replace_groups)}
        how: Json = {"existing": existing, "dry_run": dry_run, **placing}
        items = [item for portion in _portions(entries) for item in _send(client, portion, how)]
        warn_of_zones(client, (entry.get("zone") for entry in entries))
    show_list(items, COLUMNS, output)
    warn_of_twins(items)
    _tell(inventory, entries, items, dry_run=dry_run)
    raise typer.Exit(
        ExitCode.ERROR if any(item["outcome"] == "refused" for item in items) else ExitCode.OK
    )


def _inventory(file: str, kind: SourceKind | None) -> ImportedInventory:
    text = inputs.read_text(file, FILE_BYTES_MAX)
    try:
        return read(kind or guess(file, text), file, text)
    except ValueError as error:
        raise CommandFailed(f"{file}: {error}.", ExitCode.USAGE) from None


def _placing(replace: bool) -> str:
    return "replace" if replace else "merge"


def _pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise CommandFailed(
                f"{option} {word}: write it with an equals sign, such as deploy=web-key.",
                ExitCode.USAGE,
            )
        pairs[key.strip()] = value.strip()
    return pairs


# --- keys


def _keys(client: Client, found: Sequence[FoundTarget], file: str) -> dict[tuple[str, str], str]:
    """Store the private keys; return the credential names by user and key file.

    A credential of that name is reused.
    """
    wanted = dict.fromkeys(
        (one.user or "root", one.key) for one in found if one.key and not one.credential
    )
    made: dict[tuple[str, str], str] = {}
    for user, key in wanted:
        name = f"{user}@{Path(key).name}"
        try:
            content = _key_file(key, file).read_text()
            body = {"name": name, "type": "ssh_key", "username": user, "private_key": content}
            if is_encrypted_key(content):
                if not sys.stdin.isatty():
                    add = shlex.join(
                        [
                            "opsjobs",
                            "credentials",
                            "add",
                            name,
                            "-u",
                            user,
                            "--key",
                            key,
                            "--passphrase-file",
                            "FILE",
                        ]
                    )
                    tell(
                        f"the key {plain(key)} of {plain(user)} is not stored: "
                        f"it has a passphrase. Use `{plain(add)}`."
                    )
                    continue
                body["passphrase"] = ask_passphrase(
                    plain(key), otherwise="Use `opsjobs credentials add`."
                )
            client.post("/credentials", body)
        except (OSError, UnicodeDecodeError) as error:
            tell(
                f"the key {plain(key)} of {plain(user)} cannot be read: "
                f"{getattr(error, 'strerror', None) or 'it is not text'}"
            )
            continue
        except RequestRefused as refused:
            if refused.code != "name_taken":
                tell(f"the key {plain(key)} of {plain(user)} is not stored: {refused}")
                continue
        made[user, key] = name
    return made


def _key_file(key: str, file: str) -> Path:
    """Return the path of a key named in this file; a relative one starts in the file's folder."""
    path = inputs.expand(key)
    return path if path.is_absolute() or file == "-" else inputs.expand(file).parent / path


def _with_key(entry: Json, one: FoundTarget, stored: Mapping[tuple[str, str], str]) -> Json:
    name = stored.get((one.user or "root", one.key or ""))
    return {**entry, "credential": name} if name and not one.credential else entry


# --- sending


def _portions(entries: Sequence[Json]) -> Iterator[list[Json]]:
    """Yield the entries of each request, jump hosts before the targets behind them."""
    portion: list[Json] = []
    size = 0
    for position in jumps_first(entries):
        length = len(json.dumps(entries[position]))
        if portion and (len(portion) == ENTRIES_A_REQUEST or size + length > BYTES_A_REQUEST):
            yield portion
            portion, size = [], 0
        portion.append(entries[position])
        size += length
    if portion:
        yield portion


def _send(client: Client, portion: list[Json], how: Json) -> list[Json]:
    answer = client.post("/targets/import", {"targets": portion, **how})
    return [{**entry, **item} for entry, item in zip(portion, answer["items"], strict=True)]


def _tell(
    inventory: ImportedInventory,
    entries: Sequence[Json],
    items: Sequence[Mapping[str, Any]],
    *,
    dry_run: bool,
) -> None:
    skipped = [left for left in inventory.left if left.target]
    other = [left for left in inventory.left if not left.target]
    for heading, lefts in (("skipped", skipped), ("not imported", other)):
        for left in lefts[:LEFT_SHOWN_MAX]:
            tell(f"{heading}: {_render_skipped(left)}")
        if len(lefts) > LEFT_SHOWN_MAX:
            tell(f"{heading}: and {len(lefts) - LEFT_SHOWN_MAX} more")
    bare = sorted(
        {
            one.user or "(no user)"
            for one, e in zip(inventory.found, entries, strict=True)
            if _is_bare(e)
        }
    )
    if bare:
        users = plain(", ".join(bare[:10]))
        tell(
            f"no credential for the login users {users}: "
            "use --credential, --credential-of USER=NAME or --with-keys"
        )
    outcomes: dict[str, int] = {}
    for item in items:
        outcomes[item["outcome"]] = outcomes.get(item["outcome"], 0) + 1
    if not inventory.found and not skipped:
        tell("no hosts found. If the file has some, set its format with --from.")
    would = "dry run: " if dry_run else ""
    tell(f"{would}{render_counts(outcomes)}; {pluralize(len(skipped), 'host')} skipped")


def _is_bare(entry: Mapping[str, Any]) -> bool:
    return not entry.get("credential") and entry.get("transport") != "local"


def _render_skipped(left: Skipped) -> str:
    return f"{plain(left.what)}: {plain(left.reason)}"
