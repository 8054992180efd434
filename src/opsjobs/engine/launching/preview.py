"""Preview: what a launch would do, without doing any of it: nothing is written, no machine is asked."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from opsjobs.engine.launching.launch import Launcher
from opsjobs.model.errors import Invalid
from opsjobs.model.job import LaunchOrder
from opsjobs.model.plan import Plan
from opsjobs.model.quoting import Unquotable
from opsjobs.model.rendering import Rendering
from opsjobs.model.secret import is_secret
from opsjobs.model.target import Target
from opsjobs.model.template import TemplateFault, TemplateNames, text_lookup
from opsjobs.store.launch_history import LaunchHistory, load_launch_history
from opsjobs.store.transaction import Database

COMMANDS_MAX = 2_000
"""Of a preview: the first targets' with all of their actions."""

_LATER = ("actions.", "execution.", "run.")


async def preview(launcher: Launcher, database: Database, order: LaunchOrder) -> dict[str, Any]:
    """The body of an answer: targets, waves, commands, changes since the last execution, an estimate. Refuses what a launch would."""
    order = await launcher.with_values(order)
    targets = await launcher.selected(order)
    planned = launcher.planned(order, targets)
    actions = await launcher.frozen(order, targets)
    await launcher.secrets.check(order, targets)
    judged = await launcher.judged(actions, order, planned.targets)
    said = judged.judgement.data() if judged is not None else {"verdict": None, "findings": []}
    before = (
        await load_launch_history(database, order.job_id)
        if order.job_id is not None
        else LaunchHistory()
    )
    shown = list(islice(_commands(order, planned.targets, actions), COMMANDS_MAX))
    return {
        "targets": [
            {"id": target.id, "name": target.name, "host": target.host}
            for target in planned.targets
        ],
        "waves": _waves(planned),
        "commands": shown,
        "commands_total": _total(actions, planned.targets),
        "parameters": {
            name: "***" if is_secret(value) else value for name, value in order.parameters.items()
        },
        **said,
        "changes": _changes(before, planned.targets),
        "estimate": _estimate(before, planned),
    }


def _waves(planned: Plan) -> list[list[str]]:
    starts = [0, *planned.waves]
    return [
        [t.name for t in planned.targets[a:b]] for a, b in zip(starts, planned.waves, strict=False)
    ]


def _changes(before: LaunchHistory, targets: Sequence[Target]) -> dict[str, Any]:
    now = {target.id: target.name for target in targets}
    if before.execution is None:
        return {"since": None, "added": list(now.values()), "removed": []}
    return {
        "since": before.execution,
        "added": [name for key, name in now.items() if key not in before.targets],
        "removed": [name for key, name in before.targets.items() if key not in now],
    }


def _estimate(before: LaunchHistory, planned: Plan) -> dict[str, Any]:
    """How long it will take, if each target takes what it took: as many rounds as the window makes of each wave."""
    if before.seconds is None:
        return {"seconds": None, "executions": before.executions}
    sizes = [b - a for a, b in zip([0, *planned.waves], planned.waves, strict=False)]
    rounds = sum(-(-size // planned.window) for size in sizes)
    return {"seconds": round(before.seconds * rounds, 1), "executions": before.executions}


def _commands(
    order: LaunchOrder, targets: Sequence[Target], actions: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    secrets = frozenset(name for name, value in order.parameters.items() if is_secret(value))
    names = TemplateNames(
        frozenset(order.parameters), secrets, frozenset(str(action["key"]) for action in actions)
    )
    renderings = [(action, _only(action), Rendering(action, names)) for action in actions]
    for target in targets:
        values = _values(order, target)
        for action, only, rendering in renderings:
            if only is not None and target.id not in only:
                continue
            try:
                rendered = rendering.render(
                    values, target.capabilities.quoting, value=_value(values)
                )
            except (TemplateFault, Unquotable) as wrong:
                raise Invalid(
                    "quoted_parameter", f"{action['key']} on {target.name}: {wrong}."
                ) from None
            yield {"target": target.name, "action": action["key"], "command": in_words(rendered)}


def _only(action: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the ids of the targets that the action is for; None: of all."""
    return None if action.get("target_ids") is None else frozenset(action["target_ids"])


def _total(actions: Sequence[Mapping[str, Any]], targets: Sequence[Target]) -> int:
    every = frozenset(target.id for target in targets)
    return sum(
        len(every if (only := _only(action)) is None else every & only) for action in actions
    )


def _values(order: LaunchOrder, target: Target) -> dict[str, Any]:
    of_target = {
        "name": target.name,
        "host": target.host,
        "platform": target.platform,
        "labels": dict(target.labels),
    }
    return {
        "parameters": dict(order.parameters),
        "target": of_target,
        "job": {"name": order.job_name},
    }


def _value(values: Mapping[str, Any]) -> Callable[[str], str | None]:
    """What is known before a launch; what only a run will know stays as it is written."""
    known = text_lookup(values)
    return lambda name: f"${{{name}}}" if name.startswith(_LATER) else known(name)


def in_words(action: Mapping[str, Any]) -> str:
    """A rendered action as one line or more for people."""
    match action["type"]:
        case "command":
            return str(action["command"])
        case "script":
            body = (
                action["script"].encode()
                if action["script"] is not None
                else base64.b64decode(action["script_base64"])
            )
            return " ".join(
                [
                    action["interpreter"],
                    f"<a script of {len(body)} bytes>",
                    *map(shlex.quote, action["args"]),
                ]
            )
        case "file_transfer":
            return f"{action['direction']} {action['source']} to {action['destination'] or 'the artifacts'}"
        case "wait":
            return f"wait {action['duration']}"
        case "approval":
            return f"wait for an approval: {action['message']}"
        case _:
            given = {name: "***" if is_secret(v) else v for name, v in action["parameters"].items()}
            return f"run the job {action['job']} with {json.dumps(given)}"
