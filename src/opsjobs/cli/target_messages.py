"""Messages on changes of targets, and warnings after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opsjobs.cli.client import Client, Json, RequestRefused
from opsjobs.cli.render import plain, tell

_LABEL = "labels."
_TWINS_SHOWN_MAX = 10


def changes_in_words(changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the changes of a target in words.

    For example `port 22 -> 2222, label env prod -> dev, +label team=a, -label rack`.
    """
    return ", ".join(
        _change(name, change.get("from"), change.get("to")) for name, change in changes.items()
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


def _change(name: str, old: object, new: object) -> str:
    if name.startswith(_LABEL):
        key = name.removeprefix(_LABEL)
        if old is None:
            return f"+label {key}={new}"
        return f"-label {key}" if new is None else f"label {key} {old} -> {new}"
    if isinstance(old, list) or isinstance(new, list):
        before, after = (
            list(old or ()) if isinstance(old, list) else [],
            list(new or ()) if isinstance(new, list) else [],
        )
        moved = [
            *(f"+{one}" for one in after if one not in before),
            *(f"-{one}" for one in before if one not in after),
        ]
        return f"{name} {' '.join(map(str, moved)) or 'in another order'}"
    return f"{name} {_or_none(old)} -> {_or_none(new)}"


def _or_none(value: object) -> object:
    return "none" if value is None else value
