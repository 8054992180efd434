"""Parser of server-sent events, from bytes in any portions (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from dataclasses import dataclass

# Far over the largest chunk that the service sends: a guard against a broken server.
EVENT_BYTES_MAX = 32 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is the last id of the stream so far, "" before the first."""

    id: str
    event: str
    data: str


class Parser:
    """Incremental parser: bytes in, complete events out."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._after_cr = False
        self._begun = False
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, portion: bytes) -> list[Event]:
        """Return the events that this portion completes.

        Raises ValueError if an event grows over 32 MiB.
        """
        events = []
        for line in self._lines(portion):
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        return events

    def _lines(self, portion: bytes) -> list[bytes]:
        """Return the lines that end in this portion: at CR, LF or CRLF, also if cut in between."""
        if self._after_cr and portion:
            portion = portion.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or portion.endswith(b"\r")
        portion = portion.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._held_bytes += len(portion)
        if self._held_bytes > EVENT_BYTES_MAX:
            raise ValueError(f"an event is larger than {EVENT_BYTES_MAX} bytes")
        self._pieces.append(portion)
        if b"\n" not in portion:
            return []
        *lines, rest = b"".join(self._pieces).split(b"\n")
        self._pieces = [rest]
        if not self._begun:
            self._begun, lines[0] = True, lines[0].removeprefix(b"\xef\xbb\xbf")
        return lines

    def _field(self, line: bytes) -> None:
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\x00" not in value:
            self._id = value

    def _dispatch(self) -> Event | None:
        name, data = self._event or "message", self._data
        self._event, self._data = "", []
        self._held_bytes = sum(map(len, self._pieces))
        return Event(self._id, name, "\n".join(data)) if data else None
