"""Forms of the execution log: JSON items, ndjson, Server-Sent Events, lines of text."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from opsjobs.model.errors import Refusal
from opsjobs.model.execution import moment
from opsjobs.model.run_views import Execution
from opsjobs.store.execution_log import LogEntry


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
    return _frame(
        entry.seq, entry.event, encode_json({**entry_data(entry), "at": moment(entry.at)})
    )


def encode_end(execution: Execution) -> bytes:
    """Return the last frame of an execution that has ended.

    For viewers who connect after its `end` entry, or if the log has none.
    """
    body = {
        "status": execution.status.value,
        "counts": dict(execution.counts),
        "at": moment(execution.finished_at),
    }
    return _frame(execution.last_seq, "end", encode_json(body))


def encode_keep_alive(position: int | None) -> bytes:
    """Return a comment, and the position that was reached, if the viewer has not seen it.

    A client that resumes begins there. A frame without data is no event for it.
    """
    return b": keep-alive\n\n" if position is None else b": keep-alive\nid: %d\n\n" % position


def encode_refusal(position: int, refusal: Refusal) -> bytes:
    """Return the last frame of a stream whose viewer has lost the permission.

    It contains the response that a new request would get. Its id is the viewer's position, so that
    a client that resumes misses and repeats nothing.
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


LINE_BYTES = 16 << 10
"""A longer line is split into pieces."""
HELD_BYTES = 4 << 20
"""If more than this is held, all incomplete lines are output as they are."""


@dataclass(slots=True)
class _Begun:
    origin: tuple[str | None, int | None]
    held: bytearray = field(default_factory=bytearray)


class LineAssembler:
    """Assembler of output entries, fed in order, into complete lines `NAME | text`.

    Lines of different streams are never mixed, and a last line without a line feed gets one.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._begun: dict[tuple[int, str], _Begun] = {}
        self._held_bytes = 0

    def feed(self, entry: LogEntry) -> bytes:
        """Return the lines that this entry completes."""
        assert entry.target_run is not None
        assert entry.stream is not None
        prefix = self._names.get(entry.target_run, str(entry.target_run)).encode() + b" | "
        key, origin = (entry.target_run, entry.stream), (entry.action, entry.attempt)
        begun = self._begun.get(key)
        out = bytearray()
        if begun is not None and (begun.origin != origin or entry.data is None):
            out += self._let_out(key, prefix)
            begun = None
        if entry.data is None:
            return (
                bytes(out)
                + prefix
                + b"[%d bytes of %s were not kept]\n" % (entry.dropped or 0, entry.stream.encode())
            )
        out += self._whole(key, prefix, begun or _Begun(origin), entry.data)
        if self._held_bytes > HELD_BYTES:
            out += self.rest()
        return bytes(out)

    def rest(self) -> bytes:
        """Return the incomplete lines."""
        prefixes = (
            (key, self._names.get(key[0], str(key[0])).encode() + b" | ")
            for key in list(self._begun)
        )
        return b"".join(self._let_out(key, prefix) for key, prefix in prefixes)

    def _whole(self, key: tuple[int, str], prefix: bytes, begun: _Begun, data: bytes) -> bytes:
        self._held_bytes -= len(begun.held)
        *lines, tail = (bytes(begun.held) + data).split(b"\n")
        out = b"".join(prefix + piece + b"\n" for line in lines for piece in _pieces(line))
        *early, tail = _pieces(tail)
        out += b"".join(prefix + piece + b"\n" for piece in early)
        if tail:
            self._begun[key] = _Begun(begun.origin, bytearray(tail))
            self._held_bytes += len(tail)
        else:
            self._begun.pop(key, None)
        return out

    def _let_out(self, key: tuple[int, str], prefix: bytes) -> bytes:
        begun = self._begun.pop(key)
        self._held_bytes -= len(begun.held)
        return prefix + bytes(begun.held) + b"\n"


def _pieces(line: bytes) -> Iterator[bytes]:
    for start in range(0, max(len(line), 1), LINE_BYTES):
        yield line[start : start + LINE_BYTES]
