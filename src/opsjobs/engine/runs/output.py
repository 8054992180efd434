"""Turn a command's output into log entries, and keep stdout for later actions.

Secrets are redacted, head and tail of each stream are kept, cuts fall between characters, and gaps
are recorded. The outputs of an action are values from its standard output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from opsjobs.engine.runs.run_journal import CHUNK_BYTES, AttemptEntry
from opsjobs.model.masking import SPAN_BYTES, Mask
from opsjobs.model.output_encoding import TextDecoder
from opsjobs.remote.session import Output, Stream

TAIL_BYTES = 64 << 10
# The length of a UTF-8 sequence by its first byte: the first limit above that byte counts.
_SEQUENCES = ((0xE0, 2), (0xF0, 3), (0xF8, 4))


class Capture:
    """The output of one attempt: the head of each stream up to the limit, and the last 64 KiB.

    The bytes in between are recorded as dropped.
    """

    def __init__(
        self,
        entry: AttemptEntry,
        limit_bytes: int,
        stored: tuple[int, int] = (0, 0),
        *,
        listener: Callable[[bytes], None] | None = None,
        reread: bool = False,
        encoding: str | None = None,
    ) -> None:
        """Capture from `stored` on: the bytes of stdout and stderr that the log already holds.

        The caller adds the bytes from `wanted` on.

        `listener` also receives stdout from `stored` on, redacted like the log. `reread`: bytes
        stored before can be read once more from the target. `encoding`: what the output is decoded
        from; the offsets of the log are then those of the text.
        """
        stdout, stderr = (
            Masked(
                entry.run.mask,
                size,
                reread=reread,
                decoder=TextDecoder(encoding) if encoding is not None else None,
            )
            for size in stored
        )
        self._streams: dict[Stream, _StreamCapture] = {
            "stdout": _StreamCapture(entry, "stdout", limit_bytes, stdout, listener),
            "stderr": _StreamCapture(entry, "stderr", limit_bytes, stderr),
        }

    def add(self, piece: Output) -> None:
        """Add a piece of output as received; only head and tail are kept in memory."""
        self._streams[piece.stream].add(piece.data)

    def finish(self) -> tuple[int, int]:
        """Store the held-back bytes; return how many the target wrote to stdout and stderr."""
        for stream in self._streams.values():
            stream.finish()
        return self.written

    @property
    def written(self) -> tuple[int, int]:
        """Bytes that the target has written to stdout and stderr so far, once decoded."""
        return self._streams["stdout"].written, self._streams["stderr"].written

    @property
    def wanted(self) -> tuple[int, int]:
        """Offsets (stdout, stderr) from which the target's output is to be read.

        Some output before them may be held back and not stored yet. If another worker stored
        output, its last bytes are read once more: a secret that started in them is recognized only
        from its start.
        """
        return self._streams["stdout"].wanted, self._streams["stderr"].wanted

    @property
    def head_bytes(self) -> int | None:
        """Bytes of stdout before the gap; None without a gap, and before `finish`."""
        return self._streams["stdout"].head_bytes


class Masked:
    """A stream's bytes, decoded and with the run's secrets redacted, from `stored` on.

    With `reread`, reading starts a little before that offset, or at 0 if the bytes are decoded: no
    offset of the text is one of the target's.
    """

    def __init__(
        self, mask: Mask, stored: int, *, reread: bool, decoder: TextDecoder | None = None
    ) -> None:
        self._masking = mask.stream()
        self._decoder = decoder
        if not reread or (decoder is None and self._masking is None):
            self._repeated = 0
        else:
            self._repeated = stored if decoder is not None else min(stored, SPAN_BYTES)
        self.stored = stored
        self.wanted = self.read = stored - self._repeated

    def add(self, data: bytes) -> bytes:
        """Add the bytes at `wanted`; return those that are final and not stored yet.

        `read` counts them once they are decoded.
        """
        self.wanted += len(data)
        if self._decoder is not None:
            data = self._decoder.add(data)
        self.read += len(data)
        return self._new(data if self._masking is None else self._masking.add(data))

    def finish(self) -> bytes:
        """Return the bytes that were held back."""
        data = self._decoder.finish() if self._decoder is not None else b""
        self.read += len(data)
        if self._masking is not None:
            data = (self._masking.add(data) if data else b"") + self._masking.finish()
        return self._new(data)

    def _new(self, data: bytes) -> bytes:
        repeated = min(self._repeated, len(data))
        self._repeated -= repeated
        return data[repeated:] if repeated else data


class _StreamCapture:
    def __init__(
        self,
        entry: AttemptEntry,
        stream: Stream,
        limit_bytes: int,
        masked: Masked,
        listener: Callable[[bytes], None] | None = None,
    ) -> None:
        self._entry = entry
        self._masked = masked
        self._listener = listener
        self._stream: Stream = stream
        self._limit = limit_bytes
        self.written = self._taken = self._stored = masked.stored
        self._held = b""
        self._tail = bytearray()
        self.head_bytes: int | None = None

    @property
    def wanted(self) -> int:
        return self._masked.wanted

    def add(self, data: bytes) -> None:
        self._accept(self._masked.add(data))
        self.written = max(self.written, self._masked.read)

    def _accept(self, data: bytes) -> None:
        if self._listener is not None:
            self._listener(data)
        room = self._limit - self._taken
        self._taken += len(data)
        if room > 0:
            self._keep_head(data[:room])
        if room < len(data):
            self._keep_tail(data[max(room, 0) :])

    def _keep_head(self, data: bytes) -> None:
        data = self._held + data
        whole = len(data) - _cut_character(data)
        self._held = data[whole:]
        self._store(data[:whole])

    def _store(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            piece = data[at : at + CHUNK_BYTES]
            if at + len(piece) < len(data):
                piece = piece[: len(piece) - _cut_character(piece)]
            self._entry.write_output(self._stream, self._stored, piece)
            self._stored += len(piece)
            at += len(piece)

    def _keep_tail(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def finish(self) -> None:
        self._accept(self._masked.finish())
        self.written = max(self.written, self._masked.read)
        held, self._held = self._held, b""
        tail = bytes(self._tail[-TAIL_BYTES:])
        dropped = self.written - self._stored - len(held) - len(tail)
        if dropped > 0:
            # A character that is split by the limit or by the start of the tail is dropped whole.
            self.head_bytes = self._stored
            border = _begun_before(tail)
            self._leave_out(len(held) + dropped + border)
            self._store(tail[border:])
        else:
            self._store(held + tail)

    def _leave_out(self, size_bytes: int) -> None:
        self._entry.note_dropped(self._stream, self._stored, size_bytes)
        self._stored += size_bytes


def _begun_before(data: bytes) -> int:
    """Return how many leading bytes (0 to 3) can only be the end of a split UTF-8 character."""
    return next((at for at, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80), min(3, len(data)))


def _cut_character(data: bytes) -> int:
    """Return how many trailing bytes (0 to 3) are the start of an incomplete UTF-8 character."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            needed = next((size for limit, size in _SEQUENCES if byte < limit), 0)
            return back if needed > back else 0
        if byte < 0x80:
            return 0
    return 0


class StdoutCapture:
    """Receives stdout in addition to the log."""

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

        `kept_bytes`: how many of them are stored before a gap; a later owner of the run can read
        only those.
        """
        return decode_head(bytes(self._head[:kept_bytes]))


def decode_head(head: bytes) -> str:
    """Return the head of a stream as text, without trailing line ends."""
    return head.decode("utf-8", "replace").rstrip("\r\n")


OUTPUTS_BYTES_MAX = 64 << 10
"""The limit of all values together (as JSON), of one line, and of `actions.KEY.stdout`."""

DEPTH_MAX = 20

Wanted = Literal["none", "json_lines", "last_line"]


class Outputs:
    """An incremental reader of a stream's outputs.

    Values beyond the limit are dropped; longer lines are not values."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._line = bytearray()
        self._too_long = False
        self._values: dict[str, Any] = {}
        self._last = ""

    def add(self, data: bytes) -> None:
        """Add the next bytes of standard output."""
        if self._wanted == "none":
            return
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._grow(line)
            self._end_line()
        self._grow(rest)

    def finish(self) -> dict[str, Any] | None:
        """Return the values; None if no outputs were requested."""
        if self._wanted == "none":
            return None
        self._end_line()
        values = {"last": self._last} if self._wanted == "last_line" else self._values
        return fitting(values)

    def _grow(self, data: bytes) -> None:
        if len(self._line) + len(data) > OUTPUTS_BYTES_MAX:
            self._too_long = True
            self._line.clear()
        elif not self._too_long:
            self._line += data

    def _end_line(self) -> None:
        line, too_long = bytes(self._line), self._too_long
        self._line.clear()
        self._too_long = False
        if too_long:
            return
        if self._wanted == "last_line":
            self._last = (
                line.decode("utf-8", "replace").rstrip("\r") if line.strip() else self._last
            )
        elif line.lstrip().startswith(b"{"):
            self._values |= _object(line)


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def fitting(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first values within the limit, cleaned for a jsonb column."""
    valid: dict[str, Any] = {}
    room = OUTPUTS_BYTES_MAX
    for name, value in values.items():
        clean = _clean({name: value})
        if (room := room - len(json.dumps(clean))) < 0:
            break
        valid |= clean
    return valid


def _clean(value: Any, depth: int = 0) -> Any:
    """Return the value without NUL, surrogates, infinite numbers and too deep nesting."""
    match value:
        case str():
            return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        case float():
            return value if math.isfinite(value) else None
        case dict() | list() if depth > DEPTH_MAX:
            return None
        case dict():
            return {_clean(name): _clean(item, depth + 1) for name, item in value.items()}
        case list():
            return [_clean(item, depth + 1) for item in value]
    return value
