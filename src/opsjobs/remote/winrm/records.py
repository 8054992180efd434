"""The records of a PowerShell pipeline as text on the two streams of a command.

| record | stream | text |
|---|---|---|
| output | stdout | a text as it is; of an object its text, or its properties |
| information (Write-Host) | stdout | its message |
| error | stderr | its message, the position and the id |
| warning, verbose, debug | stderr | with the prefix of PowerShell, such as `WARNING: ` |
| progress | stderr | `PROGRESS: activity: status (40 %)`, once a second for each activity |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psrpcore
from psrpcore.types import ProgressRecordType, PSObject

from opsjobs.remote.session import Stream

PROGRESS_SECONDS = 1.0
PROPERTIES_MAX = 200
_PREFIXES = {
    psrpcore.WarningRecordEvent: "WARNING",
    psrpcore.VerboseRecordEvent: "VERBOSE",
    psrpcore.DebugRecordEvent: "DEBUG",
}


class RecordWriter:
    """Writes records to a command's output, in UTF-8."""

    def __init__(self, put: Callable[[Stream, bytes], None]) -> None:
        self._put = put
        self._progress_at: dict[int, float] = {}

    def write(self, event: Any) -> None:
        """Write one record; events that are no record are left out."""
        if isinstance(event, psrpcore.PipelineOutputEvent):
            self._line("stdout", render(event.data))
        elif isinstance(event, psrpcore.InformationRecordEvent):
            self._write_information(event.record.MessageData)
        elif isinstance(event, psrpcore.ErrorRecordEvent):
            self.write_error(event.record)
        elif isinstance(event, psrpcore.ProgressRecordEvent):
            self._write_progress(event.record)
        elif (prefix := _PREFIXES.get(type(event))) is not None:
            self._line("stderr", f"{prefix}: {event.record.Message}")

    def write_error(self, record: Any) -> None:
        """Write an error record, or None."""
        if record is None:
            return
        details = getattr(record, "ErrorDetails", None)
        words = [getattr(details, "Message", None) or str(record)]
        position = getattr(getattr(record, "InvocationInfo", None), "PositionMessage", None)
        words += [str(position)] if position else []
        identifier = getattr(record, "FullyQualifiedErrorId", None)
        words += [f"    + FullyQualifiedErrorId : {identifier}"] if identifier else []
        self._line("stderr", "\n".join(words))

    def _write_information(self, data: Any) -> None:
        message = getattr(data, "Message", None)
        text = render(data) if message is None else str(message)
        end = "" if getattr(data, "NoNewLine", False) else "\n"
        self._put("stdout", (text + end).encode("utf-8", "surrogatepass"))

    def _write_progress(self, record: Any) -> None:
        now, key = time.monotonic(), int(record.ActivityId)
        if record.RecordType == ProgressRecordType.Completed:
            self._progress_at.pop(key, None)
            return
        if now - self._progress_at.get(key, -PROGRESS_SECONDS) < PROGRESS_SECONDS:
            return
        self._progress_at[key] = now
        percent = f" ({record.PercentComplete} %)" if record.PercentComplete >= 0 else ""
        self._line("stderr", f"PROGRESS: {record.Activity}: {record.StatusDescription}{percent}")

    def _line(self, stream: Stream, text: str) -> None:
        self._put(stream, f"{text}\n".encode("utf-8", "surrogatepass"))


def render(value: Any) -> str:
    """Return an object as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(bool(value))
    if isinstance(value, (list, tuple)):
        return "\n".join(render(one) for one in value)
    if isinstance(value, dict):
        return "\n".join(f"{render(key)} : {render(one)}" for key, one in value.items())
    if type(value) is PSObject or type(value).__name__ == "PSCustomObject":
        return _render_object(value)
    return str(value)


def _render_object(value: Any) -> str:
    meta = value.PSObject
    if meta.to_string is not None:
        return str(meta.to_string)
    properties = [*meta.adapted_properties, *meta.extended_properties][:PROPERTIES_MAX]
    width = max((len(one.name) for one in properties), default=0)
    return "\n".join(f"{one.name:{width}} : {_shorten(one.get_value(value))}" for one in properties)


def _shorten(value: Any) -> str:
    """Return the value of a property on one line."""
    return " ".join(render(value).split("\n"))
