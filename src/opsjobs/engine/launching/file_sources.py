"""Which uploaded files a launch is to bring: looked up once, so that the execution is of exactly these, whatever is uploaded later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opsjobs.model.errors import FieldError, Invalid, NotFound
from opsjobs.store.files import Files


async def fixed(files: Files, actions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The actions with the uuid of each uploaded file as its source. Raises Invalid.

    A source that holds a parameter is a file only when it is rendered: that is looked up by the transfer.
    """
    return [
        await _fixed(files, at, action)
        if names_a_file(action["type"], action.get("direction"), action.get("source", ""))
        else dict(action)
        for at, action in enumerate(actions)
    ]


def names_a_file(type_: str, direction: str | None, source: str) -> bool:
    """Return whether an action of this kind brings an uploaded file that is known before the launch."""
    return type_ == "file_transfer" and direction == "upload" and "${" not in source


async def _fixed(files: Files, at: int, action: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {**action, "source": (await files.get(action["source"])).uuid}
    except NotFound:
        detail = f"There is no file {action['source'][:60]!r}: upload it first (POST /files), and take its id."
        raise Invalid(
            "unknown_file",
            detail,
            errors=[FieldError(f"/actions/{at}/source", detail, "unknown_file")],
        ) from None
