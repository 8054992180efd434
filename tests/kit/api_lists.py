"""The lists of the API, each with its filters, sorts, pages and scopes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from opsjobs.model.access import EVERYWHERE, OwnReach, Reach, Scope
from opsjobs.model.identity import Identity
from opsjobs.model.selection import Requirement
from opsjobs.store.approvals import APPROVALS
from opsjobs.store.audit_log import AUDIT
from opsjobs.store.circuits import CIRCUITS
from opsjobs.store.dead_letters import DEAD_LETTERS
from opsjobs.store.executions import EXECUTIONS, RESULTS, RUNS
from opsjobs.store.files import ARTIFACTS, FILES
from opsjobs.store.groups import GROUPS
from opsjobs.store.inventory import TARGETS
from opsjobs.store.jobs import JOBS
from opsjobs.store.paging import Listing, Page, PageRequest
from opsjobs.store.scheduling.rows import FIRINGS
from opsjobs.store.scheduling.schedules import SCHEDULES
from opsjobs.store.transaction import Database

DAYS_AGO = "2026-01-01T00:00:00Z"
# A filter value for a column of each type that matches no row.
_NOTHING = {
    "text": "nothing",
    "texts": "nothing",
    "integer": "4000000000",
    "uuid": "00000000-0000-0000-0000-000000000000",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One list with the parameters of its select, and filter values that are costly.

    Rows with them are found often, seldom, or only among the oldest ones.
    """

    name: str
    listing: Listing
    parameters: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """A request for one page of a list."""

    name: str
    listing: Listing
    request: PageRequest
    parameters: Mapping[str, Any]
    reach: Reach | None = None

    async def ask(self, database: Database) -> Page[Any]:
        """Return the page, as the store reads it."""
        return await self.listing.page(database, self.request, self.parameters, reach=self.reach)


def lists(large: int, moment: str) -> list[Asked]:
    """Return all lists. `large`: the execution with 10,000 targets; `moment`: 300 days ago."""
    seen = {
        "created_before": (moment,),
        "created_after": (moment,),
        "finished_before": (moment,),
        "finished_after": (moment,),
    }
    statuses = (
        "completed",
        "failed",
        "timeout",
        "queued",
        "running",
        "paused",
        "cancelling",
        "pending_approval",
    )
    actors = ("user-7", "gone")
    return [
        Asked(
            "executions",
            EXECUTIONS,
            {},
            {
                "status": statuses,
                "job_id": ("1", "7"),
                "job_name": ("job-1", "job-7"),
                "requested_by": actors,
                "triggered_by": ("schedule", "webhook", "retry"),
                "parent": ("999",),
                **seen,
            },
        ),
        Asked(
            "runs of 10,000",
            RUNS,
            {"execution": large, "among": None},
            {"status": ("succeeded", "failed"), "target_name": ("web-9",)},
        ),
        Asked(
            "results of 10,000",
            RESULTS,
            {"execution": large},
            {"status": ("succeeded", "failed"), "target": ("9",)},
        ),
        Asked("dead letters", DEAD_LETTERS, {}, {"target": ("web-9",), "status": ("lost", "dead")}),
        Asked(
            "approvals",
            APPROVALS,
            {},
            {"status": ("pending", "approved", "rejected"), "decided_by": actors},
        ),
        Asked(
            "audit",
            AUDIT,
            {},
            {
                "actor": actors,
                "person": actors,
                "address": ("10.0.0.7", "10.9.9.9"),
                "action": ("execution.launched", "job.deleted"),
                "thing": ("execution", "job"),
                "thing_name": ("job-7", "job-gone"),
                "before": (moment,),
                "after": (moment,),
            },
        ),
        Asked(
            "firings of one schedule",
            FIRINGS,
            {"schedule": 1},
            {"status": ("triggered", "failed", "skipped")},
        ),
        Asked(
            "jobs",
            JOBS,
            {},
            {"status": ("running", "completed"), "state": ("paused",), "tags": ("env=prod",)},
        ),
        Asked("schedules", SCHEDULES, {}, {"owner": actors, "enabled": ("true", "false")}),
        Asked(
            "targets",
            TARGETS,
            {"among": None, "remote": False},
            {"groups": ("group-7",), "zone": ("default",), "host": ("10.0.0.7",)},
        ),
        Asked("groups", GROUPS),
        Asked("circuits", CIRCUITS, {"closed": False}, {"state": ("open", "half_open")}),
        Asked(
            "files",
            FILES,
            {"by": None, "kind": None},
            {"name": ("file-7", "old"), "created_by": actors},
        ),
        Asked("files of one", FILES, {"by": "gone", "kind": "user"}),
        Asked("artifacts", ARTIFACTS, {"execution": 10}),
    ]


def questions(asked: Asked) -> Iterator[Question]:
    """Yield every page that is worth a test.

    These are the first one, one by number, and each filter with each value, each sort and each
    scope.
    """

    def one(name: str, reach: Reach | None = None, **request: Any) -> Question:
        return Question(
            f"{asked.name}: {name}", asked.listing, PageRequest(**request), asked.parameters, reach
        )

    yield one("first page")
    yield one("page 1, counted", page=1)
    yield one("the last page that has a number", page=200)
    for sort in asked.listing.sorts:
        yield one(f"sort={sort}", sort=sort)
        yield one(f"sort=-{sort}", sort=f"-{sort}")
    for name, kind in asked.listing.filters.items():
        beside = {
            other: asked.values.get(other, ("nothing",))[:1]
            for other in _beside(asked.listing, name)[:1]
        }
        for value in (
            *asked.values.get(name, ()),
            *((_NOTHING[kind],) if kind in _NOTHING else ()),
        ):
            yield one(f"{name}={value}", filters={**beside, name: [value]})
        if len(asked.values.get(name, ())) > 1:
            yield one(
                f"{name} with {len(asked.values[name])} values",
                filters={**beside, name: list(asked.values[name])},
            )
            yield one(
                f"{name}={asked.values[name][-1]}, counted",
                page=1,
                filters={**beside, name: [asked.values[name][-1]]},
            )
    if asked.listing.labelled:
        yield one("a scope that sees a third", Reach((Scope((Requirement("env", ("staging",)),)),)))
        yield one("a scope that sees nothing", Reach((Scope((Requirement("env", ("nowhere",)),)),)))
    if asked.listing.holds_launches:
        own = OwnReach(Identity("user", "gone"), (EVERYWHERE,))
        yield one("what one has launched", Reach((), own))
        yield one("what one has launched, by status", Reach((), own), filters={"status": ["lost"]})
        for sort in (name for name, column in asked.listing.columns.items() if column.by_id):
            yield one(f"what one has launched, sort=-{sort}", Reach((), own), sort=f"-{sort}")


def _beside(listing: Listing, name: str) -> tuple[str, ...]:
    return listing.columns[name].beside if name in listing.columns else ()
