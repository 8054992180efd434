"""Parse responses of the spool: records among arbitrary bytes, and the end of a run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace

from opsjobs.model.execution import CancelProof
from opsjobs.remote.output_buffer import PIECE_BYTES
from opsjobs.remote.session import CancelOutcome, Cause, Output, RemoteExit, Stream

RECORD_BYTES = 4096
"""The maximum length of a record, and of the login scripts' output that is kept."""

Record = tuple[str, ...]
"""A record without its nonce."""

_CAUSES: tuple[Cause, ...] = (
    "timeout",
    "output_limit",
    "cancel",
    "disk_full",
    "interpreter",
    "folder",
    "storage",
)
_NAMES = {int(number): number.name.removeprefix("SIG") for number in signal.Signals}
_NOTHING = "-"
_STREAMS: dict[str, Stream] = {"1": "stdout", "2": "stderr"}


class RecordParser:
    """Split one stream of a channel into records, and the output between them.

    Only a program that was given the nonce can write a record. `stream` is the stream for output
    that no record assigns to a stream (None: discard it).
    """

    def __init__(self, nonce: str, stream: Stream | None = None) -> None:
        self._mark = nonce.encode() + b" "
        self._held = b""
        self._base = stream
        self._stream = stream
        self.noise = b""
        """Output before the first record, by login scripts or by a shell that reports errors."""

    def feed(self, data: bytes) -> Iterator[Output | Record]:
        """Yield records and output, in order; hold back only a possible start of a record."""
        data = self._held + data
        self._held = b""
        start = 0
        while (at := data.find(self._mark, start)) >= 0:
            end = data.find(b"\n", at)
            if end < 0 and len(data) - at < RECORD_BYTES:
                break
            yield from self._emit_output(data[start:at])
            yield self._record(data[at + len(self._mark) : end])
            start = end + 1
        keep = len(data) - at if at >= 0 else self._beginning(data[start:])
        self._held = data[len(data) - keep :]
        yield from self._emit_output(data[start : len(data) - keep])

    def rest(self) -> Iterator[Output]:
        """Yield the bytes that were held back when the stream ended."""
        held, self._held = self._held, b""
        if held:
            yield from self._emit_output(held)

    def complain(self, data: bytes) -> None:
        """Keep output of another stream, in case there is no better explanation."""
        if self._stream is None:
            self.noise = (self.noise + data)[:RECORD_BYTES]

    def _beginning(self, data: bytes) -> int:
        """Return how many of the last bytes may be the start of a record."""
        tail = data[1 - len(self._mark) :]
        at = tail.find(self._mark[:1])
        while at >= 0 and not self._mark.startswith(tail[at:]):
            at = tail.find(self._mark[:1], at + 1)
        return len(tail) - at if at >= 0 else 0

    def _record(self, line: bytes) -> Record:
        word = tuple(line.decode(errors="replace").split())
        self._stream = _STREAMS.get(word[0], self._base) if word else self._base
        return word

    def _emit_output(self, data: bytes) -> Iterator[Output]:
        if self._stream is None:
            self.complain(data)
            return
        for at in range(0, len(data), PIECE_BYTES):
            yield Output(self._stream, data[at : at + PIECE_BYTES])


def parse_exit(status: str, cause: str) -> RemoteExit:
    """Return the exit from `3` or `s15`, and one of the causes or `-`.

    Raises ValueError for anything else.
    """
    # If two writers had a cause at the same time, one overwrote the other: the rest of a longer
    # word may remain.
    why = next((known for known in _CAUSES if cause.startswith(known)), None)
    if status.startswith("s"):
        number = int(status[1:])
        return RemoteExit(None, _NAMES.get(number, str(number)), why)
    ended = RemoteExit(int(status), None, why)
    return replace(ended, code=None) if ended.never_started else ended


def parse_cancel(answer: Record) -> CancelOutcome:
    """Return the outcome in a cancel's response: the proof, and the exit if the run ended.

    An end without its words proves the end, and not its exit.
    """
    _, proof, *end = answer
    return CancelOutcome(
        CancelProof(proof), parse_exit(*end) if len(end) == 2 and end[0] != _NOTHING else None
    )


def parse_look(answer: Record) -> CancelOutcome | None:
    """Return the outcome in a look's response: None while the run is running or starting."""
    _, state, *end = answer
    match state:
        case "L" | "E":
            return None
        case "N" | "V":
            return CancelOutcome(CancelProof.NEVER_STARTED)
        case "D" if len(end) == 2:
            return CancelOutcome(CancelProof.ALREADY_FINISHED, parse_exit(*end))
        case _:
            return CancelOutcome(CancelProof.ALREADY_FINISHED)
