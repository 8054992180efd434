"""Process items one by one, so that a failure of one does not keep back the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from opsjobs.model.errors import Unavailable
from opsjobs.store.ledger.admit import admit
from opsjobs.store.transaction import Database

Key = TypeVar("Key")


async def for_each(
    database: Database, keys: Sequence[Key], act: Callable[[Key], Awaitable[int]]
) -> int:
    """Call `act` with each key and return the sum of its results.

    Raises the first exception once all keys are done. Ends at once if PostgreSQL is unavailable,
    because the others would fail as well.
    """
    done, failed = 0, list[Exception]()
    for key in keys:
        try:
            done += await act(key)
        except Exception as error:  # noqa: BLE001  it is raised in the end
            error.add_note(f"for {key!r}")
            failed.append(error)
            if isinstance(error, Unavailable):
                await database.fetch("select 1")
    if failed:
        raise next((error for error in failed if not isinstance(error, Unavailable)), failed[0])
    return done


async def admit_each(database: Database, executions: Sequence[int], at_once: int) -> int:
    """Call `admit` for executions, `at_once` at a time; return how many runs became ready.

    If a batch fails, each of its executions is admitted by itself.
    """

    async def alone(execution_id: int) -> int:
        return sum((await admit(database, [execution_id])).values())

    async def together(part: Sequence[int]) -> int:
        try:
            return sum((await admit(database, part)).values())
        except Exception:  # noqa: BLE001  it is raised again for the one that it comes of
            return await for_each(database, part, alone)

    return await for_each(
        database,
        [executions[n : n + at_once] for n in range(0, len(executions), at_once)],
        together,
    )
