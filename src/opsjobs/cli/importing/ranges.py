"""Ansible's host ranges: `web[01:20].example.org`, `db-[a:f]`, `n[0:100:10]`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

HOSTS_MAX = 10_000
_RANGE = re.compile(r"\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\]")


def expand(pattern: str) -> list[str]:
    """Return the names of a pattern.

    Raises ValueError for a bad range, and for more than 10,000 names.
    """
    pieces: list[list[str]] = []
    end = 0
    for match in _RANGE.finditer(pattern):
        pieces += [[pattern[end : match.start()]], list(_values(match))]
        end = match.end()
    rest = pattern[end:]
    if "[" in "".join(p[0] for p in pieces[::2]) + rest and not _is_bracketed_address(pattern):
        raise ValueError(
            f"{pattern[:60]!r} has a range that cannot be read: write [01:20] or [a:f]"
        )
    count = 1
    for values in pieces:
        count *= len(values)
    if count > HOSTS_MAX:
        raise ValueError(f"{pattern[:60]!r} stands for {count} hosts, the limit is {HOSTS_MAX}")
    return ["".join(parts) for parts in product(*pieces, [rest])]


def _is_bracketed_address(pattern: str) -> bool:
    return re.fullmatch(r"\[[0-9A-Fa-f:.]+\](:\d+)?", pattern) is not None


def _values(match: re.Match[str]) -> Iterator[str]:
    first, last, step = match[1], match[2], int(match[3] or 1)
    if first.isdigit() != last.isdigit() or step == 0:
        raise ValueError(f"{match[0]!r} is not a range")
    if not first.isdigit():
        numbers = range(ord(first), ord(last) + 1, step)
        if first.isupper() != last.isupper() or not numbers:
            raise ValueError(f"{match[0]!r} is not a range")
        return (chr(n) for n in numbers)
    if int(last) < int(first) or len(last) > 9:
        raise ValueError(f"{match[0]!r} is not a range")
    if (int(last) - int(first)) // step >= HOSTS_MAX:
        raise ValueError(f"{match[0]!r} stands for more than {HOSTS_MAX} hosts")
    width = len(first) if first.startswith("0") and len(first) > 1 else 0
    return (f"{n:0{width}d}" for n in range(int(first), int(last) + 1, step))
