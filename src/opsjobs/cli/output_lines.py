"""Print remote output; with several targets, whole lines prefixed with the target's name."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

PARTIAL_BYTES_MAX = 65_536  # an incomplete line is not held back for longer

Write = Callable[[str, bytes], None]
"""A function that writes bytes to "stdout" or "stderr"."""

Source = tuple[object, object, object, str]
"""One stream of one action: target run, action, attempt, stdout or stderr."""


class OutputLines:
    """Writer of output events.

    With `names`, each line begins with `NAME | ` and is never mixed with another target's.
    """

    def __init__(self, write: Write, names: Callable[[str], str] | None) -> None:
        self._write = write
        self._names = names
        self._partial: dict[Source, bytes] = {}
        self._prefix: dict[str, bytes] = {}
        self._of: dict[Source, str] = {}

    def output(self, event: dict[str, Any]) -> None:
        """Write one `output` event: its bytes, or the notice that some were dropped."""
        source = (
            event.get("target_run"),
            event.get("action"),
            event.get("attempt"),
            _stream(event),
        )
        if self._names is None:
            self._write(source[3], bytes_of(event))
            return
        self._of[source] = str(event.get("target"))
        *whole, rest = (self._partial.pop(source, b"") + bytes_of(event)).split(b"\n")
        if len(rest) > PARTIAL_BYTES_MAX:
            whole, rest = [*whole, rest], b""
        self._put(source, whole)
        if rest:
            self._partial[source] = rest

    def finish(self, target_run: object = None, action: object = None) -> None:
        """Write incomplete lines: of an action, of a run (action None) or of all (both None)."""
        for source in [
            s for s in self._partial if target_run in (None, s[0]) and action in (None, s[1])
        ]:
            self._put(source, [self._partial.pop(source)])

    def _put(self, source: Source, lines: list[bytes]) -> None:
        if not lines:
            return
        prefix = self._prefixed(self._of[source])
        self._write(source[3], b"".join(b"%b%b\n" % (prefix, line) for line in lines))

    def _prefixed(self, target: str) -> bytes:
        if target not in self._prefix:
            assert self._names is not None
            self._prefix[target] = f"{self._names(target)} | ".encode()
        return self._prefix[target]


def _stream(event: dict[str, Any]) -> str:
    return "stderr" if event.get("stream") == "stderr" or event.get("dropped") else "stdout"


def bytes_of(event: Mapping[str, Any]) -> bytes:
    """Return the bytes of an `output` event, or the notice that some were dropped."""
    if event.get("dropped"):
        stream = event.get("stream")
        return f"… {event['dropped']} bytes of {stream} were dropped (output_limit)\n".encode()
    if "data_base64" in event:
        return base64.b64decode(event["data_base64"])
    return str(event.get("data") or "").encode("utf-8", "surrogatepass")
