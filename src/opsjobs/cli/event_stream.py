"""Server-sent events: a parser of their bytes, and when to retry a broken stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from opsjobs.backoff import Backoff
from opsjobs.cli.errors import CommandFailed
from opsjobs.model.units import describe_size

GIVE_UP_SECONDS = 300.0  # of a stream that cannot be resumed
PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 5.0
# Far above the largest chunk that the service sends: a guard against a broken server.
EVENT_BYTES_MAX = 32 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is the last id of the stream so far, "" before the first."""

    id: str
    event: str
    data: str


class Parser:
    """Incremental parser: bytes in any portions, complete events out (WHATWG HTML, 9.2)."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._after_cr = False
        self._begun = False
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    @property
    def last_id(self) -> str:
        """The last id of the stream, also of a frame without data; "" before the first."""
        return self._id

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
        """Return the lines that end in this portion: at CR, LF or CRLF, even if it is split."""
        if self._after_cr and portion:
            portion = portion.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or portion.endswith(b"\r")
        portion = portion.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._held_bytes += len(portion)
        if self._held_bytes > EVENT_BYTES_MAX:
            raise ValueError(f"an event is larger than {describe_size(EVENT_BYTES_MAX)}")
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


def is_new(event: Event, position: str) -> bool:
    """Return True if the event is new.

    `end` carries the id of the last entry, and is sent again on each new request.
    """
    return event.event == "end" or not event.id.isdigit() or int(event.id) > int(position or 0)


LOST = "lost the connection to the service"


class RetryLater(Exception):
    """The service is busy or starting, for the given reason: retry soon."""


class StreamRetry:
    """Retry policy of a broken stream. It reports the break once, and the resumption once."""

    def __init__(
        self,
        url: str,
        tell: Callable[[str], None],
        resume: Callable[[], str],
        *,
        consequence: str = "",
    ) -> None:
        """`resume`: the command that continues later. `consequence`: what the break means."""
        self._url, self._tell, self._resume = url, tell, resume
        self._consequence = consequence
        self._broken = False
        self._silent_since: float | None = None
        self._backoff = Backoff(PAUSE_SECONDS, PAUSE_SECONDS_MAX)

    def reset(self) -> None:
        """Start over, because data was received."""
        if self._broken:
            self._tell("reconnected")
        self._broken, self._silent_since = False, None
        self._backoff.reset()

    def report(self, reason: str) -> None:
        """Report why the stream broke, unless that was reported already."""
        if not self._broken:
            self._tell(f"{reason}; reconnecting{self._consequence}")
        self._broken = True

    def wait(self) -> None:
        """Wait before the next request. Raises CommandFailed after GIVE_UP_SECONDS."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > GIVE_UP_SECONDS:
            raise CommandFailed(
                f"{self._url} has not answered for {GIVE_UP_SECONDS:g} s{self._consequence}. "
                f"Once the service is back: {self._resume()}"
            )
        time.sleep(self._backoff.next())
