"""Fixtures for all tests, and the runner of `async def` tests."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from kit import backing_servers, xdist_scheduling
from opsjobs.store.transaction import Database, DatabaseOptions

ASYNC_TEST_SECONDS = 180

# What a script starts in the background ignores SIGINT and SIGQUIT, with nohup SIGHUP; every process of a test would, too.
for _ignored in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(
            _ignored, signal.default_int_handler if _ignored is signal.SIGINT else signal.SIG_DFL
        )

# A loaded machine makes any example slow: that is not a fault of the tested code. The examples are
# the same in each run, so that a failure belongs to the change that caused it; `make test-long`
# looks for new ones.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=not os.environ.get("TESTS_RANDOM"),
)
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test in a loop of its own, for at most three minutes.

    Each Database that it was given is opened.
    """
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    asyncio.run(asyncio.wait_for(_run(pyfuncitem), ASYNC_TEST_SECONDS))
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> xdist_scheduling.Shares:
    """Return the distribution of tests, if there are several processes."""
    config.option.loadscopereorder = False  # they arrive in the order of `xdist_scheduling.turn`
    return xdist_scheduling.Shares(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several processes, begin with the longest tests; a single one keeps the order of files."""
    if hasattr(config, "workerinput"):
        items.sort(key=xdist_scheduling.turn)


def pytest_collection_finish() -> None:
    """Collected items stay until the end: exclude them from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With TESTS_SKIP_NOTHING (CI), fail a skipped test.

    Unless its reason is that `this machine cannot …`.
    """
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("TESTS_SKIP_NOTHING"):
        reason = (
            str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        )
        if "this machine cannot" not in reason:
            report.outcome = "failed"
            report.longrepr = f"nothing may be skipped here: {reason}"
    return report


async def _run(item: pytest.Function) -> None:
    given: dict[str, Any] = item.funcargs
    async with AsyncExitStack() as stack:
        for value in given.values():
            if isinstance(value, Database):
                await value.open()
                stack.push_async_callback(value.close)
        await item.obj(**{name: given[name] for name in item._fixtureinfo.argnames})


@pytest.fixture(scope="session")
def databases() -> Iterator[backing_servers.Databases]:
    """The embedded PostgreSQL of this test process."""
    with backing_servers.databases() as found:
        yield found


@pytest.fixture
def database_url(databases: backing_servers.Databases) -> Iterator[str]:
    """The URL of a migrated, empty database that only this test uses."""
    name = databases.create()
    yield databases.url_of(name)
    databases.drop(name)


@pytest.fixture
def database(database_url: str) -> Database:
    """A Database of that URL; open while an `async def` test runs."""
    return Database(DatabaseOptions(database_url, connections=8, application_name="test"))


@pytest.fixture(scope="session")
def _valkey_url() -> Iterator[str]:
    with backing_servers.valkey() as url:
        yield url


@pytest.fixture
def redis_url(_valkey_url: str) -> str:
    """The URL (`unix:///…`) of an empty Valkey that no other test uses at the same time."""
    with redis.Redis.from_url(_valkey_url) as client:
        client.flushall()
    return _valkey_url
