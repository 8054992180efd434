"""A file on the target to which every command testifies, so that a test can count what really started."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Testimony:
    """One start: which command (a key that the test gave it), as which process, and when (Unix seconds)."""

    key: str
    pid: int
    at: float

    __test__ = False


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

    def on_each(self, key: str, then: str = ":") -> str:
        """The same for a command that runs on many machines over SSH: each testifies as `key.<its address>`.

        The rest finds that address in `$3`.
        """
        assert key.replace("-", "").replace("_", "").isalnum(), key
        return f"set -- $SSH_CONNECTION; echo {key}.$3 $$ $(date +%s.%N) >>'{self.path}'; {then}"

    def testimonies(self) -> list[Testimony]:
        """Every start so far, in the order of writing."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [Testimony(key, int(pid), float(at)) for key, pid, at in lines]

    def starts(self) -> dict[str, list[Testimony]]:
        """The starts of each key."""
        found: dict[str, list[Testimony]] = defaultdict(list)
        for testimony in self.testimonies():
            found[testimony.key].append(testimony)
        return dict(found)

    def started_twice(self) -> dict[str, list[Testimony]]:
        """What must be empty: keys that started more than once (invariant I1)."""
        return {key: starts for key, starts in self.starts().items() if len(starts) > 1}
