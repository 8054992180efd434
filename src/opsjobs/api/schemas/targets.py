"""Schemas of targets, their groups, circuits and maintenances."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from opsjobs.api.schemas.base import (
    ActionsOut,
    AnswerModel,
    ErrorOut,
    Json,
    PageModel,
    StepOut,
    StoredModel,
    TargetRefOut,
    Timestamp,
)
from opsjobs.model.circuit import CircuitState
from opsjobs.model.execution import RunStatus
from opsjobs.model.program import Durability
from opsjobs.model.target import HostKeyPolicy, Transport
from opsjobs.model.target_health import HealthStatus
from opsjobs.model.winrm import WinrmAuth


class WinrmOut(AnswerModel):
    """The WinRM options of a target."""

    scheme: Literal["https", "http"]
    auth: WinrmAuth
    verify: bool
    ca: str | None = Field(description="The CA certificates that sign the host's, in PEM form")
    fingerprint: str | None = Field(description="The SHA-256 of the only trusted certificate")
    engine: Literal["winrs", "psrp"]
    configuration: str | None = Field(description="The session configuration of engine psrp")
    encoding: str | None = Field(description="What output is decoded from, to UTF-8")


class TargetOut(AnswerModel):
    """A machine of the inventory."""

    id: str
    uuid: str
    name: str
    host: str
    port: int
    transport: Transport
    platform: str
    labels: dict[str, str]
    groups: list[str]
    credential: str | None = Field(description="The name of the credential to log in with")
    host_keys: list[str]
    host_key_policy: HostKeyPolicy
    zone: str
    slots: int
    jump: str | None = Field(description="The name of the target that it is reached through")
    durable: Durability
    winrm: WinrmOut | None = Field(description="Only of transport winrm")
    external_id: str | None = Field(
        description="The id in the platform's Target Service; null: the target is kept here"
    )
    version: int
    created_at: Timestamp
    updated_at: Timestamp


class TargetPageOut(PageModel):
    """A page of targets."""

    items: list[TargetOut]


class OpenCircuitOut(AnswerModel):
    """The circuit of a target that stays open longest."""

    state: CircuitState
    code: str | None
    since: Timestamp | None
    until: Timestamp | None


class LastRunOut(AnswerModel):
    """The last run of a target that has ended."""

    status: RunStatus
    code: str | None
    at: Timestamp


class MaintenanceOut(AnswerModel):
    """Until when a target is under maintenance; null: until further notice."""

    until: Timestamp | None
    reason: str | None
    by: str | None


class TargetHealthOut(AnswerModel):
    """The health of a target, and what it follows from."""

    status: HealthStatus
    circuit: OpenCircuitOut | None
    maintenance: MaintenanceOut | None
    last_run: LastRunOut | None
    last_success_at: Timestamp | None = Field(description="Among the last 50 runs")
    last_contact_at: Timestamp | None = Field(description="Among the last 50 runs")
    waiting_runs: int = Field(description="Runs that are held until it is back")
    dead_letters: int


class ShownTargetOut(TargetOut):
    """A machine of the inventory, and its health."""

    health: TargetHealthOut | None


class TargetDetailOut(ShownTargetOut, ActionsOut):
    """A target with its health, and what the caller may do: update, test, delete and others."""


class ShownTargetPageOut(PageModel):
    """A page of targets with their health."""

    items: list[ShownTargetOut]


class LabelValueOut(AnswerModel):
    """A value of a label, and the number of targets that have it."""

    value: str
    targets: int


class LabelCountOut(AnswerModel):
    """A label key, and its most frequent values."""

    key: str
    targets: int
    values: list[LabelValueOut]
    more: int = Field(description="The number of further values")


class LabelCountsOut(AnswerModel):
    """The labels of targets."""

    labels: list[LabelCountOut]


class SelectionRefusalOut(AnswerModel):
    """A reason why a launch on a selection would be refused."""

    code: str
    detail: str
    pointer: str


class ResolvedPageOut(PageModel):
    """The targets of a selection: their number, and a page of them."""

    items: list[TargetRefOut]
    count: int = Field(description="The number of selected targets")
    excluded: int = Field(description="The number of targets that `exclude` takes out")
    labels: list[LabelCountOut]
    platforms: dict[str, int] = Field(description="The number of selected targets by platform")
    refusals: list[SelectionRefusalOut] = Field(
        description="The reasons why a launch would be refused; empty: none"
    )


class ImportedTargetOut(AnswerModel):
    """Outcome of one entry of an import."""

    position: int
    name: str
    outcome: Literal["created", "updated", "unchanged", "skipped", "refused"]
    id: str | None
    error: ErrorOut | None
    changes: dict[str, Json] = Field(
        description="For an updated target: each field with its old and new value"
    )
    same_address: list[str]


class ImportOut(AnswerModel):
    """Outcome of an import: counts, and the outcome of each entry."""

    created: int
    updated: int
    unchanged: int
    skipped: int
    refused: int
    dry_run: bool
    items: list[ImportedTargetOut]


class TargetTestOut(AnswerModel):
    """Result of a connection test, step by step."""

    ok: bool
    steps: list[StepOut]


class HostKeyOut(AnswerModel):
    """A host key that a machine shows."""

    key: str
    fingerprint: str


class HostKeyScanOut(AnswerModel):
    """The host keys that a machine shows now; they are not trusted by this."""

    host_keys: list[HostKeyOut]


class TargetMaintenanceOut(AnswerModel):
    """A target, and its maintenance if it is under one."""

    target: TargetRefOut
    maintenance: MaintenanceOut | None


class GroupOut(StoredModel):
    """A group of targets."""

    name: str
    description: str
    selector: str | None
    groups: list[str]
    direct_targets: int
    created_at: Timestamp
    updated_at: Timestamp


class GroupPageOut(PageModel):
    """A page of groups."""

    items: list[GroupOut]


class CircuitTargetOut(AnswerModel):
    """The target of a circuit; without a name if it is deleted."""

    id: str
    name: str | None
    host: str | None


class CircuitOut(StoredModel):
    """The circuit of one login: after several failures it is not tried for a while."""

    target: CircuitTargetOut
    credential: str | None
    state: CircuitState
    failures: int
    error: ErrorOut | None
    since: Timestamp | None
    until: Timestamp | None


class CircuitPageOut(PageModel):
    """A page of circuits."""

    items: list[CircuitOut]


class ResetCircuitsOut(AnswerModel):
    """The circuits that were not closed before the reset."""

    items: list[CircuitOut]
