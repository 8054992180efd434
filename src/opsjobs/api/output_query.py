"""Query parameters that all routes of an execution's output share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from opsjobs.model import text_patterns


class OutputQuery(BaseModel):
    """Query of a part of the output: that of one target, stream or action."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str | None = Field(
        None, max_length=200, pattern=text_patterns.LINE_OR_NOTHING, description="Id or name."
    )
    stream: Literal["stdout", "stderr"] | None = None
    action: str | None = Field(
        None,
        max_length=64,
        pattern=text_patterns.LINE_OR_NOTHING,
        description="An action's key.",
    )
