"""The actions of a job as a graph: the rules for it, and one target's walk through it.

Keys are unique, dependencies have no cycle, and rollbacks exist. The walk decides which actions may
start now, and the outcome of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from opsjobs.model.action_base import ActionDraft, FrozenAction
from opsjobs.model.execution import RunStatus
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


@dataclass(frozen=True, slots=True)
class WorkflowStep:
    """One action's place in the graph."""

    key: str
    position: int
    after: frozenset[str]
    """The actions that must have ended before it starts."""
    needs: frozenset[str]
    """Those of `after` that must not have failed."""
    on_failure: str
    rollback: str | None
    barrier: bool


class Workflow:
    """The graph of a job's actions, built once per execution and walked by each of its runs.

    It was checked at launch. An action without `depends_on` follows the previous one; rollbacks are
    outside of the order. `linear`: no two of its actions ever run at the same time."""

    def __init__(self, actions: Sequence[FrozenAction]) -> None:
        self.undoing = frozenset(
            action.rollback for action in actions if action.rollback is not None
        )
        self.steps: dict[str, WorkflowStep] = {}
        before: str | None = None
        self.linear = True
        for position, action in enumerate(actions):
            step = self._step(position, action, before)
            self.steps[step.key] = step
            if step.key not in self.undoing:
                self.linear = self.linear and step.after == _only(before)
                before = step.key

    def before(self, key: str) -> frozenset[str]:
        """Return all actions that have ended before it starts, at any distance.

        For a rollback these are all actions."""
        if key in self.undoing:
            return frozenset(self.steps)
        found: set[str] = set()
        left = {*self.steps[key].after}
        while left:
            found.add(one := left.pop())
            left |= self.steps[one].after - found
        return frozenset(found)

    def _step(self, position: int, action: FrozenAction, before: str | None) -> WorkflowStep:
        key, named = action.key, action.depends_on
        if key in self.undoing:
            named, before = None, None
        after = _only(before) if named is None else frozenset(named)
        return WorkflowStep(
            key=key,
            position=position,
            after=after,
            needs=after if named is not None else frozenset(),
            on_failure=action.on_failure,
            rollback=action.rollback,
            barrier=action.scope == "barrier",
        )


def _only(key: str | None) -> frozenset[str]:
    return frozenset(() if key is None else (key,))


class _Fate(Enum):
    """The state of an action without an outcome."""

    BEGUN = auto()
    PASSED_BY = auto()
    """Skipped by its condition: actions that depend on it run."""
    LEFT_OUT = auto()
    """An action that it needs has failed: actions that need it do not run either."""
    CUT_OFF = auto()
    """It follows, at any distance, a failure with skip_remaining."""


_Mark = _Fate | RunStatus
_OVER = frozenset({_Fate.PASSED_BY, _Fate.LEFT_OUT, _Fate.CUT_OFF})
# Failures that `on_failure` can handle; every other error stops the run.
_FAILURES = frozenset({RunStatus.FAILED, RunStatus.TIMEOUT})
# No rollback runs after these: the run was cancelled, or a command may still be running.
_NOT_UNDONE = frozenset({RunStatus.CANCELLED, RunStatus.LOST, RunStatus.DEAD})


def _always(_: str) -> bool:
    return True


class WorkflowWalk:
    """One run's walk through a workflow.

    `when`: evaluates an action's condition, once everything before the action has ended."""

    def __init__(self, workflow: Workflow, when: Callable[[str], bool] = _always) -> None:
        self._workflow = workflow
        self._when = when
        self._marks: dict[str, _Mark] = {}
        self._undo: list[str] = []
        self._stopped = False
        self._running = 0

    def ready(self) -> list[str]:
        """Return the actions that may start now, in the order of the list.

        This also marks actions as skipped by a condition or a failure."""
        if self._stopped:
            return self._to_undo()
        found: list[str] = []
        again = True
        while again:
            again = False
            for step in self._workflow.steps.values():
                if (
                    step.key in self._marks
                    or step.key in self._workflow.undoing
                    or step.key in found
                ):
                    continue
                if all(self._over(key) for key in step.after):
                    fate = self._fate(step)
                    if fate is None:
                        found.append(step.key)
                    else:
                        self._marks[step.key], again = fate, True
        return found

    def _to_undo(self) -> list[str]:
        if self._running or any(mark in _NOT_UNDONE for mark in self._marks.values()):
            return []
        return next(([key] for key in self._undo if key not in self._marks), [])

    def _fate(self, step: WorkflowStep) -> _Fate | None:
        if any(self._cuts_off(key) for key in step.after):
            return _Fate.CUT_OFF
        if any(self._failed(key) or self._marks[key] is _Fate.LEFT_OUT for key in step.needs):
            return _Fate.LEFT_OUT
        return None if self._when(step.key) else _Fate.PASSED_BY

    def _cuts_off(self, key: str) -> bool:
        failed_so = self._failed(key) and self._workflow.steps[key].on_failure == "skip_remaining"
        return failed_so or self._marks[key] is _Fate.CUT_OFF

    def _over(self, key: str) -> bool:
        mark = self._marks.get(key)
        return mark in _OVER or isinstance(mark, RunStatus)

    def _failed(self, key: str) -> bool:
        mark = self._marks.get(key)
        return isinstance(mark, RunStatus) and mark not in (RunStatus.SUCCEEDED, RunStatus.SKIPPED)

    @property
    def stopped(self) -> bool:
        """True if a failure has ended the run: only rollbacks may still start."""
        return self._stopped

    def begin(self, key: str) -> None:
        """Mark an action as started, even if it only waits."""
        assert key not in self._marks, "an action begins once"
        self._marks[key] = _Fate.BEGUN
        self._running += 1

    def record(self, key: str, end: RunStatus) -> None:
        """Record how an action ended; `skipped`: by its condition."""
        if self._marks.get(key) is _Fate.BEGUN:
            self._running -= 1
        self._marks[key] = _Fate.PASSED_BY if end is RunStatus.SKIPPED else end
        if not self._failed(key) or key in self._workflow.undoing:
            return
        step = self._workflow.steps[key]
        if end not in _FAILURES or step.on_failure in ("stop", "rollback"):
            self._stopped = True
        if end in _FAILURES and step.rollback is not None and step.rollback not in self._undo:
            self._undo.append(step.rollback)

    def outcome(self) -> str | None:
        """Return the action whose end decides the run; None while anything may run or start.

        An end other than by exit status takes precedence; else the first failure; else the last
        action."""
        if self._running or self.ready():
            return None
        ended = [
            key
            for key in self._workflow.steps
            if self._over(key) and key not in self._workflow.undoing
        ]
        bad = [key for key in ended if self._failed(key)]
        unlike = [key for key in bad if self._marks[key] is not RunStatus.FAILED]
        good = [key for key in ended if self._marks[key] is RunStatus.SUCCEEDED]
        return (unlike or bad or good[-1:] or ended)[0]

    def skipped(self) -> list[str]:
        """Return the actions skipped so far by a condition or a failure, in list order."""
        return [key for key in self._workflow.steps if self._marks.get(key) in _OVER]
