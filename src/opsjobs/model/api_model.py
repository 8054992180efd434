"""The base of everything that comes in as JSON: snake_case, camelCase taken too, unknown fields refused; and its units."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from opsjobs.model.instants import in_reach
from opsjobs.model.near_names import UnknownField
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

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d\S*", re.IGNORECASE)


def _moment(given: Any) -> Any:
    if isinstance(given, datetime) or (isinstance(given, str) and _MOMENT.fullmatch(given)):
        return given
    raise ValueError("write a time with its zone, such as 2026-11-24T09:00:00Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(in_reach)]
"""An instant of 1970 to 2199, written as RFC 3339 has it, kept in UTC; not as a number, whose unit and zone nobody knows."""

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def snake_case(name: str) -> str:
    """`timeoutSeconds` -> `timeout_seconds`."""
    return _HUMP.sub("_", name).lower()


def stored(info: ValidationInfo) -> bool:
    """Whether it is read back from where it is kept (`context={"stored": True}`): what was good then is not judged again."""
    return bool(info.context and info.context.get("stored"))


class ApiModel(BaseModel):
    """A request body or a part of one.

    Only names of fields are re-spelt from camelCase; keys of dictionaries (env, labels, parameters) are data. Numbers and truths
    are what JSON says they are: neither `"yes"` nor 1 is true, and true is no port.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_enum_values=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe defaults as they are written: a duration or a size as text with its unit, not as a number."""
        described = handler.resolve_ref_schema(handler(core_schema))
        for name, field in cls.model_fields.items():
            text = described.get("properties", {}).get(field.alias or name)
            if text is not None and text.get("type") == "string" and isinstance(text.get("default"), int | float):
                spelt = next(item for item in field.metadata if isinstance(item, PlainSerializer))
                text["default"] = cast(Callable[[Any], str], spelt.func)(field.default)
        return described

    @model_validator(mode="before")
    @classmethod
    def _snake_case(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        known, scalars, names = cls.model_fields, _scalars(cls), _names(cls)
        respelt: dict[Any, Any] = {}
        for key, value in body.items():
            snake = snake_case(key) if isinstance(key, str) and key not in known else key
            name = snake if snake in known else key
            if name in respelt:
                raise ValueError(f"{name} is given twice, in two spellings")
            if isinstance(name, str) and name not in names:
                respelt[name] = UnknownField(snake, names)  # refused by the model; this names the field that was meant
                continue
            kinds = scalars.get(name) if isinstance(name, str) else None
            respelt[name] = value if kinds is None else _as_it_is(value, kinds)
        return respelt


class Overriding(ApiModel):
    """What launches and stores in spite of the safety check or of an approval: takes safety:override, and a reason."""

    override_safety: bool = False
    reason: str | None = Field(default=None, max_length=2_000)

    @property
    def override(self) -> str | None:
        """The reason, where something is overridden."""
        return (self.reason or "") if self.override_safety else None


# What no field takes: its own words of refusal, at its own place, are the best.
_OF_ANOTHER_TYPE = object()


@cache
def _names(model: type[ApiModel]) -> tuple[str, ...]:
    """The names that a body may use."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


@cache
def _scalars(model: type[ApiModel]) -> dict[str, frozenset[type]]:
    """The fields that take only numbers or truths, or lists of them, with what each takes."""
    found = {}
    for name, field in model.model_fields.items():
        if not _converts(field.metadata) and (kinds := _kinds(field.annotation)):
            found[name] = kinds
    return found


def _kinds(annotation: Any) -> frozenset[type]:
    """Which of bool, int, float an annotation takes, itself or in a list; nothing where it takes anything else, too."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return frozenset() if _converts(arguments[1:]) else _kinds(arguments[0])
    if origin in (Union, UnionType):
        parts = [_kinds(argument) for argument in arguments if argument is not NoneType]
        return frozenset().union(*parts) if all(parts) else frozenset()
    if origin in (list, tuple, frozenset, Sequence):
        return _kinds(arguments[0])
    return frozenset({annotation}) if annotation in (bool, int, float) else frozenset()


def _converts(metadata: Iterable[object]) -> bool:
    return any(isinstance(item, BeforeValidator) for item in metadata)


def _as_it_is(given: Any, kinds: frozenset[type]) -> Any:
    if isinstance(given, list | tuple):
        return [_as_it_is(item, kinds) for item in given]
    if isinstance(given, bool):
        fits = bool in kinds
    elif isinstance(given, int | float):
        fits = bool(kinds & {int, float})
    else:
        fits = not isinstance(given, str)  # what is neither is refused by its field
    return given if fits else _OF_ANOTHER_TYPE
