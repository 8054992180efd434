"""/schedules/preview, /schedules/forecast and /schedules/moments: future firings.

The preview is for one schedule, which need not be stored yet; the others are for all schedules.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace as but
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Query, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within, reach
from opsjobs.api.dependencies import ServicesDep, load_schedule, requires
from opsjobs.api.schemas.schedules import ForecastOut, SchedulePreviewOut, UpcomingMomentsOut
from opsjobs.engine.firing.upcoming_moments import PERIOD_MAX
from opsjobs.model.api_model import ApiModel, Moment, read_instant
from opsjobs.model.calendar import Calendar, closed
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.execution import moment
from opsjobs.model.schedule.draft import ScheduleDraft, refuse_past
from opsjobs.model.schedule.timetable import Timetable, timetable, words_of
from opsjobs.model.time_zones import local
from opsjobs.model.units import format_duration
from opsjobs.model.validation_errors import fault
from opsjobs.store.scheduling.rows import StoredSchedule

MOMENTS_MAX = 100
MOMENTS_LISTED_MAX = 2_000
# An H that is not part of THU or MARCH.
_HASHED = re.compile(r"(?<![A-Za-z])H(?![A-Za-z])")
FIRST_YEAR, LAST_YEAR = 1970, 2199

router = APIRouter(tags=["schedules"])


class PreviewDraft(ApiModel):
    """Body of POST /schedules/preview: a schedule, the id of a stored one, or both.

    Both: the stored schedule as if it were replaced by this one. `from`: show due times after this
    time (default: now), as if the schedule were stored then.
    """

    schedule: ScheduleDraft | None = None
    id: int | str | None = None
    after: Annotated[Moment | None, Field(alias="from")] = None
    count: int = Field(default=5, ge=1, le=MOMENTS_MAX)

    @model_validator(mode="after")
    def _names_something(self) -> PreviewDraft:
        if self.schedule is None and self.id is None:
            raise fault(
                "nothing_to_preview", "send a schedule, or the id of a stored one", "schedule"
            )
        return self


@router.post(
    "/schedules/preview",
    dependencies=[requires("schedules:read", Within.BODY)],
    summary="Preview a schedule",
    response_model=SchedulePreviewOut,
)
async def preview(request: Request, services: ServicesDep, draft: PreviewDraft) -> Response:
    """Return the next due times, local and in UTC, and the schedule in words. Stores nothing.

    `closed`: the calendar that closes a due time.
    """
    stored = await load_schedule(str(draft.id), request) if draft.id is not None else None
    after = draft.after or await services.schedule_overview.now()
    wanted = draft.schedule or (stored.definition if stored is not None else None)
    assert wanted is not None, "the draft names something"
    if draft.schedule is not None:
        _refuse_past(wanted, after)
    calendars = await services.calendars.by_names(wanted.calendars)
    _check_calendars(wanted.calendars, calendars)
    table = _table(wanted, stored, after)
    # Some are rare, and looked for over years.
    count = min(draft.count, _count_remaining(wanted, stored))
    moments = await asyncio.to_thread(
        lambda: list(_moments(table, wanted.timezone, after, count, calendars))
    )
    notes = list(_notes(wanted, stored, ends=len(moments) < draft.count))
    words = words_of(table.draft, table.cron)
    return JSONResponse({"moments": moments, "words": words, "notes": notes})


@router.get(
    "/schedules/forecast",
    dependencies=[requires("schedules:read", Within.LIST)],
    summary="Forecast the coming week",
    response_model=ForecastOut,
)
async def forecast(request: Request, services: ServicesDep) -> Response:
    """Return the load of each hour, the busiest hours, and due times that calendars close.

    Counts all enabled schedules. The work is bounded: `left_out` shows what was not counted.
    """
    return JSONResponse((await services.forecasts.week(reach(request))).data())


@router.get(
    "/schedules/moments",
    dependencies=[requires("schedules:read", Within.LIST)],
    summary="List coming due times",
    response_model=UpcomingMomentsOut,
)
async def moments(
    request: Request,
    services: ServicesDep,
    since: Annotated[
        str | None, Query(alias="from", description="From this time on (default: now).")
    ] = None,
    until: Annotated[
        str | None, Query(alias="to", description="Before this time (default: a day later).")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOMENTS_LISTED_MAX)] = 200,
) -> Response:
    """List the due times of all enabled schedules that fire in a period, in order.

    The period (`from` included, `to` not) is at most 31 days, and begins now at the earliest. All
    that fire before `complete_until` are listed: a request from then on continues the list, and
    may repeat those at that time. `closed`: the calendar that will skip it.
    """
    now = await services.schedule_overview.now()
    begin = max(_instant("from", since) or now, now)
    end = _instant("to", until) or begin + timedelta(days=1)
    _check_period(now, begin, end)
    found = await services.moment_list.list(begin, end, limit, reach(request))
    return JSONResponse(
        {
            "moments": [one.data() for one in found.moments],
            "from": moment(begin),
            "to": moment(end),
            "complete_until": moment(found.complete_until),
            "left_out": found.left_out,
        }
    )


def _check_period(now: datetime, begin: datetime, end: datetime) -> None:
    if end <= now:
        detail = "to: it has passed, and only what is still to come is listed. Choose a later time."
    elif end <= begin:
        detail = "to: it is not after from. Choose a later time."
    elif end > begin + PERIOD_MAX:
        detail = "to: it is more than 31 days after the period begins. Choose an earlier time."
    else:
        return
    raise Invalid("invalid_query", detail, errors=[FieldError("", detail, "query:to")])


def _instant(parameter: str, text: str | None) -> datetime | None:
    try:
        return None if text is None else read_instant(text)
    except ValueError as wrong:
        detail = f"{parameter}: {wrong}."
        error = FieldError("", detail, f"query:{parameter}")
        raise Invalid("invalid_query", detail, errors=[error]) from None


def _refuse_past(draft: ScheduleDraft, now: datetime) -> None:
    try:
        refuse_past(draft, now)
    except Invalid as past:
        raise Invalid(
            past.code,
            f"/schedule{past.detail}",
            errors=[but(error, pointer=f"/schedule{error.pointer}") for error in past.errors],
        ) from None


def _table(draft: ScheduleDraft, stored: StoredSchedule | None, after: datetime) -> Timetable:
    if stored is None:
        return timetable(draft, uuid=uuid4(), created_at=after)
    if draft is stored.definition:
        return stored.timetable
    return timetable(draft, uuid=stored.uuid, created_at=stored.created_at)


def _count_remaining(draft: ScheduleDraft, stored: StoredSchedule | None) -> int:
    """Return the number of firings that may still be launched."""
    if draft.max_firings is None:
        return MOMENTS_MAX
    return max(draft.max_firings - (stored.firings if stored is not None else 0), 0)


def _moments(
    table: Timetable,
    zone: str | None,
    after: datetime,
    count: int,
    calendars: Mapping[str, Calendar],
) -> Iterator[dict[str, Any]]:
    due = table.next_after(after)
    for _ in range(count):
        if due is None:
            return
        shut = closed(calendars.values(), due)
        yield {
            "utc": moment(due),
            "local": local(due, zone).isoformat(),
            "closed": shut.data() if shut is not None else None,
        }
        due = table.next_after(due)


def _notes(draft: ScheduleDraft, stored: StoredSchedule | None, *, ends: bool) -> Iterator[str]:
    if draft.jitter:
        yield f"each firing starts up to {format_duration(draft.jitter)} late (jitter)"
    if stored is None and _HASHED.search(draft.cron or ""):
        yield "H is another number for each schedule: the stored one may differ from this"
    if not (stored.enabled if stored is not None else draft.enabled):
        yield "the schedule is not enabled: its due times are skipped"
    if ends:
        yield "there are no further due times"


def _check_calendars(names: Collection[str], calendars: Mapping[str, Calendar]) -> None:
    wrong = [
        FieldError(
            f"/schedule/calendars/{n}",
            f"There is no calendar {name!r}. Create it first, or leave it out.",
            "unknown_calendar",
        )
        for n, name in enumerate(names)
        if name not in calendars
    ]
    if wrong:
        raise Invalid("unknown_calendar", wrong[0].detail, errors=wrong)
