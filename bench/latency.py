"""How long a caller waits: for POST /execute to be answered, and from the POST until the event stream tells the first output."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence

from ours import Service

SETTLE_SECONDS = 30
CALLERS = 4


def accept(running: Service, job_id: int, count: int) -> list[float]:
    """Seconds of each of `count` POST /execute, one after another on one connection, each execution ended before the next."""
    api = running.api()
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        execution = api.call("POST", f"/jobs/{job_id}/execute", {})
        taken.append(time.perf_counter() - began)
        _ended(running, execution["id"])
    api.close()
    return taken


def accept_rate(running: Service, job_id: int, count: int) -> float:
    """POST /execute a second with four callers at once, while the worker runs what they launch."""

    def call_many() -> None:
        api = running.api()
        for _ in range(count // CALLERS):
            ids.append(api.call("POST", f"/jobs/{job_id}/execute", {})["id"])
        api.close()

    ids: list[int] = []
    callers = [threading.Thread(target=call_many) for _ in range(CALLERS)]
    began = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    seconds = time.perf_counter() - began
    if len(ids) != count // CALLERS * CALLERS:
        raise RuntimeError(f"{len(ids)} of {count} executions were launched")
    for execution_id in ids:
        _ended(running, execution_id)
    return len(ids) / seconds


def first_byte(running: Service, job_id: int, count: int) -> list[float]:
    """Seconds from the POST until the stream told the first byte that the command wrote."""
    api = running.api()
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        execution = api.call("POST", f"/jobs/{job_id}/execute", {})
        taken.append(_stream(running, execution["id"]) - began)
    api.close()
    return taken


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _stream(running: Service, execution_id: int) -> float:
    """Follow to the end; the moment of the first output."""
    connection = http.client.HTTPConnection(running.host, running.port, timeout=SETTLE_SECONDS)
    connection.request("GET", f"/executions/{execution_id}/events", headers={"Authorization": f"Bearer {running.token}"})
    answer = connection.getresponse()
    told = None
    for line in answer:
        if told is None and line.strip() == b"event: output":
            told = time.perf_counter()
    connection.close()
    if told is None:
        raise RuntimeError(f"execution {execution_id} wrote nothing")
    return told


def _ended(running: Service, execution_id: int) -> None:
    api = running.api()
    deadline = time.monotonic() + SETTLE_SECONDS
    while api.call("GET", f"/executions/{execution_id}")["finished_at"] is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"execution {execution_id} does not end")
        time.sleep(0.01)
    api.close()
