"""Preview a launch, or a selection: nothing is written, and no machine is contacted.

Of a selection these are the targets that a launch would take, and the reasons to refuse it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from opsjobs.engine.launching.launch import Launcher
from opsjobs.integrations.targets import Targets
from opsjobs.model.access import Reach
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.action import parse_frozen
from opsjobs.model.action_base import FrozenAction
from opsjobs.model.errors import FieldError, Forbidden, Invalid
from opsjobs.model.job import LaunchOrder
from opsjobs.model.policy import Plan, Policy
from opsjobs.model.quoting import Unquotable
from opsjobs.model.rendering import Rendering
from opsjobs.model.secret import is_secret
from opsjobs.model.selection import LabelCount, SelectionDraft, count_labels
from opsjobs.model.target import Target
from opsjobs.model.template import TemplateFault, TemplateNames, text_lookup
from opsjobs.store.launch_history import LaunchHistory, load_launch_history
from opsjobs.store.transaction import Database

COMMANDS_MAX = 2_000
"""Maximum number of commands in a preview: all actions on the first targets."""

_KNOWN_LATER = ("actions.", "execution.", "run.")
"""Prefixes of names whose values exist only in a run."""


async def preview(
    launcher: Launcher, database: Database, order: LaunchOrder, reach: Reach
) -> dict[str, Any]:
    """Return the body of the response. Raises the exceptions of a launch.

    It has the targets, the waves, the commands, the changes since the last execution and an
    estimate of the duration. `seen`: the executions that the caller may see; others are neither
    compared with nor estimated from.
    """
    order = await launcher.bind_parameters(order)
    targets = await launcher.select_targets(order)
    planned = launcher.plan_runs(order, targets)
    stored = await launcher.freeze_actions(order, targets)
    actions = [parse_frozen(action) for action in stored]
    await launcher.job_secrets.check(order, targets)
    safety = await launcher.check_safety(stored, order, planned.targets)
    history = LaunchHistory()
    if order.job_id is not None:
        history = await load_launch_history(database, order.job_id, reach)
    now = {target.id for target in planned.targets}
    gone = await launcher.find_visible(order, [key for key in history.targets if key not in now])
    commands = list(islice(_render_commands(order, planned.targets, actions), COMMANDS_MAX))
    return {
        "targets": [
            {"id": target.id, "name": target.name, "host": target.host}
            for target in planned.targets
        ],
        "waves": _waves(planned),
        "commands": commands,
        "commands_total": _count_commands(actions, planned.targets),
        "parameters": {
            name: "***" if is_secret(value) else value for name, value in order.parameters.items()
        },
        **(safety.judgement.data() if safety is not None else {"verdict": None, "findings": []}),
        "changes": _changes(history, planned.targets, gone),
        "estimate": _estimate(history, planned),
    }


def _waves(planned: Plan) -> list[list[str]]:
    starts = [0, *planned.waves]
    return [
        [target.name for target in planned.targets[start:end]]
        for start, end in zip(starts, planned.waves, strict=False)
    ]


def _changes(
    history: LaunchHistory, targets: Sequence[Target], gone: Collection[str]
) -> dict[str, Any]:
    now = {target.id: target.name for target in targets}
    if history.execution is None:
        return {"since": None, "added": list(now.values()), "removed": []}
    return {
        "since": history.execution,
        "added": [name for key, name in now.items() if key not in history.targets],
        "removed": [name for key, name in history.targets.items() if key in gone],
    }


def _estimate(history: LaunchHistory, planned: Plan) -> dict[str, Any]:
    """Estimate the duration from the past duration of a run.

    Each wave takes as many rounds as it has windows of parallel runs.
    """
    if history.seconds is None:
        return {"seconds": None, "executions": history.executions}
    starts = [0, *planned.waves]
    sizes = [end - start for start, end in zip(starts, planned.waves, strict=False)]
    rounds = sum(-(-size // planned.window) for size in sizes)
    return {"seconds": round(history.seconds * rounds, 1), "executions": history.executions}


def _render_commands(
    order: LaunchOrder, targets: Sequence[Target], actions: Sequence[FrozenAction]
) -> Iterator[dict[str, Any]]:
    secrets = frozenset(name for name, value in order.parameters.items() if is_secret(value))
    names = TemplateNames(
        frozenset(order.parameters), secrets, frozenset(action.key for action in actions)
    )
    renderings = [(action, Rendering(action, names)) for action in actions]
    for target in targets:
        values = _values(order, target)
        for action, rendering in renderings:
            if action.target_ids is not None and target.id not in action.target_ids:
                continue
            try:
                rendered = rendering.render(
                    values, target.capabilities.quoting, value=_lookup(values)
                )
            except (TemplateFault, Unquotable) as wrong:
                raise Invalid(
                    "quoted_parameter", f"{action.key} on {target.name}: {wrong}."
                ) from None
            yield {"target": target.name, "action": action.key, "command": rendered.summary()}


def _count_commands(actions: Sequence[FrozenAction], targets: Sequence[Target]) -> int:
    every = frozenset(target.id for target in targets)
    chosen = [action.target_ids for action in actions]
    return sum(len(every if only is None else every & only) for only in chosen)


def _values(order: LaunchOrder, target: Target) -> dict[str, Any]:
    return {
        "parameters": dict(order.parameters),
        "target": {
            "name": target.name,
            "host": target.host,
            "platform": target.platform,
            "labels": dict(target.labels),
        },
        "job": {"name": order.job_name},
    }


def _lookup(values: Mapping[str, Any]) -> Callable[[str], str | None]:
    """Return a lookup of names; names whose values exist only in a run stay as written."""
    known = text_lookup(values)
    return lambda name: f"${{{name}}}" if name.startswith(_KNOWN_LATER) else known(name)


@dataclass(frozen=True, slots=True)
class SelectionPreview:
    """The outcome of a selection, limited to the targets that the caller may see."""

    targets: Sequence[Target]
    excluded: int
    """The number of selected targets that `exclude` takes out."""
    refusals: Sequence[FieldError]
    """The reasons why a launch on this selection would be refused."""

    @property
    def labels(self) -> list[LabelCount]:
        """The labels of the targets."""
        return count_labels(
            Counter((key, value) for target in self.targets for key, value in target.labels.items())
        )


async def preview_selection(
    launcher: Launcher, inventory: Targets, selection: SelectionDraft, bounds: Bounds
) -> SelectionPreview:
    """Return the targets of a selection within `bounds.sight`, even if entries are unknown.

    `bounds.act`: the targets that the caller may launch on. Each part of the selection is resolved
    as a launch does it, so an entry outside of `sight` is reported as one that does not exist.
    """
    refusals: list[FieldError] = []
    chosen: dict[str, Target] = {}
    for part in (
        SelectionDraft(ids=selection.ids),
        SelectionDraft(groups=selection.groups),
        SelectionDraft(selector=selection.selector),
    ):
        if not part.empty:
            found = await _resolve(inventory, part, bounds, refusals)
            chosen |= {target.id: target for target in found}
    spared: set[str] = set()
    if selection.exclude:
        spared = await _resolve_excluded(inventory, selection, bounds, refusals)
    kept = [target for target in chosen.values() if target.id not in spared]
    refusals += _find_refusals(launcher, selection, kept, bounds, refused=bool(refusals))
    return SelectionPreview(
        [target for target in kept if bounds.sight.holds(target.labels)],
        len(chosen) - len(kept),
        refusals,
    )


async def _resolve(
    inventory: Targets, part: SelectionDraft, bounds: Bounds, refusals: list[FieldError]
) -> list[Target]:
    """Return the targets of one part of a selection, and add its refusals to `refusals`.

    After unknown entries it is tried once more without them.
    """
    try:
        return await inventory.resolve(part, bounds.sight)
    except Forbidden as refused:
        refusals.append(FieldError("/targets", refused.detail, refused.code))
        return []
    except Invalid as refused:
        refusals += refused.errors
        unknown = {error.pointer for error in refused.errors}
    ids = [e for p, e in enumerate(part.ids) if f"/targets/ids/{p}" not in unknown]
    groups = [g for p, g in enumerate(part.groups) if f"/targets/groups/{p}" not in unknown]
    rest = part.model_copy(update={"ids": ids, "groups": groups})
    try:
        return await inventory.resolve(rest, bounds.sight) if rest != part else []
    except (Forbidden, Invalid):  # more entries are unknown than a refusal lists
        return []


async def _resolve_excluded(
    inventory: Targets, selection: SelectionDraft, bounds: Bounds, refusals: list[FieldError]
) -> set[str]:
    """Return the ids of the excluded targets, and add unknown entries to `refusals`."""
    await _resolve(inventory, SelectionDraft(exclude=selection.exclude), bounds, refusals)
    # As ids, so that the targets themselves are returned; the refusals are known already.
    found = await _resolve(inventory, SelectionDraft(ids=selection.exclude), bounds, [])
    return {target.id for target in found}


def _find_refusals(
    launcher: Launcher,
    selection: SelectionDraft,
    targets: Sequence[Target],
    bounds: Bounds,
    *,
    refused: bool,
) -> list[FieldError]:
    """Return why a launch on these targets would be refused; `refused`: something is unknown."""
    order = LaunchOrder((), selection, Policy(), "selection", bounds=bounds)
    try:
        bounds.check_targets(targets)
        if targets or not refused:
            launcher.plan_runs(order, targets)
    except (Forbidden, Invalid) as wrong:
        return [FieldError("/targets", wrong.detail, wrong.code)]
    return []
