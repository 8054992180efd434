"""Workload for a test of its own: commands that testify, fail where they are told to, and wait for leave; and what became of them."""

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
    """The targets, which are all this machine, share its folder: a file there tells a command what to do on which address."""

    cluster: Cluster
    folder: Path
    witness: Witness
    launched: list[int] = field(default_factory=list)

    # Commands.

    @property
    def sound(self) -> str:
        """Fails on the addresses that were broken."""
        return f"test ! -e '{self.folder}'/broken.$3"

    @property
    def held(self) -> str:
        """Goes on when leave was given; gives up by itself where the test was ended before."""
        return f"n=0; until test -e '{self.folder}/leave'; do n=$((n+1)); test $n -lt 2000 || exit 9; sleep 0.1; done"

    def step(self, key: str, then: str = ":", **more: Any) -> Json:
        """An action that testifies at its start and its end on each target."""
        return {
            "key": key,
            "type": "command",
            "command": self.witness.from_start_to_end(key, then),
            **more,
        }

    def leave(self) -> None:
        """What is held goes on."""
        (self.folder / "leave").touch()

    def break_(self, *hosts: str) -> None:
        """From now on `sound` fails there."""
        for host in hosts:
            (self.folder / f"broken.{host}").touch()

    def mend(self) -> None:
        """From now on it does not."""
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
        """An execution without a job; its id. Not durable unless the policy says so."""
        body = {
            "actions": list(actions),
            "targets": {"ids": list(targets)},
            "policy": {"durable": "off", **(policy or {})},
            **more,
        }
        self.launched.append(int(self.cluster.post("/run", body, 202)["id"]))
        return self.launched[-1]

    def end(self) -> None:
        """Nothing is held any more; what a failed test left open is cancelled."""
        self.leave()
        for execution in self.launched:
            if self.shown(execution)["finished_at"] is None:
                self.cluster.post(f"/executions/{execution}/cancel", {"reason": "the test is over"})
        self.cluster.settle(SECONDS)

    def ended(self, execution: int) -> Json:
        """As it is when it has ended."""
        return self.cluster.ended(execution, SECONDS)

    def shown(self, execution: int) -> Json:
        """As it is now."""
        return self.cluster.get(f"/executions/{execution}")

    def paused(self, execution: int) -> Json:
        """As it is when nothing more starts of it and nothing runs."""

        def stands() -> bool:
            at_work = any(run["status"] == "running" for run in self.runs(execution).values())
            return self.shown(execution)["status"] == "paused" and not at_work

        wait_until(stands, f"execution {execution} is paused", SECONDS)
        return self.shown(execution)

    def runs(self, execution: int) -> dict[str, Json]:
        """Its runs by the target's name."""
        return {run["target"]["name"]: run for run in self.cluster.runs(execution)}

    def statuses(self, execution: int) -> dict[str, str]:
        """How each target fares."""
        return {name: run["status"] for name, run in self.runs(execution).items()}

    def waits(self, execution: int, target: str, what: str) -> Json:
        """The run of this target, once it waits for that."""
        wait_until(
            lambda: self.runs(execution)[target]["waiting_for"] == what,
            f"{target} waits for {what}",
            SECONDS,
        )
        return self.runs(execution)[target]

    def results(self, execution: int) -> dict[str, Json]:
        """The last attempt of each action, of an execution with one target."""
        found = sorted(self.cluster.results(execution), key=lambda result: result["attempt"])
        return {result["action_key"]: result for result in found}

    # What was seen on the machines.

    def began(self, key: str) -> list[str]:
        """The addresses on which a step was started, in that order."""
        return [
            word.key.removeprefix(f"{key}.") for word in self._words(key) if word.what == "start"
        ]

    def stamps(self, key: str, what: str) -> list[float]:
        """When it was started or ended, wherever."""
        return [word.at for word in self._words(key) if word.what == what]

    def at_once(self, key: str) -> int:
        """On how many machines it was at work at one time, at most."""
        moves = sorted(
            [(at, 1) for at in self.stamps(key, "start")]
            + [(at, -1) for at in self.stamps(key, "end")]
        )
        return max(sum(step for _, step in moves[: n + 1]) for n in range(len(moves)))

    def _words(self, key: str) -> list[Any]:
        return [word for word in self.witness.testimonies() if word.key.startswith(f"{key}.")]


@contextmanager
def work(cluster: Cluster) -> Iterator[Workload]:
    """With a witness of its own, for the length of the block; what is still held then may go on."""
    with backing_servers.open_folder() as seen, backing_servers.open_folder() as folder:
        folder.chmod(0o755)
        found = Workload(cluster, folder, Witness(seen))
        try:
            yield found
        finally:
            found.end()
