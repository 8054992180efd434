"""Workload of one test: commands that record their runs, fail on request, and wait for a gate.

It also collects their outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster
from e2e.processes import Json, wait_until
from kit import backing_servers
from kit.start_witness import Witness

SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Targets that are all this machine and share its folder.

    A file there scripts a command for each address.
    """

    cluster: Cluster
    folder: Path
    witness: Witness
    launched: list[int] = field(default_factory=list)

    # Commands.

    @property
    def sound(self) -> str:
        """Return a command that fails on the broken addresses."""
        return f"test ! -e '{self.folder}'/broken.$3"

    @property
    def held(self) -> str:
        """Return a command that continues once it is released.

        It gives up if the test has ended before.
        """
        return f"n=0; until test -e '{self.folder}/leave'; do n=$((n+1)); test $n -lt 2000 || exit 9; sleep 0.1; done"

    def step(self, key: str, then: str = ":", **more: Any) -> Json:
        """Return an action that records its start and its end on each target."""
        return {
            "key": key,
            "type": "command",
            "command": self.witness.from_start_to_end(key, then),
            **more,
        }

    def leave(self) -> None:
        """Release the held commands."""
        (self.folder / "leave").touch()

    def break_(self, *hosts: str) -> None:
        """Let `sound` fail there from now on."""
        for host in hosts:
            (self.folder / f"broken.{host}").touch()

    def mend(self) -> None:
        """Let it succeed again from now on."""
        for mark in self.folder.glob("broken.*"):
            mark.unlink()

    # Executions.

    def launch(
        self,
        actions: Sequence[Json],
        targets: Sequence[str],
        policy: Json | None = None,
        **more: Any,
    ) -> int:
        """Launch an execution without a job; return its id.

        It is not durable unless the policy sets it.
        """
        body = {
            "actions": list(actions),
            "targets": {"ids": list(targets)},
            "policy": {"durable": "off", **(policy or {})},
            **more,
        }
        self.launched.append(int(self.cluster.post("/run", body, 202)["id"]))
        return self.launched[-1]

    def end(self) -> None:
        """Release everything; cancel what a failed test left open."""
        self.leave()
        for execution in self.launched:
            if self.shown(execution)["finished_at"] is None:
                self.cluster.post(f"/executions/{execution}/cancel", {"reason": "the test is over"})
        self.cluster.settle(SECONDS)

    def ended(self, execution: int) -> Json:
        """Return it when it has ended."""
        return self.cluster.ended(execution, SECONDS)

    def shown(self, execution: int) -> Json:
        """Return it as it is now."""
        return self.cluster.get(f"/executions/{execution}")

    def paused(self, execution: int) -> Json:
        """Return it when nothing more of it starts and nothing runs."""

        def stands() -> bool:
            at_work = any(run["status"] == "running" for run in self.runs(execution).values())
            return self.shown(execution)["status"] == "paused" and not at_work

        wait_until(stands, f"execution {execution} is paused", SECONDS)
        return self.shown(execution)

    def runs(self, execution: int) -> dict[str, Json]:
        """Return its runs by the target's name."""
        return {run["target"]["name"]: run for run in self.cluster.runs(execution)}

    def statuses(self, execution: int) -> dict[str, str]:
        """Return the status of each target."""
        return {name: run["status"] for name, run in self.runs(execution).items()}

    def waits(self, execution: int, target: str, what: str) -> Json:
        """Return the run of this target, once it waits for that."""
        wait_until(
            lambda: self.runs(execution)[target]["waiting_for"] == what,
            f"{target} waits for {what}",
            SECONDS,
        )
        return self.runs(execution)[target]

    def results(self, execution: int) -> dict[str, Json]:
        """Return the last attempt of each action, of an execution with one target."""
        found = sorted(self.cluster.results(execution), key=lambda result: result["attempt"])
        return {result["action_key"]: result for result in found}

    # Records on the machines.

    def began(self, key: str) -> list[str]:
        """Return the addresses on which a step was started, in order."""
        return [
            word.key.removeprefix(f"{key}.") for word in self._words(key) if word.what == "start"
        ]

    def stamps(self, key: str, what: str) -> list[float]:
        """Return when it was started or ended, on any machine."""
        return [word.at for word in self._words(key) if word.what == what]

    def at_once(self, key: str) -> int:
        """Return the highest number of machines on which it ran at the same time."""
        moves = sorted(
            [(at, 1) for at in self.stamps(key, "start")]
            + [(at, -1) for at in self.stamps(key, "end")]
        )
        return max(sum(step for _, step in moves[: n + 1]) for n in range(len(moves)))

    def _words(self, key: str) -> list[Any]:
        return [word for word in self.witness.testimonies() if word.key.startswith(f"{key}.")]


@contextmanager
def work(cluster: Cluster) -> Iterator[Workload]:
    """Yield a workload with a witness of its own; release held commands after the block."""
    with backing_servers.open_folder() as seen, backing_servers.open_folder() as folder:
        folder.chmod(0o755)
        found = Workload(cluster, folder, Witness(seen))
        try:
            yield found
        finally:
            found.end()
