"""Lines of an execution's output by number: windows of them, from a log of any length.

A line has the number at which it begins, in the order of the log; it may go on in later entries,
with entries of others between them. Each entry has the number of lines that begin in it. Sums of
these numbers, at some positions of the log, are cached for each part of the output that was asked
for: the log only grows, so that they are extended and are never wrong.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from opsjobs.model.errors import Unavailable
from opsjobs.model.run_views import Execution
from opsjobs.store.transaction import Database

LINE_BYTES = 16 << 10
"""A longer line is cut."""
WINDOW_BYTES = 2 << 20
"""A window ends early once the entries that it reads have this size."""
STRIDE_ROWS = 256
"""Entries between two sums; it is doubled when there are too many sums."""
SUMS_MAX = 4_096
CACHED_PARTS_MAX = 256
SCAN_ROWS = 20_000
SPAN_SEQS = 50_000
"""Positions that one query looks through for a stream or an action, which have no index."""
SCAN_SECONDS = 10.0
"""Time in which one request counts lines; the next one goes on."""
REST_ROWS = 64
"""Entries in which a line may go on after the window."""
REST_LINES = 32
"""Lines whose rest one query reads."""
REST_BYTES = 4 << 20
"""A window ends early once the rests of its lines have this size."""


@dataclass(frozen=True, slots=True)
class OutputPart:
    """A part of an execution's output: that of a run, a stream or an action, or all of it."""

    target_run: int | None = None
    stream: str | None = None
    action: str | None = None

    @property
    def is_sifted(self) -> bool:
        """True if no index finds its entries, so that the log is looked through for them."""
        return self.target_run is None and (self.stream is not None or self.action is not None)


@dataclass(slots=True)
class OutputLine:
    """One line of output."""

    number: int
    seq: int
    """The position of the log at which the line begins."""
    at: datetime
    target_run: int
    target: str
    action: str | None
    attempt: int | None
    stream: str
    held: bytearray = field(default_factory=bytearray)
    complete: bool = False
    """False: no line feed has followed yet."""
    dropped: int | None = None
    """Instead of a text: the number of bytes that were not kept here."""

    def add(self, piece: bytes) -> None:
        """Add bytes, up to one more than are shown."""
        self.held += piece[: max(LINE_BYTES + 1 - len(self.held), 0)]

    @property
    def cut(self) -> bool:
        """True if the line is longer than its text."""
        return len(self.held) > LINE_BYTES

    @property
    def text(self) -> str:
        """The text without its line end."""
        text = bytes(self.held[:LINE_BYTES]).decode("utf-8", "replace")
        return text.removesuffix("\r") if self.complete and not self.cut else text


@dataclass(frozen=True, slots=True)
class LineWindow:
    """Lines in order; `total` and `seq`: how many there are up to this position of the log."""

    first: int
    lines: Sequence[OutputLine]
    total: int
    seq: int


_WHERE = """
  where log_day = {day} and execution_id = %(execution)s and seq > %(after)s and seq <= %(upto)s
    and event = 'output' {narrowed} order by seq limit %(rows)s"""
_SUMS = f"""
select max(seq) as seq, sum(lines)::bigint as lines, count(*) as rows from (
  select seq, lines, (row_number() over (order by seq) - 1) / %(stride)s as part
  from (select seq, lines from execution_log {_WHERE}) page
) numbered group by part order by part"""
# The sizes are read without the bytes themselves, so only those of the window are.
_WINDOW = f"""
with near as materialized (
  select seq, lines, octet_length(data) as bytes,
    sum(coalesce(lines, 0)) over (order by seq)::bigint as upto
  from (select seq, lines, data from execution_log {_WHERE}) page
), wanted as materialized (
  select seq, lines, upto,
    sum(bytes) over (order by seq) - bytes as bytes_before, row_number() over (order by seq) as nth
  from near where upto >= %(first)s and upto - coalesce(lines, 0) < %(last)s
)
select w.seq, w.upto - coalesce(w.lines, 0) as before, w.lines, l.at, l.target_run_id,
  coalesce(r.target_name, l.target_id) as target, l.action, l.attempt, l.stream, l.data, l.dropped
from wanted w join execution_log l on l.log_day = {{day}} and l.execution_id = %(execution)s
  and l.seq = w.seq
left join target_runs r on r.id = l.target_run_id
where w.nth = 1 or coalesce(w.bytes_before, 0) < %(max_bytes)s order by w.seq"""
# Of each line only up to the entry that ends it, or that makes it longer than is shown.
_REST = """
select o.nth, l.seq, l.dropped, l.data
from unnest(%(runs)s::bigint[], %(actions)s::text[], %(attempts)s::int[], %(streams)s::text[])
  with ordinality as o(run, action, attempt, stream, nth)
cross join lateral (
  select seq, data, dropped from (
    select seq, dropped, substring(data from 1 for %(line_bytes)s) as data,
      coalesce(sum(octet_length(data)) over before, 0) as bytes_before,
      bool_or(data is null or position('\\x0a'::bytea in data) > 0) over before as ended
    from (
      select seq, data, dropped from execution_log
      where log_day = {day} and execution_id = %(execution)s and target_run_id = o.run
        and event = 'output' and seq > %(after)s and seq <= %(upto)s
        and action is not distinct from o.action and attempt is not distinct from o.attempt
        and stream = o.stream
      order by seq limit %(rows)s) near
    window before as (order by seq rows between unbounded preceding and 1 preceding)) rest
  where ended is not true and bytes_before < %(line_bytes)s) l
order by o.nth, l.seq"""
_NARROWED = {"target_run": "target_run_id", "stream": "stream", "action": "action"}


class LineReader:
    """Read access to the output by line number."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sums = OrderedDict[tuple[int, OutputPart], _LineSums]()

    async def window(
        self, execution: Execution, part: OutputPart, *, first: int, count: int
    ) -> LineWindow:
        """Return up to `count` lines from a number on; a negative one counts from the end.

        Raises Unavailable if the lines of a long log are not counted yet: the next call goes on.
        """
        sums = self._cached(execution.id, part)
        await self._extend(execution, part, sums)
        if first < 0:
            first = max(sums.total + first + 1, 1)
        lines: Sequence[OutputLine] = ()
        if first <= sums.total:
            lines = await self._read(execution, part, sums, first, first + count - 1)
        return LineWindow(first, lines, sums.total, sums.seq)

    async def lines_before(self, execution: Execution, part: OutputPart, seq: int) -> int:
        """Return how many lines of a part begin up to a position of the log. Raises Unavailable."""
        if not seq:
            return 0
        sums = self._cached(execution.id, part)
        await self._extend(execution, part, sums)
        after, total = sums.reached(seq)
        given = {
            **_part_parameters(execution, part),
            "after": after,
            "upto": seq,
            "rows": 2 * sums.stride + 1,
        }
        rows = await self._fetch(_SUMS, execution, part, {**given, "stride": given["rows"]})
        return total + sum(row["lines"] or 0 for row in rows)

    def _cached(self, execution_id: int, part: OutputPart) -> _LineSums:
        key = (execution_id, part)
        found = self._sums.setdefault(key, _LineSums(SPAN_SEQS if part.is_sifted else None))
        self._sums.move_to_end(key)
        if len(self._sums) > CACHED_PARTS_MAX:
            self._sums.popitem(last=False)
        return found

    async def _extend(self, execution: Execution, part: OutputPart, sums: _LineSums) -> None:
        """Count the lines up to the execution's `last_seq`."""
        deadline = time.monotonic() + SCAN_SECONDS
        async with sums.lock:
            while sums.seq < execution.last_seq:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"the lines of execution {execution.id} are not counted yet",
                        detail="The lines of this long log are being counted. Ask again in a "
                        "second: the count goes on.",
                    )
                upto = sums.end_of_scan(execution.last_seq)
                given = {
                    **_part_parameters(execution, part),
                    "after": sums.seq,
                    "upto": upto,
                    "rows": SCAN_ROWS,
                    "stride": sums.stride,
                }
                rows = await self._fetch(_SUMS, execution, part, given)
                for row in rows:
                    sums.add(row["seq"], row["lines"] or 0, row["rows"])
                if sum(row["rows"] for row in rows) < SCAN_ROWS:
                    sums.pass_to(upto)

    async def _read(
        self, execution: Execution, part: OutputPart, sums: _LineSums, first: int, last: int
    ) -> Sequence[OutputLine]:
        after, base = sums.before(first)
        given = {
            **_part_parameters(execution, part),
            "after": after,
            "upto": sums.end_of_window(first, last),
            "rows": 2 * sums.stride + last - first + 1,
            "first": first - base,
            "last": last - base,
            "max_bytes": WINDOW_BYTES,
        }
        reading = _WindowReader(first, last, base)
        for row in await self._fetch(_WINDOW, execution, part, given):
            reading.take(row)
        await self._complete(execution, reading, sums.seq)
        return reading.lines

    async def _complete(self, execution: Execution, reading: _WindowReader, upto: int) -> None:
        """Read what follows of the lines that go on after the window; or end the window early."""
        unfinished = sorted(reading.unfinished(), key=lambda line: line.number)
        given = {
            "execution": execution.id,
            "after": reading.seq,
            "upto": upto,
            "rows": REST_ROWS,
            "line_bytes": LINE_BYTES + 1,
        }
        size = 0
        for at in range(0, len(unfinished), REST_LINES):
            if size >= REST_BYTES:
                reading.end_before(unfinished[at])
                return
            some = unfinished[at : at + REST_LINES]
            lines = {
                "runs": [line.target_run for line in some],
                "actions": [line.action for line in some],
                "attempts": [line.attempt for line in some],
                "streams": [line.stream for line in some],
            }
            for row in await self._fetch(_REST, execution, OutputPart(), {**given, **lines}):
                reading.go_on(some[row["nth"] - 1], row["data"])
                size += len(row["data"] or b"")

    async def _fetch(
        self, query: str, execution: Execution, part: OutputPart, given: Mapping[str, Any]
    ) -> Sequence[Mapping[str, Any]]:
        narrowed = " ".join(
            f"and {column} = %({name})s"
            for name, column in _NARROWED.items()
            if getattr(part, name) is not None
        )
        day = f"date '{execution.log_day.isoformat()}'"
        return await self._database.fetch(query.format(day=day, narrowed=narrowed), given)


def _part_parameters(execution: Execution, part: OutputPart) -> dict[str, Any]:
    return {"execution": execution.id, **{name: getattr(part, name) for name in _NARROWED}}


class _LineSums:
    """Numbers of lines that begin up to some positions of the log, and up to its end.

    `span`: with it, there is a sum at least every so many positions.
    """

    def __init__(self, span: int | None) -> None:
        self.lock = asyncio.Lock()
        self._span = span
        self.stride = STRIDE_ROWS
        self.seq = 0
        self.total = 0
        self._rows = 0
        self._seqs = array("q", [0])
        self._totals = array("q", [0])

    def add(self, seq: int, lines: int, rows: int) -> None:
        """Add the next entries, up to a position; they are at most as many as the stride."""
        self.seq = seq
        self.total += lines
        self._rows += rows
        if self._rows >= self.stride:
            self._keep()

    def end_of_scan(self, last_seq: int) -> int:
        """Return the position up to which the next query counts."""
        return last_seq if self._span is None else min(last_seq, self.seq + self._span)

    def pass_to(self, seq: int) -> None:
        """Record that no line begins up to a position beside those that were added."""
        self.seq = seq
        if self._span is not None and seq - self._seqs[-1] >= self._span:
            self._keep()

    def end_of_window(self, first: int, last: int) -> int:
        """Return the position up to which the lines from `first` to `last` are read.

        With a span it is not far from the first line, so that the window may end early.
        """
        if self._span is None:
            return self.seq
        reached = [bisect_left(self._totals, line) for line in (first, last)]
        near, far = (self._seqs[n] if n < len(self._seqs) else self.seq for n in reached)
        return min(far, max(near, self.before(first)[0] + self._span))

    def _keep(self) -> None:
        self._rows = 0
        self._seqs.append(self.seq)
        self._totals.append(self.total)
        if len(self._seqs) > SUMS_MAX:
            self._seqs, self._totals = self._seqs[::2], self._totals[::2]
            self.stride *= 2

    def before(self, line: int) -> tuple[int, int]:
        """Return the last position before which a line does not begin, and the lines up to it."""
        found = bisect_left(self._totals, line) - 1
        return self._seqs[found], self._totals[found]

    def reached(self, seq: int) -> tuple[int, int]:
        """Return the last known position up to this one, and the lines up to it."""
        found = bisect_left(self._seqs, seq + 1) - 1
        return self._seqs[found], self._totals[found]


class _WindowReader:
    """Puts the lines of a window together from its entries."""

    def __init__(self, first: int, last: int, base: int) -> None:
        self.lines: list[OutputLine] = []
        self.seq = 0
        self._first, self._last, self._base = first, last, base
        self._open: dict[tuple[Any, ...], OutputLine] = {}

    def take(self, row: Mapping[str, Any]) -> None:
        """Add the lines that begin in an entry, and what it has of lines that began before it."""
        self.seq = row["seq"]
        number = self._base + row["before"] + 1
        origin = (row["target_run_id"], row["action"], row["attempt"], row["stream"])
        if row["data"] is None:
            self._open.pop(origin, None)
            if line := self._line(row, number):
                line.dropped = row["dropped"]
                line.complete = True
            return
        *ended, rest = row["data"].split(b"\n")
        if len(ended) + bool(rest) > (row["lines"] or 0):  # the first piece goes on with a line
            piece, ends = (ended.pop(0), True) if ended else (rest, False)
            self._extend(origin, piece, ends=ends)
            rest = rest if ends else b""
        for piece in ended:
            if line := self._line(row, number):
                line.add(piece)
                line.complete = True
            number += 1
        if rest and (line := self._line(row, number)):
            line.add(rest)
            self._open[origin] = line

    def unfinished(self) -> list[OutputLine]:
        """Return the lines whose end has not been read."""
        return [line for line in self._open.values() if not line.cut]

    def end_before(self, line: OutputLine) -> None:
        """Leave out this line and those after it."""
        self.lines = [other for other in self.lines if other.number < line.number]

    def go_on(self, line: OutputLine, data: bytes | None) -> None:
        """Add the next entry of a line's stream, if the line goes on."""
        origin = (line.target_run, line.action, line.attempt, line.stream)
        if data is None:  # what follows was not kept
            self._open.pop(origin, None)
            return
        head, end, _ = data.partition(b"\n")
        self._extend(origin, head, ends=bool(end))

    def _extend(self, origin: tuple[Any, ...], piece: bytes, *, ends: bool) -> None:
        if (line := self._open.get(origin)) is None:
            return
        line.add(piece)
        if ends:
            line.complete = True
            del self._open[origin]

    def _line(self, row: Mapping[str, Any], number: int) -> OutputLine | None:
        if not self._first <= number <= self._last:
            return None
        self.lines.append(
            OutputLine(
                number,
                row["seq"],
                row["at"],
                row["target_run_id"],
                row["target"],
                row["action"],
                row["attempt"],
                row["stream"],
            )
        )
        return self.lines[-1]
