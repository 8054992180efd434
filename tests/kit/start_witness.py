"""A file on the target to which every command writes, so that a test can count real starts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Testimony:
    """One start: which command (a key that the test gave it), as which process, and when (Unix seconds).

    `what`: "start", or "end" with the exit `code`. `run`: the key of the durable run, where there is one.
    """

    key: str
    pid: int
    at: float
    what: str = "start"
    run: str = ""
    code: int | None = None

    __test__ = False

    @classmethod
    def of(cls, line: str) -> Testimony:
        """As it was written."""
        key, pid, at, *more = line.split()
        what, run, code = (*more, *("start", "-", "-")[len(more) :])
        return cls(
            key, int(pid), float(at), what, run.strip("-"), None if code == "-" else int(code)
        )


class Witness:
    """The file, seen from the test; targets on loopback write into it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "witness"
        self.path.touch()
        # Accounts of targets write here as well.
        folder.chmod(0o755)
        self.path.chmod(0o666)

    def command(self, key: str, then: str = ":") -> str:
        """A command line for a POSIX shell that testifies, then does the rest; the key is a plain word."""
        assert key.replace("-", "").replace(".", "").replace("_", "").isalnum(), key
        # One short write to a file opened for appending is atomic: testimonies do not mix.
        return f"echo {key} $$ $(date +%s.%N) >>'{self.path}'; {then}"

    def of_execution(self, key: str) -> str:
        """A command that testifies as `key.<id of its execution>`."""
        assert key.replace("-", "").replace("_", "").isalnum(), key
        return f"echo {key}.$OPSJOBS_EXECUTION $$ $(date +%s.%N) >>'{self.path}'"

    def on_each(self, key: str, then: str = ":") -> str:
        """The same for a command that runs on many machines over SSH: each testifies as `key.<its address>`.

        The rest finds that address in `$3`.
        """
        assert key.replace("-", "").replace("_", "").isalnum(), key
        # The key is in the environment, too: what a durable command is, no process list tells.
        return f"set -- $SSH_CONNECTION; export WITNESS={key}; echo {key}.$3 $$ $(date +%s.%N) >>'{self.path}'; {then}"

    def from_start_to_end(self, key: str, then: str) -> str:
        """The same, testifying at its end, too: `key.<its address>` is in `$k`, and `then` in a subshell has the exit code."""
        assert key.replace("-", "").replace("_", "").isalnum(), key
        say = "echo $k $$ $(date +%s.%N)"
        run = "${OPSJOBS_RUN:--}"
        return (
            f"set -- $SSH_CONNECTION; k={key}.$3; {say} start {run} >>'{self.path}'\n"
            f"({then}\n)\n"
            f"r=$?; {say} end {run} $r >>'{self.path}'; exit $r"
        )

    def testimonies(self) -> list[Testimony]:
        """Every word so far, in the order of writing."""
        return [Testimony.of(line) for line in self.path.read_text().splitlines()]

    def starts(self) -> dict[str, list[Testimony]]:
        """The starts of each key."""
        return self._of("start")

    def ends(self) -> dict[str, list[Testimony]]:
        """The ends of each key, where the command tells them."""
        return self._of("end")

    def started_twice(self) -> dict[str, list[Testimony]]:
        """What must be empty: keys that started more than once (invariant I1)."""
        return {key: starts for key, starts in self.starts().items() if len(starts) > 1}

    def _of(self, what: str) -> dict[str, list[Testimony]]:
        found: dict[str, list[Testimony]] = defaultdict(list)
        for testimony in self.testimonies():
            if testimony.what == what:
                found[testimony.key].append(testimony)
        return dict(found)
