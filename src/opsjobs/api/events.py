"""GET /events: everything that happens and that the caller may see, with replay."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Send

from opsjobs.api import log_formats
from opsjobs.api.dependencies import requires_a_token
from opsjobs.api.event_tail import EventCursor, EventTail, TailBatch
from opsjobs.api.long_lived import StreamReauth
from opsjobs.api.request import principal_of, proof_of
from opsjobs.api.schemas.responses import EVENTS
from opsjobs.api.services import ServicesDep, services_of
from opsjobs.api.sse import ServerSentEvents, check_room
from opsjobs.model.errors import Refusal
from opsjobs.model.events import matching_types
from opsjobs.model.webhook import EVENTS_MAX, EventPattern

router = APIRouter(tags=["events"])


@router.get(
    "/events",
    dependencies=[requires_a_token()],
    response_class=Response,
    responses=EVENTS,
    summary="Follow all events",
)
async def follow(
    request: Request,
    services: ServicesDep,
    type: Annotated[
        list[EventPattern] | None,
        Query(max_length=EVENTS_MAX, description="Types, `<noun>.*` or `*`. Default: all."),
    ] = None,
    after: Annotated[
        str | None,
        Query(max_length=41, description="Start after this `id`; 0: at the oldest event kept."),
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=41)] = None,
) -> Response:
    """Stream events that the caller may see, as CloudEvents, from now on or after a position.

    A client that resumes with `Last-Event-ID` misses and repeats nothing. 410 if events after that
    were deleted. If the token loses its validity, the last event is `refused`.
    """
    check_room(request.app.state.followers)
    tail: EventTail = request.app.state.event_tail
    given = last_event_id if last_event_id is not None else after
    if given == "0":
        cursor = EventCursor((await services.event_feed.bounds()).deleted)
    else:
        cursor = await tail.start_after(None if given is None else EventCursor.parse(given))
    return EventFeedStream(request, tail, cursor, matching_types(type or ["*"]))


class EventFeedStream(ServerSentEvents):
    """The events after a place that the viewer may see, by its rights of that time."""

    def __init__(
        self, request: Request, tail: EventTail, cursor: EventCursor, types: Collection[str]
    ) -> None:
        super().__init__(request, "events")
        self._request = request
        self._tail = tail
        self._cursor = cursor
        self._types = types
        services = services_of(request)
        proof = proof_of(request)

        async def ask() -> None:
            request.state.principal = await services.authentication.authenticator.reauthenticate(
                proof
            )

        self._reauth = StreamReauth(
            ask, services.clock, every_seconds=services.limits.stream_reauth_seconds
        )

    async def send_frames(self, send: Send) -> None:
        """Send the events after the viewer's place, as they come."""
        # A client that loses the connection before the first event resumes at this place.
        await self.send(send, b": connected\nid: %s\n\n" % str(self._cursor).encode())
        batches = self._tail.batches(self._cursor, lambda: self._reauth.seconds_left)
        async with aclosing(batches):
            async for batch in batches:
                await self._reauth.check()
                await self.send(send, self._visible(batch))
                self._cursor = batch.cursor

    def encode_refused(self, refusal: Refusal) -> bytes:
        """Return the frame with the refusal, at the viewer's place."""
        body = {"status": refusal.status, "code": refusal.code, "detail": refusal.detail}
        return b"id: %s\nevent: refused\ndata: %s\n\n" % (
            str(self._cursor).encode(),
            log_formats.encode_json(body),
        )

    def _visible(self, batch: TailBatch) -> bytes:
        principal = principal_of(self._request)
        frames = [
            event.frame
            for event in batch.events
            if event.type in self._types and event.audience.admits(principal)
        ]
        # The place alone: a viewer who sees little does not fall behind what is kept.
        return b"".join(frames) or b": keep-alive\nid: %s\n\n" % str(batch.cursor).encode()
