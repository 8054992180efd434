"""W3C trace context without a library."""

from __future__ import annotations

import asyncio

import pytest

from opsjobs.telemetry import trace_context
from opsjobs.telemetry.trace_context import TraceContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what-a-later-version-adds", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
    ],
)
def test_a_traceparent_is_read(text: str, sampled: bool) -> None:
    found = TraceContext.parse(text)
    assert found == TraceContext(TRACE, SPAN, sampled, remote=True)
    assert found.traceparent == f"00-{TRACE}-{SPAN}-0{int(sampled)}"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "garbage",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-" + "x" * 1_000,
        f"00-{TRACE[:-1]}-{SPAN}-01",
    ],
)
def test_a_malformed_traceparent_is_ignored(text: str | None) -> None:
    assert TraceContext.parse(text) is None


def test_a_new_trace_is_not_sampled_and_never_the_same() -> None:
    first, second = TraceContext.begin(), TraceContext.begin()
    assert first.trace_id != second.trace_id
    assert not first.sampled
    assert TraceContext.parse(first.traceparent) is not None


async def test_the_context_follows_the_tasks_that_are_started_within() -> None:
    async def seen() -> str | None:
        return trace_context.traceparent()

    one = TraceContext(TRACE, SPAN, sampled=True)
    with trace_context.within(one):
        task = asyncio.create_task(seen())
    assert await task == one.traceparent
    assert trace_context.current() is None
    assert trace_context.headers() == {}
