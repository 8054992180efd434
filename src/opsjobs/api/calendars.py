"""/calendars: the times at which schedules do not fire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires
from opsjobs.api.http import render_created
from opsjobs.api.resource import Edit, Resource, edit, put_and_patch
from opsjobs.api.schemas.responses import CREATED
from opsjobs.api.schemas.schedules import CalendarCheckOut, CalendarOut, CalendarPageOut
from opsjobs.model.calendar import Calendar, CalendarDraft, closed, closes
from opsjobs.model.calendar_windows import read_moment
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.execution import moment
from opsjobs.store.scheduling.calendars import CALENDARS, StoredCalendar

router = APIRouter(tags=["calendars"])
resource = Resource[StoredCalendar](
    router=router,
    path="/calendars",
    one="a calendar",
    many="calendars",
    store=lambda services: services.calendars,
    listing=CALENDARS,
    reads=requires("schedules:read", Within.ANYWHERE),
    manages=requires("schedules:manage"),
    item_model=CalendarOut,
    page_model=CalendarPageOut,
)
resource.add_list("List calendars. The default order is by name.")
resource.add_show("Return the calendar, with its windows as they were written.")
resource.add_delete("Delete the calendar. 409 while schedules name it.")


@router.post(
    "/calendars",
    status_code=201,
    dependencies=[requires("schedules:manage")],
    summary="Create a calendar",
    response_model=CalendarOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, draft: CalendarDraft, idem: Idempotent
) -> Response:
    """Create a calendar, which closes the schedules that name it.

    A `blackout` closes them within its windows, an `only` calendar outside of them.
    """
    calendar = await services.calendars.create(draft, idem)
    return render_created(request, "/calendars", calendar)


@router.get(
    "/calendars/{id}/check",
    dependencies=[requires("schedules:read", Within.ANYWHERE)],
    summary="Check a calendar",
    response_model=CalendarCheckOut,
)
async def check(
    calendar: Annotated[StoredCalendar, Depends(resource.load)],
    services: ServicesDep,
    at: Annotated[
        str | None,
        Query(max_length=40, description="A moment; without an offset in the calendar's zone."),
    ] = None,
) -> Response:
    """Return whether the calendar is open, now or `at` a time, until when, and why."""
    asked = Calendar(calendar.draft)
    instant = services.clock.now() if at is None else _read(at, asked.zone)
    return JSONResponse({"calendar": calendar.draft.name, **_answer(asked, instant)})


@put_and_patch(
    router,
    "/calendars/{id}",
    dependencies=[requires("schedules:manage"), Depends(resource.load)],
    thing="a calendar",
    response_model=CalendarOut,
)
async def replace(
    id: str,
    services: ServicesDep,
    change: Annotated[Edit[CalendarDraft], edit(CalendarDraft, resource.load)],
) -> Response:
    """Replace the calendar, for due times from now on. 409 for a new name while it is in use."""
    return JSONResponse(
        (await services.calendars.replace(id, change.draft, basis=change.basis)).data()
    )


def _read(text: str, zone: ZoneInfo) -> datetime:
    try:
        found = read_moment(text)
    except ValueError as wrong:
        raise Invalid(
            "invalid_query", f"at: {wrong}.", errors=[FieldError("", f"{wrong}", "query:at")]
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=zone).astimezone(UTC)


def _answer(calendar: Calendar, instant: datetime) -> dict[str, Any]:
    shut = closed([calendar], instant)
    until = shut.until if shut is not None else closes([calendar], instant)
    return {
        "at": moment(instant),
        "local": instant.astimezone(calendar.zone).isoformat(timespec="seconds"),
        "open": shut is None,
        "reason": shut and shut.reason,
        "until": moment(until),
        "local_until": until and until.astimezone(calendar.zone).isoformat(timespec="seconds"),
        "timezone": calendar.zone.key,
    }
