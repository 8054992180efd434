"""Preview a selection: the targets that a launch would take, and the reasons to refuse it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from opsjobs.engine.launching.launch import Launcher
from opsjobs.integrations.targets import Targets
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.errors import FieldError, Forbidden, Invalid
from opsjobs.model.job import LaunchOrder
from opsjobs.model.policy import Policy
from opsjobs.model.selection import LabelCount, SelectionDraft, count_labels
from opsjobs.model.target import Target


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
