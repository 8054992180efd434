"""What somebody with a scope may write of a target: it lies in his scope before and after, and brings nobody else's along."""

from __future__ import annotations

from collections.abc import Mapping

from opsjobs.model.bounds import Bounds
from opsjobs.model.failures import FieldError, Forbidden
from opsjobs.model.target import Target, TargetDraft
from opsjobs.store import selecting
from opsjobs.store.transaction import Connection


async def check_target(connection: Connection, draft: TargetDraft, bounds: Bounds, old: Target | None = None) -> None:
    """Raises Forbidden, or Invalid for a jump host that he does not see; `old`: as it stands, None of a new one.

    Groups and labels are what others' jobs are for: who is in which group, and what else a machine is labelled, is not for him to
    say. A jump host lends its credential to the way through it.
    """
    if bounds.act.everywhere:
        return
    if old is not None:
        bounds.check_labels(old.labels, f"The target {old.name!r}")
    bounds.check_labels(draft.labels, f"A target with the labels of {draft.name!r}")
    bounds.check_relabelled(draft.labels, old.labels if old is not None else None, draft.name)
    if set(draft.groups) != set(old.groups if old is not None else ()):
        detail = (
            f"Who is in which group is said by those who hold {bounds.permission} for all targets: leave `groups` as they are."
        )
        raise Forbidden("out_of_reach", detail, errors=[FieldError("/groups", detail, "out_of_reach")])
    if draft.jump is not None:
        await _check_jump(connection, draft.jump, bounds, old.jump if old is not None else None)


async def _check_jump(connection: Connection, jump: str, bounds: Bounds, old: str | None) -> None:
    """`old`: the id of the jump host that it has; it may stay, wherever it lies."""
    if (found := (await selecting.listed(connection, [jump])).get(0)) is None or str(found) == old:
        return  # what is not there is told of by whoever writes it
    row = await (await connection.execute("select labels from targets where id = %s", [found])).fetchone()
    labels: Mapping[str, str] = row["labels"] if row is not None else {}
    if not bounds.sight.holds(labels):
        raise selecting.nothing_named("target", "jump", jump)
    bounds.check_labels(labels, f"The jump host {jump!r}")
