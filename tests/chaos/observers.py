"""Observers of a round: a viewer that reconnects, a poller that remembers every final state, a listener for events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import httpx2
import psycopg
import redis
from psycopg.rows import DictRow, dict_row

from e2e.viewer import Viewer
from opsjobs.model.events import CHANNEL
from opsjobs.standalone.valkey import Valkey

AGAIN_SECONDS = 0.2
_ENDS = {f"io.opsconductor.target_run.{how}.v1" for how in ("finished", "lost", "dead")}
LOOK_SECONDS = 0.25

_ENDED = """
select r.id, r.execution_id, r.status, r.exit_code, r.error_code, r.error_message, r.cancel_proof, r.attempt, r.finished_at,
  (select jsonb_agg(jsonb_build_array(x.action, x.attempt, x.status, x.exit_code, x.error_code, x.stdout_stored, x.stderr_stored)
                    order by x.id)
   from job_execution_results x where x.target_run_id = r.id) as results
from target_runs r where r.finished_at is not null and r.execution_id = any(%s)"""
_CROWDED = """
select target_id, count(*) as running, %s as slots from target_runs where status = 'running' group by 1 having count(*) > %s"""


class Watcher(Viewer):
    """A viewer that reconnects from its last position whenever the API is unavailable or not ready."""

    def __init__(self, client: Callable[[], httpx2.Client], execution: int, seed: int) -> None:
        super().__init__(client, execution, breaks=2, seed=seed, bytes_at_most=4_000)
        self._pause = threading.Event()

    def leave(self) -> None:
        """Stop reconnecting."""
        self._pause.set()

    def _connect(self, http: httpx2.Client) -> None:
        if self._pause.is_set():
            raise TimeoutError("the watcher was sent away before the end of the stream")
        try:
            super()._connect(http)
        except httpx2.TransportError:
            self._pause.wait(AGAIN_SECONDS)
        except AssertionError:  # 503: the database is down
            self._pause.wait(AGAIN_SECONDS)


class EventListener(threading.Thread):
    """Collects all published events, as long as Redis is the same process."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(name="event-listener", daemon=True)
        self.ended: set[str] = set()
        self._valkey = valkey
        self._process = valkey.process
        self._over = threading.Event()
        self._client: Any = redis.Redis.from_url(valkey.url)
        self._heard = self._client.pubsub()
        self._heard.subscribe(CHANNEL)

    @property
    def sure(self) -> bool:
        """True if it cannot have missed anything."""
        return self._valkey.process is self._process and self._valkey.running

    def run(self) -> None:
        """Listen until `close`, or until Redis ends."""
        with suppress(redis.RedisError, OSError, ValueError):
            # What was published before `close` is read to its end.
            while (
                message := self._heard.get_message(timeout=0.2)
            ) is not None or not self._over.is_set():
                if message is not None and message["type"] == "message":
                    event = json.loads(message["data"])
                    if event["type"] in _ENDS:
                        self.ended.add(event["subject"])

    def close(self) -> None:
        """Stop listening."""
        self._over.set()
        self.join(60)
        self._client.close()


class DatabasePoller(threading.Thread):
    """Polls the database; `changed` and `crowded` must stay empty."""

    def __init__(self, url: Callable[[], str], slots: int) -> None:
        super().__init__(name="database-poller", daemon=True)
        self.changed: list[tuple[DictRow, DictRow]] = []
        self.crowded: list[DictRow] = []
        self._url = url
        self._slots = slots
        self._seen: dict[int, DictRow] = {}
        self._executions: list[int] = []
        self._over = threading.Event()

    def watch(self, execution: int) -> None:
        """Poll this execution, too."""
        self._executions = [*self._executions, execution]

    def run(self) -> None:
        """Poll until `close`; skip a database that does not respond."""
        while not self._over.wait(LOOK_SECONDS):
            with suppress(psycopg.Error):
                self.look()

    def look(self) -> None:
        """Poll once."""
        options: dict[str, Any] = {
            "connect_timeout": 2,
            "options": "-c statement_timeout=2s",
            "row_factory": dict_row,
        }
        with psycopg.connect(self._url(), autocommit=True, **options) as connection:
            ended = connection.execute(_ENDED, [self._executions]).fetchall()
            self.crowded += connection.execute(_CROWDED, [self._slots, self._slots]).fetchall()
        self._compare(ended)

    def close(self) -> None:
        """Stop polling."""
        self._over.set()
        self.join(60)

    def _compare(self, ended: Iterable[DictRow]) -> None:
        for row in ended:
            before = self._seen.setdefault(row["id"], row)
            if before != row:
                self.changed.append((before, row))
