"""Executions of thousands of targets in the database of the running service.

A worker of the test plays them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from console.conftest import Stack
from kit.many_runs import JOB, ManyRuns, add_targets
from opsjobs.standalone.postgres import Postgres
from opsjobs.store.transaction import Database, DatabaseOptions

Result = TypeVar("Result")
# The worker of the service takes nothing of another zone.
ZONE = "seeded"
TARGETS = 10_000
LAUNCH_SECONDS = 120


@dataclass
class Seeded:
    """The inventory of thousands, and their job."""

    stack: Stack
    url: str
    job: int
    targets: int = 0

    def grow(self, targets: int) -> None:
        """Add targets, up to this number of them."""

        async def add(many: ManyRuns) -> None:
            await add_targets(many.database, targets, first=self.targets + 1, zone=ZONE)

        self.play(add)
        self.targets = targets

    def run(self, **body: Any) -> int:
        """Launch the job, and play it to its end; return the execution's id."""
        execution = self.launch(**body)

        async def play(many: ManyRuns) -> None:
            await many.play()
            await many.spread(execution)

        self.play(play)
        return execution

    def launch(self, **body: Any) -> int:
        """Launch the job; return the execution's id."""
        answer = self.stack.http.post(
            f"/jobs/{self.job}/execute", json=body, timeout=LAUNCH_SECONDS
        )
        assert answer.status_code == 202, answer.text
        found: int = answer.json()["id"]
        return found

    def play(self, work: Callable[[ManyRuns], Awaitable[Result]]) -> Result:
        """Do something as the worker of these targets."""

        async def run() -> Result:
            database = Database(DatabaseOptions(self.url, connections=4, application_name="test"))
            await database.open()
            try:
                return await work(ManyRuns(database, zone=ZONE))
            finally:
                await database.close()

        # Tests of pages run on the browser's thread, which has a loop of its own.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(run())).result()

    @contextmanager
    def playing(self, work: Callable[[ManyRuns], Awaitable[object]]) -> Iterator[threading.Thread]:
        """Do the same while the block runs; wait for its end after the block."""
        thread = threading.Thread(target=self.play, args=[work])
        thread.start()
        try:
            yield thread
        finally:
            thread.join()


def seed(stack: Stack, targets: int = TARGETS) -> Seeded:
    """Add the targets and their job."""
    data = stack.service.data
    url = Postgres(data, log=data / "postgres.log").running_url
    made = stack.call("POST", "/jobs", JOB)
    seeded = Seeded(stack, url, made["id"])
    seeded.grow(targets)
    return seeded
