"""Wire formats of the execution log: JSON items, ndjson lines, Server-Sent Events frames."""

from __future__ import annotations

import base64
import json
from typing import Any

from opsjobs.model.errors import Refusal
from opsjobs.model.execution import Execution, moment
from opsjobs.store.execution_log import LogEntry

KEEP_ALIVE = b": keep-alive\n\n"


def entry_data(entry: LogEntry) -> dict[str, Any]:
    """Return the data of an entry: for output its text, for other events the entry's body.

    Output that is not UTF-8 is in `data_base64`.
    """
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


def render_item(entry: LogEntry) -> dict[str, Any]:
    """Return `{seq, at, event, data}`."""
    return {
        "seq": entry.seq,
        "at": moment(entry.at),
        "event": entry.event,
        "data": entry_data(entry),
    }


def encode_line(entry: LogEntry) -> bytes:
    """Return the item as one line of ndjson."""
    return encode_json(render_item(entry)) + b"\n"


def encode_frame(entry: LogEntry) -> bytes:
    """Return the entry as an SSE frame whose id is its position in the log."""
    return _frame(entry.seq, entry.event, encode_json(entry_data(entry)))


def encode_end(execution: Execution) -> bytes:
    """Return the last frame of an execution that has ended.

    For viewers who connect after its `end` entry, or if the log has none.
    """
    body = {"status": execution.status.value, "counts": dict(execution.counts)}
    return _frame(execution.last_seq, "end", encode_json(body))


def encode_refusal(position: int, refusal: Refusal) -> bytes:
    """Return the last frame of a stream whose viewer has lost the permission.

    It has the answer that a new request would get. Its id is the viewer's position, so that a
    client that resumes misses and repeats nothing.
    """
    body = {"status": refusal.status, "code": refusal.code, "detail": refusal.detail}
    return _frame(position, "refused", encode_json(body))


def encode_json(value: Any) -> bytes:
    """Return JSON on one line, as UTF-8."""
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
