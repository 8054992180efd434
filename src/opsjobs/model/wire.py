"""The base of everything that comes in as JSON: snake_case, camelCase taken too, unknown fields refused; and its units."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from opsjobs.model.units import format_duration, format_size, parse_duration, parse_size

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0, le=366 * 86400),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["30s", "10m", "2h"], "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)?$"}),
]
"""Seconds, over 0 and at most 366 days; written as text with a unit."""

Pause = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, le=366 * 86400),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["0s", "1s", "5m"], "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)?$"}),
]
"""Seconds like Duration, but 0 is taken, too: no pause at all."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0, le=1 << 40),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["64KiB", "10MiB"], "pattern": r"^\d+\s*(B|KiB|MiB|GiB)?$"}),
]
"""Bytes, at most 1 TiB; written as text with a unit."""

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def snake_case(name: str) -> str:
    """`timeoutSeconds` -> `timeout_seconds`."""
    return _HUMP.sub("_", name).lower()


def stored(info: ValidationInfo) -> bool:
    """Whether it is read back from where it is kept (`context={"stored": True}`): what was good then is not judged again."""
    return bool(info.context and info.context.get("stored"))


class Wire(BaseModel):
    """A request body or a part of one.

    Only names of fields are re-spelt from camelCase; keys of dictionaries (env, labels, parameters) are data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_enum_values=False)

    @model_validator(mode="before")
    @classmethod
    def _snake_case(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        known = cls.model_fields
        respelt: dict[Any, Any] = {}
        for key, value in body.items():
            snake = snake_case(key) if isinstance(key, str) and key not in known else key
            name = snake if snake in known else key
            if name in respelt:
                raise ValueError(f"{name} is given twice, in two spellings")
            respelt[name] = value
        return respelt


class Overriding(Wire):
    """What launches and stores in spite of the safety check or of an approval: takes safety:override, and a reason."""

    override_safety: bool = False
    reason: str | None = Field(default=None, max_length=2_000)

    @property
    def override(self) -> str | None:
        """The reason, where something is overridden."""
        return (self.reason or "") if self.override_safety else None
