"""Jobs: drafts from callers, stored versions, and the older notation of both.

Also the differences of two definitions, a definition without its defaults, and the line that
describes an ad-hoc execution: without it all of them look alike in lists."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.action import Action, CommandAction, JobType, ScriptAction
from opsjobs.model.action_base import ActionDraft, BecomeDraft, RunningAction
from opsjobs.model.api_model import ApiModel, Overriding, snake_case, stored
from opsjobs.model.errors import Invalid
from opsjobs.model.naming import Title
from opsjobs.model.parameter import PARAMETERS_MAX, ParameterDraft, check_declared, undeclared
from opsjobs.model.policy import Policy
from opsjobs.model.program import durability
from opsjobs.model.rendering import check_rendering
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.validation_errors import fault
from opsjobs.model.workflow import check_structure


class JobState(StrEnum):
    """The state in a job's life cycle."""

    DRAFT = "draft"
    ACTIVE = "active"
    PAUSED = "paused"
    ARCHIVED = "archived"


class _Work(ApiModel):
    """The common fields of jobs and ad-hoc runs: actions on targets under a policy."""

    actions: list[Action] = Field(min_length=1, max_length=1_000)
    targets: SelectionDraft = Field(default_factory=SelectionDraft)
    policy: Policy = Field(default_factory=Policy)

    @model_validator(mode="before")
    @classmethod
    def _older_shape(cls, body: Any) -> Any:
        return modernised(body) if isinstance(body, dict) else body

    @model_validator(mode="after")
    def _keys(self, info: ValidationInfo) -> _Work:
        named = [
            a.model_copy(update={"key": a.key or f"step-{i}"})
            for i, a in enumerate(self.actions, start=1)
        ]
        if not stored(info):
            check_structure(named)
        # The model is frozen for others; this is still its construction.
        object.__setattr__(self, "actions", named)
        return self

    @model_validator(mode="after")
    def _become_is_durable(self) -> _Work:
        for position, action in enumerate(self.actions):
            if not isinstance(action, RunningAction) or action.become is None:
                continue
            if durability(action.durable, self.policy.durable) == "off":
                words = (
                    "has become, which needs a durable run, but durable is off: leave one of the "
                    "two out"
                )
                raise fault(
                    "become_needs_durable",
                    f"the action {action.key!r} {words}",
                    "actions",
                    position,
                    "become",
                )
        return self


class RunDraft(Overriding, _Work):
    """Body of POST /run: an execution without a stored job.

    `parameters` are values; giving one declares it."""

    parameters: dict[str, Any] = Field(default_factory=dict, max_length=PARAMETERS_MAX)
    dry_run: bool = False

    @model_validator(mode="after")
    def _values_have_their_places(self) -> RunDraft:
        try:
            declared = undeclared(self.parameters)
        except Invalid:
            return self  # reported at launch, with a pointer to each
        check_rendering(
            self.actions, declared, self.policy.gate.check if self.policy.gate else None
        )
        return self


class JobDraft(_Work):
    """Body of POST and PUT /jobs. `parameters` declares what an execution may be given."""

    name: Title = Field(min_length=1, max_length=200, pattern=text_patterns.TITLE)
    description: str = Field(default="", max_length=10_000)
    job_type: JobType | None = None
    state: Literal["draft", "active"] = "active"
    tags: list[Annotated[Title, Field(min_length=1, max_length=64)]] = Field(
        default_factory=list, max_length=64
    )
    parameters: list[ParameterDraft] = Field(default_factory=list, max_length=PARAMETERS_MAX)

    @model_validator(mode="after")
    def _parameters_have_their_places(self, info: ValidationInfo) -> JobDraft:
        if not stored(info):
            check_declared(self.parameters)
            check_rendering(
                self.actions, self.parameters, self.policy.gate.check if self.policy.gate else None
            )
        return self

    @model_validator(mode="after")
    def _type_is_what_the_actions_are(self) -> JobDraft:
        actual = JobType.of_actions([action.type for action in self.actions])
        if self.job_type is None:
            # As above: a default that needs the other fields.
            object.__setattr__(self, "job_type", actual)
        elif self.job_type not in (actual, JobType.COMPOSITE):
            raise ValueError(
                f"job_type is {self.job_type.value}, but the actions make it {actual.value}"
            )
        return self


class JobBody(Overriding, JobDraft):
    """Body of POST and PUT /jobs: the job, and a possible override of the safety check."""

    @property
    def draft(self) -> JobDraft:
        """The job alone."""
        return JobDraft.model_construct(
            **{name: getattr(self, name) for name in JobDraft.model_fields}
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A stored version of a job.

    `definition` is the caller's body, with keys and defaults filled in."""

    id: int
    uuid: str
    version: int
    state: JobState
    definition: JobDraft


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """The input of `engine.launch`: a job version or ad-hoc work (job None), and its targets."""

    actions: Sequence[Action]
    targets: SelectionDraft
    policy: Policy
    job_name: str
    job_id: int | None = None
    job_version: int | None = None
    narrowed_to: SelectionDraft | None = None
    reason: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The values of the `declared` ones; if nothing is declared, the values as they are."""
    declared: Sequence[ParameterDraft] | None = None
    """The declarations; None: nothing is declared."""
    bounds: Bounds = NO_BOUNDS
    """The bounds of the caller."""
    override: str | None = None
    """The reason for overriding the safety check and approvals.

    The caller then holds safety:override.
    """
    tags: Sequence[str] = ()
    """The tags of the job."""
    summary: str | None = None
    """The line that describes ad-hoc work; None for a job, which has a name."""
    pins: Mapping[str, bytes] | None = None
    """Fingerprints of the hosts that were approved with the parent execution, by target id.

    See model/target_fingerprint. None: there was no such approval.
    """


__all__ = [
    "Action", "BecomeDraft", "CommandAction", "Job", "JobBody", "JobDraft", "JobState", "JobType",
    "LaunchOrder", "Policy", "RunDraft", "modernised",
]  # fmt: skip

_OLD_JOB = frozenset({"target_ids", "timeout_seconds", "max_retries"})
_OLD_ACTION = {"action_type": "type", "action_name": "key", "timeout_seconds": "timeout"}
_OLD_WORDS = frozenset({*_OLD_ACTION, "action_order", "action_parameters", "max_retries"})


def modernised(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job body converted from the older notation.

    It had action_type, action_order, action_parameters, target_ids, timeout_seconds and priority.
    Values are moved, not validated: validation follows."""
    new = _respelt(body, _OLD_JOB)
    if "target_ids" in new:
        if "targets" in new:
            raise ValueError("target_ids and targets say the same: write only targets")
        new["targets"] = {"ids": new.pop("target_ids")}
    if isinstance(policy := new.get("policy") or {}, dict):
        policy = _with_older_words(new, dict(policy))
        if policy:
            new["policy"] = policy
    if isinstance(new.get("actions"), list):
        actions = [_modern_action(a) for a in new["actions"]]
        if all(isinstance(a, dict) and isinstance(a.get("action_order"), int) for a in actions):
            actions.sort(key=lambda a: a["action_order"])
        new["actions"] = [
            {k: v for k, v in a.items() if k != "action_order"} if isinstance(a, dict) else a
            for a in actions
        ]
    return new


def _with_older_words(body: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    """Move timeout_seconds, priority and max_retries from the body to the policy.

    The current names take precedence."""
    for old, name in (("timeout_seconds", "timeout"), ("priority", "priority")):
        if old in body:
            policy.setdefault(name, body.pop(old))
    return _with_retries(body, policy)


def _with_retries(body: dict[str, Any], to: dict[str, Any]) -> dict[str, Any]:
    """Move `max_retries: n` from the body to `retry.max_attempts: n + 1`."""
    if "max_retries" in body:
        retries, retry = body.pop("max_retries"), to.get("retry") or {}
        more = (
            retries + 1 if isinstance(retries, int) and not isinstance(retries, bool) else retries
        )
        to["retry"] = {"max_attempts": more, **retry} if isinstance(retry, dict) else retry
    return to


def _respelt(body: Mapping[str, Any], old: Collection[str]) -> dict[str, Any]:
    """Return the body with the older names in snake_case; the models convert the current ones."""
    new: dict[str, Any] = {}
    for key, value in body.items():
        snake = snake_case(key) if isinstance(key, str) else key
        new[snake if snake in old and snake not in body else key] = value
    return new


def _modern_action(action: Any) -> Any:
    if not isinstance(action, dict) or "action_type" not in (
        action := _respelt(action, _OLD_WORDS)
    ):
        return action
    new = dict(action)
    parameters = new.pop("action_parameters", {})
    for old, name in _OLD_ACTION.items():
        if old in new:
            new.setdefault(name, new.pop(old))
    new = {**parameters, **new} if isinstance(parameters, dict) else new
    return _with_retries(new, new)


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Return JSON Pointers to the differences; of a list whose length changed, only the list.

    >>> differences({"a": [1, 2], "b": 3}, {"a": [1, 5], "c": 3})
    ['/a/1', '/b', '/c']"""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new})
            for found in _differences_at(old, new, key, f"{at}/{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [
            found for position, (a, b) in pairs for found in differences(a, b, f"{at}/{position}")
        ]
    return [] if old == new else [at or "/"]


def _differences_at(old: dict[str, Any], new: dict[str, Any], key: str, at: str) -> list[str]:
    return differences(old[key], new[key], at) if key in old and key in new else [at]


def export_definition(draft: JobDraft) -> dict[str, Any]:
    """Return the body of POST /jobs that creates this job, without defaults.

    It is meant to be kept in a file."""
    body = draft.model_dump(mode="json", exclude_defaults=True)
    body["actions"] = [_action(draft, position) for position in range(len(draft.actions))]
    kept = {
        key: value for key, value in body.items() if value not in ({}, []) and key != "job_type"
    }
    # The type follows from the actions, unless the caller chose another one.
    same = JobDraft.model_validate(kept, context={"stored": True}).job_type is draft.job_type
    return kept if same else {**kept, "job_type": body["job_type"]}


def _action(draft: JobDraft, position: int) -> dict[str, Any]:
    action = draft.actions[position]
    shown = action.model_dump(mode="json", exclude_defaults=True)
    named = {} if action.key == f"step-{position + 1}" else {"key": action.key}
    return {
        **named,
        "type": action.type,
        **{name: value for name, value in shown.items() if name not in ("key", "type")},
    }


SUMMARY_MAX = 120


def summarize(actions: Sequence[ActionDraft]) -> str:
    """Return the first line of the first action, and how many actions follow it.

    At most SUMMARY_MAX characters. Parameters are shown by name, as they are written, so it has no
    value of a secret.
    """
    line = " ".join(_first_line(actions[0]).split())
    rest = _render_rest(len(actions) - 1)
    room = SUMMARY_MAX - len(rest)
    return (line if len(line) <= room else f"{line[: room - 1]}…") + rest


def _render_rest(more: int) -> str:
    if more == 0:
        return ""
    return f" (+{more} {'action' if more == 1 else 'actions'})"


def _first_line(action: ActionDraft) -> str:
    if isinstance(action, ScriptAction):
        return f"{action.interpreter}: {_first_statement(action)}"
    lines = action.summary().splitlines()
    return next((line for line in lines if line.strip()), "")


def _first_statement(script: ScriptAction) -> str:
    """Return the first line that is neither empty, a comment, nor an option of the shell."""
    for line in _decode(script.body).splitlines():
        if (text := line.strip()) and not text.startswith(("#", "set -")):
            return text
    return f"a script of {len(script.body)} bytes"


def _decode(body: bytes) -> str:
    """Return the text of a script; "" if it has NUL, which the database cannot store.

    A byte order mark tells UTF-16, in which PowerShell scripts may be written.
    """
    is_utf16 = body.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    text = body.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
    return "" if "\0" in text else text
