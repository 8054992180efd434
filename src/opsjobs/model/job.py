"""Jobs: what a caller writes (drafts), what is stored (versions), and the seed's older spelling of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from opsjobs.model.durable import Durability, durability
from opsjobs.model.target import Name, SelectionDraft
from opsjobs.model.wire import Duration, Size, Wire


class JobType(StrEnum):
    """What a job mainly does; by default what its actions are."""

    COMMAND = "command"
    SCRIPT = "script"
    FILE_TRANSFER = "file_transfer"
    COMPOSITE = "composite"


class JobState(StrEnum):
    """Where a job is in its life."""

    DRAFT = "draft"
    ACTIVE = "active"
    PAUSED = "paused"
    ARCHIVED = "archived"


class BecomeDraft(Wire):
    """As whom a command runs: `user`, by way of sudo, su or doas; `credential` names the one whose password is asked for.

    doas takes passwords from a terminal alone, and there is none.
    """

    user: str = Field(default="root", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}$")
    method: Literal["sudo", "su", "doas"] = "sudo"
    credential: Name | None = None

    @model_validator(mode="after")
    def _doas_takes_no_password(self) -> BecomeDraft:
        if self.method == "doas" and self.credential is not None:
            raise ValueError(
                "doas asks for its password on a terminal, which no command has: permit it with nopass, or take sudo"
            )
        return self


class CommandAction(Wire):
    """Run one command line in the target's login shell.

    `timeout`: seconds the command may take (None: the service's COMMAND_TIMEOUT). `output_limit`: bytes of each
    stream that are kept (None: OPSJOBS_OUTPUT_LIMIT_BYTES). `on_failure: continue` goes on to the next action and the
    run still ends failed. `durable`: whether the command outlives its worker; what the policy and the target say counts, too.
    `become`: as whom it runs (None: as who logs in).
    """

    key: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    type: Literal["command"] = "command"
    command: str = Field(min_length=1, max_length=65_536)
    timeout: Duration | None = None
    output_limit: Size | None = None
    expected_exit_codes: list[Annotated[int, Field(ge=0, le=255)]] = Field(default=[0], min_length=1, max_length=256)
    on_failure: Literal["stop", "continue"] = "stop"
    durable: Durability = "auto"
    become: BecomeDraft | None = None


Action = CommandAction
"""Every kind of action; a union discriminated by `type` once there is a second kind."""


class Policy(Wire):
    """How an execution of the job goes: `timeout` bounds the whole execution, `max_parallel` the runs at a time.

    `priority` 10 is served before 1: an execution's share of a busy zone is proportional to it. `on_lost`: what is done with
    a run of whose command nobody can say how it ended: ask (it ends `lost`), retry (once it surely runs no more), bury (`dead`).
    """

    timeout: Duration | None = None
    max_parallel: int | None = Field(default=None, ge=1, le=10_000)
    order: Literal["inventory", "name", "reverse", "random"] = "inventory"
    priority: int = Field(default=5, ge=1, le=10)
    on_lost: Literal["ask", "retry", "bury"] = "ask"
    durable: Durability = "auto"


class _Work(Wire):
    """What jobs and ad-hoc runs share: actions on targets under a policy."""

    actions: list[Action] = Field(min_length=1, max_length=1_000)
    targets: SelectionDraft = Field(default_factory=SelectionDraft)
    policy: Policy = Field(default_factory=Policy)

    @model_validator(mode="before")
    @classmethod
    def _older_shape(cls, body: Any) -> Any:
        return modernised(body) if isinstance(body, dict) else body

    @model_validator(mode="after")
    def _keys(self) -> _Work:
        named = [a.model_copy(update={"key": a.key or f"step-{i}"}) for i, a in enumerate(self.actions, start=1)]
        keys = [a.key for a in named]
        if twice := {k for k in keys if keys.count(k) > 1}:
            raise ValueError(f"two actions have the key {min(map(str, twice))!r}")
        object.__setattr__(self, "actions", named)  # the model is frozen for others; this is still its construction
        return self

    @model_validator(mode="after")
    def _become_is_durable(self) -> _Work:
        for action in self.actions:
            if action.become is not None and durability(action.durable, self.policy.durable) == "off":
                words = "has become, which needs a durable run, but durable is off: leave one of the two out"
                raise ValueError(f"the action {action.key!r} {words}")
        return self


class RunDraft(_Work):
    """Body of POST /run: an execution without a stored job."""

    reason: str | None = Field(default=None, max_length=2_000)


class JobDraft(_Work):
    """Body of POST and PUT /jobs."""

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f][^\x00-\x1f]*$")
    description: str = Field(default="", max_length=10_000)
    job_type: JobType | None = None
    state: Literal["draft", "active"] = "active"
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list, max_length=64)

    @model_validator(mode="after")
    def _type_is_what_the_actions_are(self) -> JobDraft:
        actual = JobType(self.actions[0].type) if len(self.actions) == 1 else JobType.COMPOSITE
        if self.job_type is None:
            object.__setattr__(self, "job_type", actual)  # as above: a default that needs the other fields
        elif self.job_type not in (actual, JobType.COMPOSITE):
            raise ValueError(f"job_type is {self.job_type.value}, but the actions make it {actual.value}")
        return self


@dataclass(frozen=True, slots=True)
class Job:
    """A stored job at one version. `definition` is what the caller wrote, with keys and defaults filled in."""

    id: int
    uuid: str
    version: int
    state: JobState
    definition: JobDraft


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """What `engine.launch` is asked to start: a job version or ad-hoc work (job None), and on what."""

    actions: Sequence[Action]
    targets: SelectionDraft
    policy: Policy
    job_name: str
    job_id: int | None = None
    job_version: int | None = None
    narrowed_to: SelectionDraft | None = None
    reason: str | None = None


_OLD_ACTION = {"action_type": "type", "action_name": "key", "timeout_seconds": "timeout"}


def modernised(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same job in today's shape: action_type, action_order, action_parameters, target_ids, timeout_seconds, priority.

    Values are moved, not judged: validation comes after.
    """
    new = dict(body)
    if "target_ids" in new:
        if "targets" in new:
            raise ValueError("target_ids and targets say the same: write only targets")
        new["targets"] = {"ids": new.pop("target_ids")}
    policy = dict(new.get("policy") or {}) if isinstance(new.get("policy", {}), dict) else None
    if policy is not None:
        for old, name in (("timeout_seconds", "timeout"), ("priority", "priority")):
            if old in new:
                policy.setdefault(name, new.pop(old))
        if policy:
            new["policy"] = policy
    if isinstance(new.get("actions"), list):
        actions = [_modern_action(a) for a in new["actions"]]
        if all(isinstance(a, dict) and isinstance(a.get("action_order"), int) for a in actions):
            actions.sort(key=lambda a: a["action_order"])
        new["actions"] = [{k: v for k, v in a.items() if k != "action_order"} if isinstance(a, dict) else a for a in actions]
    return new


def _modern_action(action: Any) -> Any:
    if not isinstance(action, dict) or "action_type" not in action:
        return action
    new = dict(action)
    parameters = new.pop("action_parameters", {})
    for old, name in _OLD_ACTION.items():
        if old in new:
            new.setdefault(name, new.pop(old))
    return {**parameters, **new} if isinstance(parameters, dict) else new
