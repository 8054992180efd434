"""From bytes to log entries: secrets masked, head and tail of each stream kept, cut at character borders, what was left out told."""

from __future__ import annotations

from collections.abc import Callable

from opsjobs.engine.runs.run_journal import CHUNK_BYTES, AttemptEntry
from opsjobs.model.masking import SPAN_BYTES, Mask
from opsjobs.remote.session import Output, Stream

TAIL_BYTES = 64 << 10


class Capture:
    """One action's output: keeps the head of each stream up to the limit and the last 64 KiB, and says what it left out.

    `stored`: how far the log had come (stdout, stderr) when this worker took the action up; the next bytes are those at `wanted`.
    `heard`: who listens to its standard output, beside the log, from `stored` on. Secrets of the run are masked for both.
    `again`: what was stored before can be read once more.
    """

    def __init__(
        self,
        page: AttemptEntry,
        limit_bytes: int,
        stored: tuple[int, int] = (0, 0),
        *,
        heard: Callable[[bytes], None] | None = None,
        again: bool = False,
    ) -> None:
        stdout, stderr = (Masked(page.run.mask, size, again=again) for size in stored)
        self._streams: dict[Stream, _StreamCapture] = {
            "stdout": _StreamCapture(page, "stdout", limit_bytes, stdout, heard),
            "stderr": _StreamCapture(page, "stderr", limit_bytes, stderr),
        }

    def add(self, piece: Output) -> None:
        """Take a piece as it came; nothing is kept of it beyond head and tail."""
        self._streams[piece.stream].add(piece.data)

    def finish(self) -> tuple[int, int]:
        """Hand over what was held back; says how many bytes the target wrote to stdout and stderr."""
        for stream in self._streams.values():
            stream.finish()
        return self.written

    @property
    def written(self) -> tuple[int, int]:
        """Bytes that the target wrote so far to stdout and stderr."""
        return self._streams["stdout"].written, self._streams["stderr"].written

    @property
    def wanted(self) -> tuple[int, int]:
        """From where on (stdout, stderr) the target is to be read.

        Not all that is before is on record: some of it may be held back. And of what is, the last bytes are read once more where
        another worker has stored them: a secret that began there is known by its beginning.
        """
        return self._streams["stdout"].wanted, self._streams["stderr"].wanted

    @property
    def head_bytes(self) -> int | None:
        """How much of stdout is on record before the gap; None without one. Known once it has finished."""
        return self._streams["stdout"].head_bytes


class Masked:
    """A stream's bytes without the run's secrets, from `stored` on; with `again` they are wanted from a little before that on."""

    def __init__(self, mask: Mask, stored: int, *, again: bool) -> None:
        self._masking = mask.stream()
        self._known = min(stored, SPAN_BYTES) if again and self._masking is not None else 0
        self.stored = stored
        self.wanted = stored - self._known

    def add(self, data: bytes) -> bytes:
        """The bytes at `wanted`; gives those of which it is certain what they are, and that are not on record."""
        self.wanted += len(data)
        return data if self._masking is None else self._new(self._masking.add(data))

    def finish(self) -> bytes:
        """What was held back."""
        return b"" if self._masking is None else self._new(self._masking.finish())

    def _new(self, data: bytes) -> bytes:
        known = min(self._known, len(data))
        self._known -= known
        return data[known:] if known else data


class _StreamCapture:
    def __init__(
        self, page: AttemptEntry, stream: Stream, limit_bytes: int, masked: Masked, heard: Callable[[bytes], None] | None = None
    ) -> None:
        self._page = page
        self._masked = masked
        self._heard = heard
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
        self._take(self._masked.add(data))
        self.written = max(self.written, self._masked.wanted)

    def _take(self, data: bytes) -> None:
        if self._heard is not None:
            self._heard(data)
        room = self._limit - self._taken
        self._taken += len(data)
        if room > 0:
            self._keep(data[:room])
        if room < len(data):
            self._remember(data[max(room, 0) :])

    def _keep(self, data: bytes) -> None:
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
            self._page.output(self._stream, self._stored, piece)
            self._stored += len(piece)
            at += len(piece)

    def _remember(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def finish(self) -> None:
        self._take(self._masked.finish())
        held, self._held = self._held, b""
        tail = bytes(self._tail[-TAIL_BYTES:])
        dropped = self.written - self._stored - len(held) - len(tail)
        if dropped > 0:
            # A character that the limit or the tail's beginning cuts in two is left out whole.
            self.head_bytes = self._stored
            border = _begun_before(tail)
            self._leave_out(len(held) + dropped + border)
            self._store(tail[border:])
        else:
            self._store(held + tail)

    def _leave_out(self, size_bytes: int) -> None:
        self._page.dropped(self._stream, self._stored, size_bytes)
        self._stored += size_bytes


def _begun_before(data: bytes) -> int:
    """How many bytes at the beginning (0 to 3) can only be the rest of a UTF-8 character."""
    return next((at for at, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80), min(3, len(data)))


def _cut_character(data: bytes) -> int:
    """How many bytes at the end (0 to 3) are the beginning of a UTF-8 character that goes on in the next piece."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if byte < 0xF8 and needed > back else 0
        if byte < 0x80:
            return 0
    return 0
