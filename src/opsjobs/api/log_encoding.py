"""The wire forms of the execution log: an item of JSON, a line of ndjson, a frame of Server-Sent Events."""

from __future__ import annotations

import base64
import json
from typing import Any

from opsjobs.model.errors import Refusal
from opsjobs.model.execution import Execution, moment
from opsjobs.store.execution_log import LogEntry

KEEP_ALIVE = b": keep-alive\n\n"


def data(entry: LogEntry) -> dict[str, Any]:
    """What an entry says: output with its text, or `data_base64` where the bytes are not UTF-8; else the entry's body."""
    if entry.event != "output":
        ours = (
            {}
            if entry.target_run is None
            else {"target_run": entry.target_run, "target": entry.target}
        )
        return {**ours, **(entry.body or {})}
    return {
        "target_run": entry.target_run,
        "target": entry.target,
        "action": entry.action,
        "attempt": entry.attempt,
        "stream": entry.stream,
        "offset": entry.start_offset,
        **_bytes(entry),
    }


def item(entry: LogEntry) -> dict[str, Any]:
    """`{seq, at, event, data}`."""
    return {"seq": entry.seq, "at": moment(entry.at), "event": entry.event, "data": data(entry)}


def line(entry: LogEntry) -> bytes:
    """The item as one line of ndjson."""
    return compact(item(entry)) + b"\n"


def sse(entry: LogEntry) -> bytes:
    """The entry as an SSE frame whose id is its position in the log."""
    return _frame(entry.seq, entry.event, compact(data(entry)))


def end(execution: Execution) -> bytes:
    """The last frame of an execution that ended, for whoever comes after its `end` entry was read, or where it has none."""
    told = {"status": execution.status.value, "counts": dict(execution.counts)}
    return _frame(execution.last_seq, "end", compact(told))


def refused(position: int, refusal: Refusal) -> bytes:
    """The last frame of a stream whose viewer may have it no more: what a new request would be answered. Its id is the position
    that he had, so that whoever resumes misses and repeats nothing.
    """
    told = {"status": refusal.status, "code": refusal.code, "detail": refusal.detail}
    return _frame(position, "refused", compact(told))


def compact(value: Any) -> bytes:
    """JSON on one line, as UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _frame(seq: int, event: str, text: bytes) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, event.encode(), text)


def _bytes(entry: LogEntry) -> dict[str, Any]:
    if entry.data is None:
        return {"dropped": entry.dropped}
    try:
        return {"data": entry.data.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(entry.data).decode()}
