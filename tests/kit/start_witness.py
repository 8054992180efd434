"""A file on the target to which every command writes, so that a test can count real starts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Testimony:
    """One start: the command's key (set by the test), its process, and its time (Unix seconds).

    `what`: "start", or "end" with the exit `code`. `run`: the key of the durable run, if there is
    one.
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
        """Parse a line of the file."""
        key, pid, at, *more = line.split()
        what, run, code = (*more, *("start", "-", "-")[len(more) :])
        return cls(
            key, int(pid), float(at), what, run.strip("-"), None if code == "-" else int(code)
        )


class Witness:
    """The file as the test sees it; targets on loopback write to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "witness"
        self.path.touch()
        # the accounts of targets write here, too
        folder.chmod(0o755)
        self.path.chmod(0o666)

    def command(self, key: str, then: str = ":") -> str:
        """Return a POSIX shell command that records its start, then runs `then`.

        The key is a plain word.
        """
        assert key.replace("-", "").replace(".", "").replace("_", "").isalnum(), key
        # One short write to a file opened for appending is atomic: lines do not mix.
        return f"echo {key} $$ $(date +%s.%N) >>'{self.path}'; {then}"

    def of_execution(self, key: str) -> str:
        """Return a command that records its start as `key.<id of its execution>`."""
        assert key.replace("-", "").replace("_", "").isalnum(), key
        return f"echo {key}.$OPSJOBS_EXECUTION $$ $(date +%s.%N) >>'{self.path}'"

    def on_each(self, key: str, then: str = ":") -> str:
        """Return a command for many machines over SSH.

        Each records its start as `key.<its address>`. `then` finds that address in `$3`.
        """
        assert key.replace("-", "").replace("_", "").isalnum(), key
        # The key is in the environment, too: no process list shows the command line of a durable
        # run.
        return f"set -- $SSH_CONNECTION; export WITNESS={key}; echo {key}.$3 $$ $(date +%s.%N) >>'{self.path}'; {then}"

    def from_start_to_end(self, key: str, then: str) -> str:
        """Return a command as `on_each` does that also records its end.

        `key.<its address>` is in `$k`, and the exit code is that of `then` in a subshell.
        """
        assert key.replace("-", "").replace("_", "").isalnum(), key
        say = "echo $k $$ $(date +%s.%N)"
        run = "${OPSJOBS_RUN:--}"
        return (
            f"set -- $SSH_CONNECTION; k={key}.$3; {say} start {run} >>'{self.path}'\n"
            f"({then}\n)\n"
            f"r=$?; {say} end {run} $r >>'{self.path}'; exit $r"
        )

    def testimonies(self) -> list[Testimony]:
        """Return every line so far, in the order of writing."""
        return [Testimony.of(line) for line in self.path.read_text().splitlines()]

    def starts(self) -> dict[str, list[Testimony]]:
        """Return the starts of each key."""
        return self._of("start")

    def ends(self) -> dict[str, list[Testimony]]:
        """Return the ends of each key, if its command records them."""
        return self._of("end")

    def started_twice(self) -> dict[str, list[Testimony]]:
        """Return the keys that started more than once, which must be none (invariant I1)."""
        return {key: starts for key, starts in self.starts().items() if len(starts) > 1}

    def _of(self, what: str) -> dict[str, list[Testimony]]:
        found: dict[str, list[Testimony]] = defaultdict(list)
        for testimony in self.testimonies():
            if testimony.what == what:
                found[testimony.key].append(testimony)
        return dict(found)
