"""The rules for a job's actions: unique keys, no dependency cycle, existing rollbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opsjobs.model.action_base import ActionDraft
from opsjobs.model.validation_errors import fault

Dependencies = Mapping[str, tuple[str, ...]]
"""Key -> the keys that precede it, from `depends_on` or the order of the list."""


def rollbacks(actions: Sequence[ActionDraft]) -> frozenset[str]:
    """Return the keys of the actions that run only after another one has failed."""
    return frozenset(action.rollback for action in actions if action.rollback is not None)


def dependencies(actions: Sequence[ActionDraft]) -> Dependencies:
    """Return the actions that each action waits for.

    One without `depends_on` follows the previous one that is not a rollback."""
    apart, before = rollbacks(actions), ""
    found: dict[str, tuple[str, ...]] = {}
    for action in actions:
        key = action.key or ""
        if key in apart:
            found[key] = ()
            continue
        if action.depends_on is not None:
            found[key] = tuple(action.depends_on)
        else:
            found[key] = (before,) if before else ()
        before = key
    return found


def check_structure(actions: Sequence[ActionDraft]) -> None:
    """Raise a fault with the path of an invalid reference. Every action must have its key."""
    _check_keys(actions)
    _check_rollbacks(actions)
    _check_references(actions)
    if circle := _circle(dependencies(actions)):
        position = next(i for i, action in enumerate(actions) if action.key == circle[0])
        words = f"{' waits for '.join([*circle, circle[0]])}: none of them could ever start"
        raise fault("cycle", words, "actions", position, "depends_on")


def ancestors(dependencies: Dependencies) -> Mapping[str, frozenset[str]]:
    """Return all actions that have certainly ended before each one starts.

    There must be no cycle."""
    found: dict[str, frozenset[str]] = {}
    for key in _sorted(dependencies):
        near = dependencies[key]
        found[key] = frozenset(near).union(*(found[k] for k in near))
    return found


def before_each(actions: Sequence[ActionDraft]) -> Mapping[str, frozenset[str]]:
    """Return the actions that have certainly ended before each one, so that it may name them.

    Before a rollback these are the action that it undoes, and all before that one."""
    found = dict(ancestors(dependencies(actions)))
    for undo in rollbacks(actions):
        owners = [str(action.key) for action in actions if action.rollback == undo]
        found[undo] = frozenset.intersection(*(found[owner] | {owner} for owner in owners))
    return found


def _check_keys(actions: Sequence[ActionDraft]) -> None:
    seen: set[str | None] = set()
    for position, action in enumerate(actions):
        if action.key in seen:
            raise fault(
                "duplicate_key",
                f"two actions have the key {action.key!r}",
                "actions",
                position,
                "key",
            )
        seen.add(action.key)


def _check_rollbacks(actions: Sequence[ActionDraft]) -> None:
    named, apart = {action.key: action for action in actions}, rollbacks(actions)
    for position, action in enumerate(actions):
        at = ("actions", position)
        if (action.on_failure == "rollback") != (action.rollback is not None):
            words = (
                "on_failure: rollback and rollback (the key of the action that undoes it) go "
                "together"
            )
            raise fault(
                "rollback", words, *at, "rollback" if action.rollback is not None else "on_failure"
            )
        if action.rollback is not None and action.rollback not in named:
            raise fault(
                "unknown_action", f"there is no action {action.rollback!r}", *at, "rollback"
            )
        if action.key in apart and action.rollback is not None:
            words = f"{action.key!r} is itself a rollback: it cannot have one of its own"
            raise fault("rollback", words, *at, "rollback")
        for field in ("depends_on", "when"):
            if action.key in apart and getattr(action, field) is not None:
                words = (
                    f"{action.key!r} is a rollback: it runs if another action fails, and has no "
                    f"{field}"
                )
                raise fault("rollback", words, *at, field)


def _check_references(actions: Sequence[ActionDraft]) -> None:
    named, apart = {action.key for action in actions}, rollbacks(actions)
    for position, action in enumerate(actions):
        for place, key in enumerate(action.depends_on or ()):
            at = ("actions", position, "depends_on", place)
            if key not in named:
                raise fault("unknown_action", f"there is no action {key!r}", *at)
            if key in apart:
                raise fault("rollback", f"{key!r} is a rollback: nothing comes after it", *at)


def _sorted(dependencies: Dependencies) -> list[str]:
    """Return the keys in topological order, without cycles and the keys that depend on them."""
    open_ = {key: len(set(before)) for key, before in dependencies.items()}
    after: dict[str, list[str]] = {key: [] for key in dependencies}
    for key, before in dependencies.items():
        for one in set(before):
            after[one].append(key)
    order = [key for key, count in open_.items() if count == 0]
    for key in order:  # grows during the iteration
        for one in after[key]:
            open_[one] -= 1
            if open_[one] == 0:
                order.append(one)
    return order


def _circle(dependencies: Dependencies) -> list[str]:
    """Return the keys of one cycle, each waiting for the next; empty if there is none."""
    left = set(dependencies) - set(_sorted(dependencies))
    if not left:
        return []
    path: list[str] = []
    key = min(left)
    while key not in path:
        path.append(key)
        key = next(one for one in dependencies[key] if one in left)
    return path[path.index(key) :]
