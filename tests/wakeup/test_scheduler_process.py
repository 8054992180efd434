"""The scheduler's process: about one tick a second, whatever Redis or a pass does."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path

import pytest

from opsjobs.wakeup import loop_thread
from opsjobs.wakeup.loop_thread import LoopThread
from wakeup.server_processes import Hosted, freeze, own_redis

STOP_SECONDS = 30.0


def test_it_ticks_about_once_a_second_and_stops_in_time(redis_url: str) -> None:
    with Hosted("scheduler", redis_url) as scheduler:
        scheduler.wait_for("TICK")
        moments = [float(scheduler.wait_for("TICK").split()[1]) for _ in range(3)]
        assert 0.9 < moments[-1] - moments[0] < 60
        code, seconds = scheduler.end()
        assert (code, seconds < STOP_SECONDS) == (0, True), seconds
        assert "STOPPED" in scheduler.rest()


def test_it_ticks_without_redis_and_with_a_frozen_one() -> None:
    with own_redis() as server:
        freeze(server)
        frozen = server.url
        for url in (frozen, "unix:///nowhere/valkey.sock", "none"):
            with Hosted("scheduler", url) as scheduler:
                for _ in range(2):
                    scheduler.wait_for("TICK")
                code, seconds = scheduler.end(signal.SIGINT)
                assert (code, seconds < STOP_SECONDS) == (0, True), seconds


def test_a_pass_that_fails_does_not_end_it_and_is_told_once(redis_url: str) -> None:
    with Hosted("scheduler", redis_url, "broken-tick") as scheduler:
        for _ in range(3):
            scheduler.wait_for("TICK")
        assert scheduler.end()[0] == 0
        assert sum("scheduler_pass_failed" in line for line in scheduler.rest()) == 1


def test_it_leaves_no_file_behind(redis_url: str, tmp_path: Path) -> None:
    with Hosted("scheduler", redis_url, cwd=tmp_path) as scheduler:
        scheduler.wait_for("TICK")
        scheduler.end()
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_ends_the_process_with_1(redis_url: str) -> None:
    with Hosted("scheduler", redis_url, "broken") as scheduler:
        assert scheduler.process.wait(60) == 1
        assert any("no database" in line for line in scheduler.rest())


class _Endless:
    """Refuses to be stopped."""

    async def start(self) -> None:
        """Become ready."""

    async def stop(self) -> None:
        """Wait forever."""
        await asyncio.Event().wait()


def test_a_drain_that_never_ends_is_left_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_thread, "STOP_SECONDS_MAX", 0.3)
    host = LoopThread(_Endless(), "endless")
    host.start()
    began = time.monotonic()
    second = threading.Thread(target=host.stop)
    second.start()
    host.stop()
    second.join(60)
    assert 0.2 < time.monotonic() - began < 30


def test_a_loop_that_is_stopped_before_it_starts_never_starts() -> None:
    host = LoopThread(_Endless(), "endless")
    host.stop()
    with pytest.raises(SystemExit):
        host.start()
