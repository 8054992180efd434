"""Assemble chunks of many streams into lines prefixed with the target, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from opsjobs.store.execution_log import LogEntry

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
