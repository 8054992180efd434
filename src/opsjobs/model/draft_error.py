"""A fault in a draft that only the whole shows: what is wrong, a stable code, and the path to the place."""

from __future__ import annotations

from pydantic_core import PydanticCustomError


def fault(code: str, detail: str, *at: str | int) -> PydanticCustomError:
    """To be raised in a validator; `at`: keys and positions from that validator's own model down to the place.

    >>> str(fault("cycle", "a waits for b, b waits for a", "actions", 0, "depends_on"))
    '/actions/0/depends_on: a waits for b, b waits for a'
    """
    where = "".join(f"/{step}" for step in at)
    words = f"{where}: {detail}" if where else detail
    # The words are given as a value: braces in them are not pydantic's.
    return PydanticCustomError(code, "{words}", {"words": words, "detail": detail, "at": list(at)})
