"""End a command's whole process group on a POSIX machine, and prove that it ended."""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof

PROOF_SECONDS = 15.0
"""The time for a response after the grace period; without one the command may still run."""

_PAUSES_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.4)

# Count the group's living members, then signal it. Prints `<mark> <members before> <1 if the
# process leads no group>`. One line without newline, backslash or exclamation mark, inside single
# quotes: dash, bash, busybox, rbash, tcsh and fish all pass it to sh unchanged. Neither source
# alone is a proof. `kill -0` also fails if only processes of other users are left, and it succeeds
# on zombies, which stay forever in containers whose first process does not wait for them. A list
# of processes may lack some of them (no /proc, `hidepid`): it is complete only if it holds the
# asking shell and process 1. So a list without members proves the end only if it is complete
# and shows the zombies that `kill -0` sees; else `kill -0` decides.
_CENSUS = (
    "s=$1 g=$2 m=$3 n=0 o=0 z=0 q=0; LC_ALL=C; export LC_ALL; "
    "see() { case $1 in $$|1) q=$((q+1));; esac; "
    'case $3 in [ZX]*) [ "$2" = "$g" ] && z=1;; '
    '*) if [ "$2" = "$g" ]; then n=$((n+1)); elif [ "$1" = "$g" ]; then o=1; fi;; '
    "esac; }; "
    'here() { case $(kill -0 $1 2>&1) in *"o such process"*) return 1;; esac; }; '
    "if here -$g || here $g; then "
    "if [ -r /proc/self/stat ] && command -v awk >/dev/null 2>&1; then "
    "l=$(cat /proc/[0-9]*/stat 2>/dev/null | "
    "awk '\"'\"'{p=$1; sub(/.*[)] /,\"\"); print p, $3, $1}'\"'\"'); "
    "elif l=$(ps -A -o pid= -o pgid= -o stat= 2>/dev/null); then :; "
    "else l=$(ps -o pid,pgid,stat 2>/dev/null); fi; "
    "set -- $l; while [ $# -ge 3 ]; do see $1 $2 $3; shift 3; done; "
    "case $n$o.$z$q in 00.12) ;; "
    "00.*) if here -$g; then n=1; elif here $g; then o=1; fi;; esac; fi; "
    '[ $o = 1 ] || [ $n = 0 ] || kill -$s -$g 2>/dev/null; echo "$m $n $o"'
)


@dataclass(frozen=True, slots=True)
class Census:
    """The number of living members of the group.

    `foreign`: the process lives, but does not lead a group.
    """

    members: int
    foreign: bool


@dataclass(frozen=True, slots=True)
class GroupSignal:
    """A signal to a group, sent to the machine as one command line for any login shell."""

    group: int
    signal: str
    mark: str

    @classmethod
    def create(cls, group: int, signal: str) -> GroupSignal:
        """Return the query for `signal`: TERM, KILL, or 0 to count only."""
        return cls(group, signal, secrets.token_hex(8))

    @property
    def argv(self) -> tuple[str, ...]:
        """The query as arguments, for a caller that needs no shell."""
        return (
            "sh",
            "-c",
            _CENSUS.replace("'\"'\"'", "'"),
            "opsjobs",
            self.signal,
            str(self.group),
            self.mark,
        )

    @property
    def line(self) -> str:
        """The query as a command line."""
        return f"sh -c '{_CENSUS}' opsjobs {self.signal} {self.group} {self.mark}"

    def answer(self, output: bytes) -> Census | None:
        """Return the census in the output, which may also contain text of login scripts."""
        _, found, rest = output.partition(self.mark.encode() + b" ")
        words = rest.split()
        if not found or len(words) < 2:
            return None
        return Census(int(words[0]), words[1] == b"1")


Ask = Callable[[GroupSignal], Awaitable[Census | None]]


class NoGroup(Exception):
    """The machine cannot be queried, or the process leads no group: use another way to end it."""


async def end_group(group: int, grace_seconds: float, ask: Ask) -> CancelProof:
    """Send TERM to the group, KILL after the grace period, and query until no member lives.

    Returns UNREACHABLE if the end cannot be shown within the grace period + PROOF_SECONDS. Raises
    NoGroup before anything was signalled.
    """
    started = time.monotonic()
    try:
        async with asyncio.timeout(grace_seconds + PROOF_SECONDS):
            first = await ask(GroupSignal.create(group, "TERM"))
            if first is None or first.foreign:
                raise NoGroup
            if first.members == 0:
                return CancelProof.ALREADY_FINISHED
            if await _await_end(group, "0", ask, until=started + grace_seconds):
                return CancelProof.KILLED
            await _await_end(group, "KILL", ask)
            return CancelProof.KILLED
    except (TimeoutError, RemoteFailure):
        return CancelProof.UNREACHABLE


async def _await_end(group: int, signal: str, ask: Ask, *, until: float = math.inf) -> bool:
    """Query, with growing pauses, until no member of the group lives; return False on timeout."""
    for pause_seconds in itertools.chain(_PAUSES_SECONDS, itertools.repeat(_PAUSES_SECONDS[-1])):
        census = await ask(GroupSignal.create(group, signal))
        if census is not None and census.members == 0:
            return True
        left_seconds = until - time.monotonic()
        if left_seconds <= 0:
            return False
        await asyncio.sleep(min(pause_seconds, left_seconds))
    raise AssertionError("the pauses never end")
