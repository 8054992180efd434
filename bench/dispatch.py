"""Latency of the service: POST /execute, and from a POST to the first byte of the live stream."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from statistics import quantiles

from ours import SPARE, Api, Service, job

WARM_UPS = 20


@dataclass(frozen=True, slots=True)
class Spread:
    """Times of equal requests in milliseconds, and their rate per second."""

    p50: float
    p99: float
    rate: float


def _spread(seconds: list[float], elapsed: float) -> Spread:
    cuts = quantiles(seconds, n=100, method="inclusive")
    return Spread(cuts[49] * 1000, cuts[98] * 1000, len(seconds) / elapsed)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """POST /execute of a job with one warm target without a pause, while the worker executes all of them."""

    sequential: Spread
    concurrent: Spread
    callers: int


def posts(running: Service, count: int, callers: int = 8) -> Dispatch:
    """Measure one caller, then several at once."""
    api = running.api()
    job_id = job(api, "post", {"ids": [SPARE]}, 1)
    for _ in range(WARM_UPS):
        api.call("POST", f"/jobs/{job_id}/execute", {})
    _wait_until_all_ended(api, job_id)
    alone: list[float] = []
    began = time.perf_counter()
    _post(api, job_id, count, alone)
    sequential = _spread(alone, time.perf_counter() - began)
    _wait_until_all_ended(api, job_id)
    crowd: list[float] = []
    threads = [
        threading.Thread(target=_post, args=(running.api(), job_id, count // callers, crowd))
        for _ in range(callers)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    concurrent = _spread(crowd, time.perf_counter() - began)
    _wait_until_all_ended(api, job_id)
    api.close()
    return Dispatch(sequential, concurrent, callers)


def _post(api: Api, job_id: int, count: int, seconds: list[float]) -> None:
    for _ in range(count):
        began = time.perf_counter()
        api.call("POST", f"/jobs/{job_id}/execute", {})
        seconds.append(time.perf_counter() - began)


def _wait_until_all_ended(api: Api, job_id: int) -> None:
    deadline = time.monotonic() + 60
    # The oldest wait longest: all have ended when none is queued or running.
    while any(
        api.call("GET", f"/jobs/{job_id}/executions?status={status}&limit=1")["items"]
        for status in ("queued", "running")
    ):
        if time.monotonic() > deadline:
            raise RuntimeError("executions of one target do not end")
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class FirstBytes:
    """Times from the POST to its response, to the stream's first byte, and to the command's first byte, on an idle service."""

    answer: Spread
    first: Spread
    output: Spread


def streams(running: Service, count: int) -> FirstBytes:
    """Measure one execution on one warm target after another, each followed live."""
    api = running.api()
    job_id = job(api, "stream", {"ids": [SPARE]}, 1)
    for _ in range(WARM_UPS):
        _follow(running, api, job_id)
    began = time.perf_counter()
    moments = [_follow(running, api, job_id) for _ in range(count)]
    elapsed = time.perf_counter() - began
    api.close()
    answer, first, output = (list(each) for each in zip(*moments, strict=True))
    return FirstBytes(_spread(answer, elapsed), _spread(first, elapsed), _spread(output, elapsed))


def _follow(running: Service, api: Api, job_id: int) -> tuple[float, float, float]:
    began = time.perf_counter()
    execution = api.call("POST", f"/jobs/{job_id}/execute", {})
    answered = time.perf_counter() - began
    connection = http.client.HTTPConnection(running.host, running.port, timeout=30)
    connection.request(
        "GET",
        f"/executions/{execution['id']}/events",
        headers={"Authorization": f"Bearer {running.token}"},
    )
    answer = connection.getresponse()
    first = output = 0.0
    event = ""
    while event != "end" and (line := answer.readline()):
        first = first or time.perf_counter() - began
        if line.startswith(b"event:"):
            event = line.split(b":", 1)[1].strip().decode()
            if event == "output" and not output:
                output = time.perf_counter() - began
    connection.close()
    if not output:
        raise RuntimeError(f"the stream of {json.dumps(execution)[:200]} ended without output")
    return answered, first, output
