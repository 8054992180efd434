"""Commands with known bytes and exit codes, which record their starts and ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.processes import Json
from kit.start_witness import Witness

Said = Callable[[str], bytes]
"""The output of a command, by its key (`$k` in its script)."""
HandedOn = Callable[[str], Json]
"""The output that an action passes on to later ones, likewise."""


def nothing(_: str) -> bytes:
    """Outage."""
    return b""


@dataclass(frozen=True, slots=True)
class Step:
    """One action. `timeout`: it is killed by that, after its output.

    `more`: further fields of the action. `outputs`: what it passes on by its `outputs`.
    """

    script: str
    stdout: Said = nothing
    stderr: Said = nothing
    code: int = 0
    timeout: str | None = None
    more: Json = field(default_factory=dict)
    outputs: HandedOn | None = None

    @property
    def status(self) -> str:
        """Return the outcome of an undisturbed run of it."""
        return "timeout" if self.timeout else "failed" if self.code else "succeeded"


@dataclass(frozen=True, slots=True)
class Work:
    """The actions of one execution on each target: the steps in order, all with `continue`.

    `before`: actions before them that start nothing. `job`: if it is launched by a stored job,
    further fields of it. `parameters`: the values of the execution for it. `policy`: further fields
    of that.
    """

    name: str
    steps: Sequence[Step]
    before: Sequence[Json] = ()
    job: Json | None = None
    parameters: Json = field(default_factory=dict)
    policy: Json = field(default_factory=dict)

    def actions(self, mark: str, witness: Witness) -> list[Json]:
        """Return the actions for POST /run and POST /jobs."""
        return [*self.before] + [
            {
                "key": f"step-{number}",
                "command": witness.from_start_to_end(f"{mark}-{number}", step.script),
                "on_failure": "continue",
                **({"timeout": step.timeout} if step.timeout else {}),
                **step.more,
            }
            for number, step in enumerate(self.steps, start=1)
        ]

    def on_windows(self, mark: str, witness: Witness) -> list[Json]:
        """Return the same actions as scripts: a command on Windows is one line for cmd."""
        address = 'SSH_CONNECTION="- - $OPSJOBS_HOST -"\n'
        return [
            {
                **{name: value for name, value in action.items() if name != "command"},
                "type": "script",
                "interpreter": "sh",
                "script": address + action["command"],
            }
            for action in self.actions(mark, witness)
        ]

    @property
    def status(self) -> str:
        """Return the status of a run: that of the first action that did not succeed."""
        return next((step.status for step in self.steps if step.status != "succeeded"), "succeeded")


def lines(count: int, pause_seconds: float, code: int = 0) -> Step:
    """Write a line to standard output now and then, every third one to the other stream, too."""
    script = f"""n=0; while [ $n -lt {count} ]; do n=$((n+1)); echo "$k line $n"
[ $((n%3)) -gt 0 ] || echo "$k error $n" >&2; sleep {pause_seconds}; done; exit {code}"""

    def stdout(key: str) -> bytes:
        return "".join(f"{key} line {n}\n" for n in range(1, count + 1)).encode()

    def stderr(key: str) -> bytes:
        return "".join(f"{key} error {n}\n" for n in range(3, count + 1, 3)).encode()

    return Step(script, stdout, stderr, code)


def at_once(code: int = 0) -> Step:
    """It ends at once."""
    return Step(
        f'echo "$k is here"; exit {code}', lambda key: f"{key} is here\n".encode(), nothing, code
    )


def late(seconds: float) -> Step:
    """Write nothing until its end, then no newline."""
    return Step(f"sleep {seconds}; printf '%s' \"$k\" >&2", nothing, lambda key: key.encode())


def too_slow(seconds: int = 2) -> Step:
    """Killed by its timeout, with its child."""
    script = 'echo "$k waits"; (sleep 300; echo survived); echo "$k is through"'
    return Step(script, lambda key: f"{key} waits\n".encode(), timeout=f"{seconds}s")


class Nasty:
    """Files of bytes that look like anything but text, for commands to send."""

    def __init__(self, folder: Path, seed: str) -> None:
        chance = random.Random(seed)
        kinds = [
            chance.randbytes(200_000),
            b"\x00" * 70_000 + b"\xff\xfe" + b"\n" * 65_536,
            ("ä€😀" * 9_000).encode()[:-2],
            b"\nX done 0\n1 5\n. OPSJOBS1\n\r\n: comment\n\nevent: end\n\nid: 7\n" * 400,
            bytes(range(256)) * 3,
        ]
        self._files = [(folder / f"nasty-{number}", kind) for number, kind in enumerate(kinds)]
        for path, kind in self._files:
            path.write_bytes(kind)
            path.chmod(0o644)

    def step(self, chance: random.Random, seconds: float) -> Step:
        """Write some of it, pause, then write more on both streams."""
        (first, a), (second, b), (third, c) = (chance.choice(self._files) for _ in range(3))
        script = f"cat {first}; sleep {seconds}; cat {second} >&2; cat {third}; exit 7"
        return Step(script, lambda _: a + c, lambda _: b, 7)


def mixture(nasty: Nasty, chance: random.Random, seconds: float) -> Sequence[Work]:
    """Return five kinds of work that take about so long.

    Each test of a fault runs all of them at the same time.
    """
    beat = chance.choice((0.1, 0.25))
    return (
        Work("lines", [lines(round(seconds / beat), beat, chance.choice((0, 3)))]),
        Work("bytes", [nasty.step(chance, seconds)]),
        Work(
            "steps", [at_once(), lines(round(seconds / 0.5), 0.25), at_once(chance.randint(0, 255))]
        ),
        Work("late", [late(seconds)]),
        Work("too slow", [at_once(), too_slow()]),
    )
