"""A validation error with a stable code and the path to the faulty place in the draft."""

from __future__ import annotations

from pydantic_core import PydanticCustomError


def fault(code: str, detail: str, *at: str | int) -> PydanticCustomError:
    """Return an error for a validator to raise.

    `at`: keys and positions from that validator's own model down to the place.

        >>> str(fault("cycle", "a waits for b, b waits for a", "actions", 0, "depends_on"))
        '/actions/0/depends_on: a waits for b, b waits for a'"""
    where = "".join(f"/{step}" for step in at)
    words = f"{where}: {detail}" if where else detail
    # The text is passed as a value, so that pydantic does not interpret braces in it.
    return PydanticCustomError(code, "{words}", {"words": words, "detail": detail, "at": list(at)})
