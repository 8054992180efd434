"""What later actions read of an action's standard output: its beginning, and the values that were asked for."""

from __future__ import annotations

from typing import Any

from opsjobs.model.outputs import OUTPUTS_BYTES_MAX, Outputs, Wanted


class StdoutCapture:
    """Listens to a stream beside the log."""

    def __init__(self, wanted: Wanted) -> None:
        self._outputs = Outputs(wanted)
        self._head = bytearray()

    def add(self, data: bytes) -> None:
        """The next bytes."""
        self._outputs.add(data)
        if (room := OUTPUTS_BYTES_MAX - len(self._head)) > 0:
            self._head += data[:room]

    def outputs(self) -> dict[str, Any] | None:
        """The values; None where none were asked for."""
        return self._outputs.finish()

    def text(self, kept_bytes: int | None = None) -> str:
        """The first 64 KiB as text, without the line ends at its end, as a shell reads it.

        `kept_bytes`: no more of it is on record before a gap, where whoever has the run next reads it.
        """
        return text_of(bytes(self._head[:kept_bytes]))


def text_of(head: bytes) -> str:
    """The beginning of a stream as text."""
    return head.decode("utf-8", "replace").rstrip("\r\n")
