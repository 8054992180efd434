"""The sender of deliveries: many lanes side by side, each lane in order.

A lane is the pending deliveries of one subject to one receiver. The number of lanes in work is
limited for each receiver and for the process, so one that hangs does not delay the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from opsjobs.engine.loop import Counts
from opsjobs.model.delivery import Delivery, DeliveryStatus, RetryPlan, SendOutcome
from opsjobs.model.errors import Unavailable
from opsjobs.store.deliveries import ClaimedDelivery, Deliveries, Settlement
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.telemetry.trace_context import TraceContext
from opsjobs.telemetry.tracing import SpanKind

LANES_MAX = 100
"""Lanes in work in one process."""
LANES_PER_RECEIVER = 5
SEND_SECONDS_MAX = 15.0
"""Time limit of one attempt; the lease of a lane is twice as long."""
SETTLED_MAX = 200
"""Outcomes that one transaction records."""
CLOSE_SECONDS = 1.0


class Destination(Protocol):
    """A kind of receivers, such as webhooks, and how a message reaches one of them.

    The sender takes care of order, retries, leases, limits and records.
    """

    @property
    def name(self) -> str:
        """The name under which deliveries are stored; it never changes."""

    @property
    def retry(self) -> RetryPlan:
        """When a failed delivery is tried again, and when it is given up."""

    async def send(self, delivery: Delivery) -> SendOutcome:
        """Make one attempt, and return its outcome.

        It is cancelled after `SEND_SECONDS_MAX`. An exception is a failed attempt, and a bug if it
        is neither an OSError nor Unavailable. The attempt may have been made before by a process
        that was killed: the message's id is the same then.
        """


class DeliverySender:
    """Claim due lanes, send their deliveries, and record the outcomes in groups.

    If this process is killed, another one takes over its lanes after the lease and sends unrecorded
    deliveries again: at least once.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        destinations: Sequence[Destination],
        metrics: Metrics,
        *,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._deliveries = deliveries
        self._destinations: Mapping[str, Destination] = {each.name: each for each in destinations}
        self._metrics = metrics
        self.wake = wake
        self._lanes: dict[asyncio.Task[None], int] = {}
        self._outcomes: list[tuple[Settlement, asyncio.Future[ClaimedDelivery | None]]] = []
        self._settler: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def lanes(self) -> int:
        """The number of lanes in work."""
        return len(self._lanes)

    async def run_once(self) -> Counts:
        """Claim due lanes and start to send their deliveries; return how many lanes.

        `wake` is called whenever a lane has ended, so that its place is taken by another.
        """
        free = LANES_MAX - len(self._lanes)
        if free <= 0 or self._closing or not self._destinations:
            return {"claimed": 0}
        claimed = await self._deliveries.claim(
            list(self._destinations),
            limit=free,
            per_receiver=LANES_PER_RECEIVER,
            running=Counter(self._lanes.values()),
        )
        for each in claimed:
            task = asyncio.create_task(self._run_lane(each), name="delivery-lane")
            self._lanes[task] = each.receiver_id
            task.add_done_callback(self._lane_ended)
        return {"claimed": len(claimed)}

    async def close(self) -> None:
        """Finish the attempts that are being made, for a second at most.

        Attempts that are aborted are made again by another process, after the lease.
        """
        self._closing = True
        if self._lanes:
            _, late = await asyncio.wait(tuple(self._lanes), timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
        if self._settler is not None:
            await asyncio.wait((self._settler,), timeout=CLOSE_SECONDS)
            self._settler.cancel()

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        self._lanes.pop(task, None)
        if not task.cancelled():
            self.wake()

    async def _run_lane(self, claimed: ClaimedDelivery) -> None:
        """Send the deliveries of a lane, until it is empty, delayed, or taken over."""
        following: ClaimedDelivery | None = claimed
        while following is not None:
            try:
                following = await self._record(await self._attempt(following))
                if following is not None and self._closing:
                    await self._deliveries.release([following])
                    return
            except Unavailable as outage:
                # The lease ends, and the delivery is sent again.
                log.warning("delivery_not_recorded", reason=str(outage))
                await asyncio.sleep(1)
                return
            except Exception:  # noqa: BLE001  a bug ends the lane, not the sender
                self._metrics.bugs.labels("delivery_sender").inc()
                log.exception("delivery_lane_failed")
                await asyncio.sleep(1)
                return

    async def _attempt(self, claimed: ClaimedDelivery) -> Settlement:
        delivery = claimed.delivery
        destination = self._destinations[delivery.receiver.destination]
        began = time.monotonic()
        # The receiver continues the trace of the event.
        with tracing.entry(
            "deliver",
            TraceContext.parse(delivery.message.traceparent),
            kind=SpanKind.CLIENT,
            destination=destination.name,
            message=delivery.message.id,
            type=delivery.message.type,
            attempt=delivery.attempt,
        ) as span:
            outcome = await self._send(destination, claimed)
            span.annotate(**{"http.response.status_code": outcome.code})
            if outcome.status is not DeliveryStatus.DELIVERED:
                span.fail(outcome.status.value)
        seconds = time.monotonic() - began
        pause = None
        if outcome.status is DeliveryStatus.PENDING:
            pause = destination.retry.next_pause_seconds(delivery, outcome)
        settlement = Settlement(claimed, outcome, pause, int(seconds * 1000))
        result = "retry" if settlement.status is DeliveryStatus.PENDING else settlement.status.value
        self._metrics.delivery_attempts.labels(destination.name, result).inc()
        self._metrics.delivery_seconds.labels(destination.name).observe(seconds)
        return settlement

    async def _send(self, destination: Destination, claimed: ClaimedDelivery) -> SendOutcome:
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                return await destination.send(claimed.delivery)
        except TimeoutError:
            return SendOutcome.retry(f"no answer within {SEND_SECONDS_MAX:.0f} s")
        except (OSError, Unavailable) as failed:
            return SendOutcome.retry(str(failed) or type(failed).__name__)
        except Exception:  # noqa: BLE001  a bug in a destination: the message is tried again
            self._metrics.bugs.labels("delivery_sender").inc()
            log.exception("delivery_failed", destination=destination.name)
            return SendOutcome.retry("internal error; the log of this service has the details")

    async def _record(self, settlement: Settlement) -> ClaimedDelivery | None:
        """Record an outcome with those of other lanes; return the next delivery of the lane."""
        future = asyncio.get_running_loop().create_future()
        self._outcomes.append((settlement, future))
        if self._settler is None or self._settler.done():
            self._settler = asyncio.create_task(self._settle_all(), name="delivery-settler")
        following: ClaimedDelivery | None = await future
        return following

    async def _settle_all(self) -> None:
        # While one group is being committed, the next one gathers.
        while self._outcomes:
            group, self._outcomes = self._outcomes[:SETTLED_MAX], self._outcomes[SETTLED_MAX:]
            try:
                following = {
                    each.lane: each
                    for each in await self._deliveries.settle([each for each, _ in group])
                }
            except Exception as failed:  # noqa: BLE001  every lane of the group handles it
                for _, future in group:
                    if not future.done():
                        future.set_exception(failed)
                continue
            for settlement, future in group:
                if not future.done():
                    future.set_result(following.get(settlement.claimed.lane))
