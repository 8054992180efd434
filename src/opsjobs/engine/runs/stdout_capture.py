"""Capture the stdout of an action for later actions: its head, and the requested outputs."""

from __future__ import annotations

from typing import Any

from opsjobs.model.outputs import OUTPUTS_BYTES_MAX, Outputs, Wanted


class StdoutCapture:
    """Receives stdout beside the log."""

    def __init__(self, wanted: Wanted) -> None:
        self._outputs = Outputs(wanted)
        self._head = bytearray()

    def add(self, data: bytes) -> None:
        """Add the next bytes."""
        self._outputs.add(data)
        if (room := OUTPUTS_BYTES_MAX - len(self._head)) > 0:
            self._head += data[:room]

    def outputs(self) -> dict[str, Any] | None:
        """Return the values; None if none were requested."""
        return self._outputs.finish()

    def text(self, kept_bytes: int | None = None) -> str:
        """Return the first 64 KiB as text, without trailing line ends, as a shell reads it.

        `kept_bytes`: how much of it is stored before a gap, which is all that a later owner of the
        run can read.
        """
        return decode_head(bytes(self._head[:kept_bytes]))


def decode_head(head: bytes) -> str:
    """Return the beginning of a stream as text, without trailing line ends."""
    return head.decode("utf-8", "replace").rstrip("\r\n")
