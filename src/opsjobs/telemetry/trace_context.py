"""W3C trace context: the trace that the current work belongs to.

It needs no library: log lines have a trace id, and executions and events carry a traceparent, even
if no spans are recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from secrets import token_hex

HEADER = "traceparent"
_SAMPLED = 1
# Later versions may append fields after a dash; version ff is forbidden.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_TRACEPARENT_CHARACTERS_MAX = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: the trace, and the span that is the parent of what happens next."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    sampled: bool = False
    """True if the spans of this trace are recorded."""
    remote: bool = False
    """True if it was received from another process."""

    @classmethod
    def parse(cls, text: str | None) -> TraceContext | None:
        """Return the context of a traceparent; None if it is missing or malformed."""
        if not text or len(text) > _TRACEPARENT_CHARACTERS_MAX:
            return None
        found = _TRACEPARENT.fullmatch(text)
        if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
            return None
        trace_id, span_id = found[2], found[3]
        if not int(trace_id, 16) or not int(span_id, 16):
            return None
        return cls(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED), remote=True)

    @classmethod
    def begin(cls) -> TraceContext:
        """Return the context of a new trace, of which no span is recorded."""
        return cls(token_hex(16), token_hex(8))

    @property
    def traceparent(self) -> str:
        """The value of the `traceparent` header, in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


_current: ContextVar[TraceContext | None] = ContextVar("opsjobs_trace", default=None)


def current() -> TraceContext | None:
    """Return the context of the current task; None outside of any trace."""
    return _current.get()


def current_links() -> tuple[TraceContext, ...]:
    """Return the current context as the links of a new trace that it causes."""
    context = _current.get()
    return () if context is None else (context,)


def traceparent() -> str | None:
    """Return the current context as a header value; None outside of any trace."""
    context = _current.get()
    return context.traceparent if context is not None else None


def headers() -> dict[str, str]:
    """Return the header that passes the current trace on to another service."""
    context = _current.get()
    return {} if context is None else {HEADER: context.traceparent}


@contextmanager
def within(context: TraceContext) -> Iterator[None]:
    """Make this the current context, in this task and in the tasks that it starts."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
