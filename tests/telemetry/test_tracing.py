"""Spans in memory: one trace of a launch and its run, and nothing without the extra."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from structlog.testing import capture_logs

from api.kit import api_client
from engine.harness import harness, until
from engine.test_deliveries import RecordingDestination, sending_to
from engine.test_webhooks import receiver, webhook_harness
from kit.schedule_fixtures import ScheduleHarness
from kit.span_collector import SeenSpan, spans_in_memory
from opsjobs.model.delivery import (
    Delivery,
    DeliveryReceiver,
    Message,
    NewDelivery,
    SendOutcome,
)
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.deliveries import queue_deliveries
from opsjobs.store.transaction import Database
from opsjobs.telemetry import trace_context, tracing
from opsjobs.telemetry.otel import build_recorder
from opsjobs.telemetry.trace_context import TraceContext

CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
UNSAMPLED = TraceContext("5bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
CANARY = "canary-7f3a-in-a-command"

Spans = Callable[[], list[SeenSpan]]


@pytest.fixture
def spans() -> Iterator[Spans]:
    with spans_in_memory() as found:
        yield found


def _named(found: list[SeenSpan]) -> dict[str, SeenSpan]:
    return {span.name: span for span in found}


async def test_a_run_continues_the_trace_of_its_launch(database: Database, spans: Spans) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([Output("stdout", f"{CANARY}\n".encode()), RemoteExit(3)])
        with trace_context.within(CALLER):
            execution = await on.launch(f"echo {CANARY}", 1)
        async with on.worker():
            await on.ended(execution)
            await until(lambda: "commit" in _named(spans()))
    found = _named(spans())
    assert {span.trace_id for span in spans()} == {CALLER.trace_id}
    parents = {name: span.parent_id for name, span in found.items()}
    run, attempt = found["target_run"], found["attempt"]
    assert parents["launch"] == parents["queue"] == parents["target_run"] == CALLER.span_id
    assert parents["claim"] == parents["attempt"] == parents["commit"] == run.span_id
    assert parents["exec"] == attempt.span_id
    assert run.attributes["opsjobs.execution"] == execution.id
    assert run.attributes["opsjobs.status"] == "failed"
    assert found["exec"].attributes["opsjobs.exit_code"] == 3
    assert found["exec"].attributes["error.type"] == "nonzero_exit"
    assert found["exec"].failed
    assert all(span.began <= span.ended for span in spans())
    assert CANARY not in str(spans())


async def test_the_sampling_of_the_caller_is_respected(database: Database, spans: Spans) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([RemoteExit(0)])
        with trace_context.within(UNSAMPLED):
            execution = await on.launch("true", 1)
        async with on.worker():
            await on.ended(execution)
    assert spans() == []
    [row] = await database.fetch("select traceparent from execution_specs")
    assert TraceContext.parse(row["traceparent"]) == TraceContext(
        UNSAMPLED.trace_id, UNSAMPLED.span_id, remote=True
    )


async def test_a_request_is_a_span_that_continues_the_trace_of_its_caller(
    database: Database, spans: Spans
) -> None:
    async with api_client(database) as ada:
        await ada.http.get("/jobs", headers={"traceparent": CALLER.traceparent})
        await ada.http.get("/jobs/999", headers={"traceparent": "garbage"})
    listed, missing = spans()
    assert (listed.name, listed.trace_id, listed.parent_id) == (
        "GET /jobs",
        CALLER.trace_id,
        CALLER.span_id,
    )
    assert listed.attributes["http.response.status_code"] == 200
    assert listed.attributes["http.route"] == "/jobs"
    assert missing.parent_id == ""
    assert missing.trace_id != CALLER.trace_id
    assert not missing.failed, "a 404 is no fault of the server"
    assert ada.token not in str(spans())


async def test_probes_begin_no_trace_that_is_recorded(database: Database, spans: Spans) -> None:
    async with api_client(database) as ada:
        await ada.http.get("/livez")
        assert spans() == []
        await ada.http.get("/livez", headers={"traceparent": CALLER.traceparent})
    assert [span.name for span in spans()] == ["GET /livez"]


async def test_a_launch_by_a_schedule_has_a_trace_of_its_own_with_a_link(
    database: Database, spans: Spans
) -> None:
    on = ScheduleHarness(database)
    await on.schedule(await on.job())
    await on.turn(seconds=61)
    with trace_context.within(CALLER):
        assert await on.scheduler().run_once() == {"pending": 1, "triggered": 1}
    found = _named(spans())
    one, two = found["firing_pass"], found["firing"]
    assert len({one.trace_id, two.trace_id, CALLER.trace_id}) == 3
    assert (two.parent_id, two.links) == ("", [one.trace_id])
    [row] = await database.fetch("select traceparent from execution_specs")
    assert row["traceparent"].split("-")[1:3] == [two.trace_id, two.span_id]


async def test_an_event_has_the_trace_of_its_request_without_any_recorder(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        job = {"name": "n", "actions": [{"type": "command", "command": "true"}]}
        await ada.http.post("/jobs", json=job, headers={"traceparent": CALLER.traceparent})
    rows = await database.fetch("select type, traceparent from events order by id")
    assert [(row["type"], row["traceparent"]) for row in rows] == [
        ("job.created", CALLER.traceparent)
    ]


async def test_a_delivery_continues_the_trace_of_its_event(
    database: Database, spans: Spans
) -> None:
    seen = list[str | None]()

    class Receiver(RecordingDestination):
        async def send(self, delivery: Delivery) -> SendOutcome:
            seen.append(trace_context.traceparent())
            return await super().send(delivery)

    event = {"id": "1", "traceparent": CALLER.traceparent, "data": {"secret": CANARY}}
    message = Message("m-1", "job.created", "s", {"event": event}, datetime(2026, 3, 1, tzinfo=UTC))
    async with sending_to(database, Receiver()):
        async with database.transaction() as connection:
            receivers = [DeliveryReceiver("post", "a")]
            await queue_deliveries(connection, "test", [NewDelivery(message, receivers)])
        await until(lambda: bool(spans()))
    [span] = spans()
    assert (span.name, span.trace_id, span.parent_id) == (
        "deliver",
        CALLER.trace_id,
        CALLER.span_id,
    )
    assert seen == [f"00-{CALLER.trace_id}-{span.span_id}-01"]
    assert CANARY not in str(span)


async def test_a_webhook_gets_the_trace_of_the_launch(database: Database, spans: Spans) -> None:
    async with webhook_harness(database) as all_, receiver() as server:
        await all_.add(server, events=["execution.queued"])
        with trace_context.within(CALLER):
            execution = await all_.on.launch()
        await all_.pass_all()
        [received] = server.received
        async with all_.on.worker():
            await all_.on.ended(execution)
    deliver = _named(spans())["deliver"]
    assert received.headers["traceparent"] == f"00-{CALLER.trace_id}-{deliver.span_id}-01"
    assert received.event["traceparent"] == CALLER.traceparent
    assert deliver.parent_id == CALLER.span_id
    assert deliver.attributes["http.response.status_code"] == 204


def test_an_exception_is_named_by_its_code_and_its_message_is_left_out(spans: Spans) -> None:
    with (
        pytest.raises(ValueError, match=CANARY),
        tracing.entry("outer", None),
        tracing.span("inner"),
    ):
        raise ValueError(CANARY)
    assert [span.attributes["error.type"] for span in spans()] == ["ValueError", "ValueError"]
    assert CANARY not in str(spans())


def test_what_asks_for_traces() -> None:
    asked = tracing.is_requested
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert not asked({})
    assert asked(endpoint)
    assert asked({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"})
    assert asked({"OTEL_TRACES_EXPORTER": "otlp"})
    assert not asked({**endpoint, "OTEL_TRACES_EXPORTER": "none"})
    assert not asked({**endpoint, "OTEL_SDK_DISABLED": "true"})


_PROCESS = """
import sys
import opsjobs.api.app, opsjobs.composition.worker, opsjobs.composition.scheduler
from opsjobs.telemetry import tracing
tracing.start('api')
with tracing.entry('request', None), tracing.span('x') as span:
    span.annotate(a=1)
print([name for name in sys.modules if name.startswith({prefixes!r})])
"""
_NOT_INSTALLED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    ("before", "prefixes"),
    [
        # FastAPI needs the API of OpenTelemetry, and redis imports parts of it.
        (_NOT_INSTALLED, ("opentelemetry.sdk", "opentelemetry.exporter", "opsjobs.telemetry.otel")),
        ("", ("opentelemetry.exporter", "opentelemetry.sdk.trace", "opsjobs.telemetry.otel")),
    ],
    ids=["not installed", "not asked for"],
)
def test_nothing_of_opentelemetry_is_imported_unless_traces_are_asked_for(
    before: str, prefixes: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", before + _PROCESS.format(prefixes=prefixes)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_a_collector_that_is_down_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    recorder = build_recorder("test")
    logger = logging.getLogger(OTLPSpanExporter.__module__)
    try:
        for _ in range(3):
            logger.warning("Transient error")
            logger.error("Failed to export")
    finally:
        recorder.stop()
        logger.filters.clear()
    assert [record.message for record in caplog.records] == ["Failed to export"]


def test_without_a_recorder_a_span_is_one_shared_object() -> None:
    with trace_context.within(CALLER):
        assert tracing.span("a") is tracing.span("b")


def test_without_the_extra_a_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setattr(tracing, "_LIBRARIES", ("opentelemetry_that_is_not_there.sdk",))
    with capture_logs() as lines:
        tracing.start("api")
    assert [(line["event"], line["hint"]) for line in lines] == [
        ("traces_not_recorded", "pip install 'opsconductor-jobs[otel]'")
    ]
    assert not tracing.is_active()
