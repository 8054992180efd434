"""The tools of a fault in its round: launches with known outcomes, waits, and targets to break."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence

import httpx2
import psycopg

from chaos import long_texts
from chaos.cluster import ChaosCluster
from chaos.machines import Machine
from chaos.observers import DatabasePoller, Watcher
from chaos.verdicts import Launched, Own
from chaos.work import Work, at_once, mixture
from e2e.processes import SECONDS, Json, ServiceProcess, wait_until

# A key is answered with 409 while its first request is processed, and with 503 while the database
# is down.
_LATER = (409, 503)
_AGAIN_SECONDS = 0.1
_REASON = long_texts.text(long_texts.REASON_CHARACTERS)
# Four looks a second at more rows would cost as much as the work itself. The invariants remember
# how these ended, too.
WATCHED_MAX = 500
DURABLE = "required"
"""The policy of every launch:

no command is started directly, so that none may be lost with its worker.
"""


class FaultContext:
    """One round of one fault, which breaks things and returns; `chance` decides where and when."""

    def __init__(
        self, cluster: ChaosCluster, chance: random.Random, name: str, poller: DatabasePoller
    ) -> None:
        self.cluster = cluster
        self.chance = chance
        self.launched: list[Launched] = []
        self.watchers: list[Watcher] = []
        self.own: Own | None = None
        self.quick = False
        self._name = name
        self._poller = poller

    # Work.

    def launch(
        self, seconds: float = 2.0, addresses: Sequence[str] | None = None, *, cancel: bool = True
    ) -> None:
        """Launch all kinds of work that take about so long, on all machines or these.

        One launch in a dozen is there to be cancelled.
        """
        works = [
            *mixture(self.cluster.nasty, self.chance, seconds),
            self.cluster.long_texts.work(seconds, self.chance.choice((0, 9))),
        ]
        places = list(addresses or self.cluster.addresses)
        self.chance.shuffle(places)
        for number, work in enumerate(works):
            self.start(work, places[number :: len(works)])
        if cancel:
            self.start(works[0], places[:6], max_parallel=3).cancelled = True
        if addresses is None:
            self.launch_on_windows(seconds)
        self.watch(self.chance.choice(self.launched))

    def launch_on_windows(self, seconds: float) -> None:
        """Launch each kind of work on a Windows host of its own."""
        works = mixture(self.cluster.nasty, self.chance, seconds)
        for work, address in zip(works, self.cluster.windows.addresses, strict=True):
            self.start(work, [address], windows=True)

    def warm_up(self, addresses: Sequence[str]) -> None:
        """Open a connection to each machine, and end its session."""
        self.start(Work("at once", [at_once()]), addresses, max_parallel=100)
        assert self.ended(), "the warm-up ends"

    def launch_one(self) -> Launched:
        """Launch something small, on a few machines."""
        return self.start(Work("at once", [at_once()]), self.some_addresses(0.1))

    def start(
        self,
        work: Work,
        addresses: Sequence[str],
        *,
        max_parallel: int = 50,
        targets: Json | None = None,
        windows: bool = False,
    ) -> Launched:
        """Launch this on these targets, like a good client.

        It sends a key, and repeats the request until it is answered. `targets`: a selection, if not
        by names.
        """
        mark = f"{self._name}-{len(self.launched)}"
        policy = {"max_parallel": max_parallel, "durable": DURABLE, **work.policy}
        actions = work.on_windows if windows else work.actions
        body: Json = {"actions": actions(mark, self.cluster.witness), "policy": policy}
        order: Json = {
            "targets": targets or {"ids": [self.cluster.name_of(address) for address in addresses]},
            "parameters": work.parameters,
            "reason": _REASON,
        }
        if work.job is None:
            answer = self._insist("/run", {**body, **order}, str(uuid.uuid4()))
        else:
            stored = self._insist(
                "/jobs", {"name": long_texts.name(mark), **body, **work.job}, str(uuid.uuid4())
            )
            assert stored.status_code == 201, stored.text
            answer = self._insist(f"/jobs/{stored.json()['id']}/execute", order, str(uuid.uuid4()))
        assert answer.status_code == 202, answer.text
        launched = Launched(int(answer.json()["id"]), mark, work, list(addresses))
        self.launched.append(launched)
        if len(addresses) <= WATCHED_MAX:
            self._poller.watch(launched.id)
        return launched

    def cancel(self) -> None:
        """Cancel the launches that are there to be cancelled."""
        for launched in self.launched:
            if launched.cancelled:
                answer = self._insist(f"/executions/{launched.id}/cancel", {"reason": _REASON})
                assert (
                    answer.status_code == 202 or answer.json().get("code") == "execution_ended"
                ), answer.text

    def watch(self, launched: Launched) -> None:
        """Follow the execution live."""
        watcher = Watcher(self.cluster.client, launched.id, self.chance.randrange(1 << 30))
        watcher.start()
        self.watchers.append(watcher)

    def _insist(self, path: str, body: Json, key: str | None = None) -> httpx2.Response:
        answers: list[httpx2.Response] = []

        def answered() -> bool:
            try:
                answers.append(
                    self.cluster.http.post(
                        path, json=body, headers={"idempotency-key": key} if key else {}
                    )
                )
            except httpx2.TransportError:
                self.cluster.revive("api")
                return False
            later = (
                answers[-1].status_code in _LATER
                and answers[-1].json().get("code") != "execution_ended"
            )
            if later:
                self.pause(_AGAIN_SECONDS)
            return not later

        wait_until(answered, f"an answer to POST {path}")
        return answers[-1]

    # Conditions.

    def begun(self, share: float = 0.3) -> None:
        """Wait until so much of all work has begun on its machines.

        It does not wait forever, as a fault may prevent it.
        """
        wanted = share * sum(len(launched.addresses) for launched in self.launched)
        marks = tuple(f"{launched.mark}-1." for launched in self.launched)
        self.soon(
            lambda: sum(key.startswith(marks) for key in self.cluster.witness.starts()) >= wanted
        )

    def ended(self, seconds: float = 90.0) -> bool:
        """Return True if everything that was launched has ended in time."""
        open_ones = "select 1 from job_executions where id = any(%s) and finished_at is null"
        return self.soon(
            lambda: not self.cluster.rows(open_ones, [launched.id for launched in self.launched]),
            seconds,
        )

    def soon(self, condition: Callable[[], object], seconds: float = 6.0) -> bool:
        """Return True if the condition became true in time.

        While the database is down, it is not.
        """
        ends = time.monotonic() + seconds
        while not self._holds(condition):
            if time.monotonic() > ends:
                return False
            self.pause(0.03)
        return True

    def _holds(self, condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except psycopg.Error:
            return False

    def pause(self, seconds: float) -> None:
        """Wait while a fault lasts."""
        threading.Event().wait(seconds)

    def moment(self, seconds: float = 0.4) -> None:
        """Wait up to so long, by chance."""
        self.pause(self.chance.uniform(0, seconds))

    def longer(self, quick: float, full: float) -> float:
        """Return how long a fault lasts: `quick` in a short session, else `full`."""
        return quick if self.quick else full

    # Targets to break.

    @property
    def workers(self) -> list[ServiceProcess]:
        """Both workers."""
        return self.cluster.workers

    def worker(self) -> ServiceProcess:
        """Return one of them that has runs."""
        busy = "select distinct worker from target_runs where status = 'running'"
        titles: set[str] = set()
        self.soon(lambda: titles.update(row["worker"] for row in self.cluster.rows(busy)) or titles)
        return self.chance.choice(
            [worker for worker in self.workers if worker.title in titles] or self.workers
        )

    def machine(self) -> Machine:
        """Return one of the machines."""
        return self.chance.choice(self.cluster.fleet)

    def some_addresses(self, share: float = 0.5) -> list[str]:
        """Return the machines of some targets."""
        return self.chance.sample(
            self.cluster.addresses, round(len(self.cluster.addresses) * share)
        )

    def leave(self, seconds: float = SECONDS) -> list[str]:
        """Wait for the watchers; return the errors that they saw."""
        found = []
        for watcher in self.watchers:
            watcher.join(seconds)
            watcher.leave()
            positions = [position for position, _, _ in watcher.frames]
            if (
                positions != [*range(1, len(positions) + 1)]
                or not positions
                or watcher.frames[-1][1] != "end"
            ):
                seen = f"{len(positions)} frames, the last {positions[-5:]}"
                found.append(f"a viewer saw {seen}: not each once to the end ({watcher.broken!r})")
        return found
