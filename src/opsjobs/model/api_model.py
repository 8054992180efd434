"""The base model of all JSON input, its units and its instants.

Fields are snake_case, camelCase is accepted, and unknown fields are refused. `in_reach` is the one
place that limits the range of instants."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
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
from pydantic_core import CoreSchema, PydanticCustomError

from opsjobs.model.units import (
    LIMIT_ERRORS,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from opsjobs.model.unknown_field import UnknownField

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
HORIZON = datetime(2200, 1, 1, tzinfo=UTC)
"""The exclusive end of accepted instants: no due time is this late.

It is far from the limits of datetime, so that adding offsets and intervals never overflows."""


def in_reach(moment: datetime) -> datetime:
    """Return an aware time in UTC. Raises ValueError if its local year is not 1970 to 2199."""
    if not EARLIEST.year <= moment.year < HORIZON.year:  # the conversion to UTC could overflow
        raise ValueError(
            f"{moment.isoformat()} is out of reach: write a time in the years {EARLIEST.year} to "
            f"{HORIZON.year - 1}"
        )
    return moment.astimezone(UTC)


def read_instant(text: str) -> datetime:
    """Parse an ISO 8601 time with its offset and return it in UTC.

    Raises ValueError with the expected format."""
    try:
        moment = datetime.fromisoformat(text) if len(text) <= 64 else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("write a time with its zone, such as 2026-11-24T09:00:00Z")
    return in_reach(moment)


_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "le": operator.le,
}


def _limits(write: Callable[[Any], str], bounds: dict[str, float]) -> AfterValidator:
    """Check a number against bounds; `write` formats the limit that an error names."""

    def check(value: Any) -> Any:
        for bound, limit in bounds.items():
            if not _HOLDS[bound](value, limit):
                code, words = LIMIT_ERRORS[bound]
                raise PydanticCustomError(code, words, {bound: write(limit)})
        return value

    return AfterValidator(check)


def duration_limits(**bounds: float) -> AfterValidator:
    """Check a duration in seconds against `gt`, `ge` or `le`; errors name the limit as "1d"."""
    return _limits(format_duration, bounds)


_DURATION_PATTERN = r"^\d+(\.\d+)?\s*(ms|s|m|h|d)?$"

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    duration_limits(gt=0, le=366 * 86400),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "examples": ["30s", "10m", "2h"],
            "pattern": _DURATION_PATTERN,
        }
    ),
]
"""Seconds, over 0 and at most 366 days; written as text with a unit."""

Pause = Annotated[
    float,
    BeforeValidator(parse_duration),
    duration_limits(ge=0, le=366 * 86400),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "examples": ["0s", "1s", "5m"],
            "pattern": _DURATION_PATTERN,
        }
    ),
]
"""Seconds like Duration, but 0 (no pause) is allowed, too."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    _limits(format_size, {"ge": 0, "le": 1 << 40}),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {"type": "string", "examples": ["64KiB", "10MiB"], "pattern": r"^\d+\s*(B|KiB|MiB|GiB)?$"}
    ),
]
"""Bytes, at most 1 TiB; written as text with a unit."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d\S*", re.IGNORECASE)


def _moment(given: Any) -> Any:
    if isinstance(given, datetime) or (isinstance(given, str) and _MOMENT.fullmatch(given)):
        return given
    raise ValueError("write a time with its zone, such as 2026-11-24T09:00:00Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(in_reach)]
"""An RFC 3339 timestamp from 1970 to 2199, stored in UTC.

Numbers are refused: their unit and zone are ambiguous."""

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def snake_case(name: str) -> str:
    """Return a name in snake_case: `timeoutSeconds` -> `timeout_seconds`."""
    return _HUMP.sub("_", name).lower()


def stored(info: ValidationInfo) -> bool:
    """Return True if the value is read back from the database (`context={"stored": True}`).

    Values that were valid when they were stored are not validated again."""
    return bool(info.context and info.context.get("stored"))


class ApiModel(BaseModel):
    """A request body or a part of one.

    Only names of fields are converted from camelCase; keys of dictionaries (env, labels,
    parameters) are data. Numbers and booleans must have their JSON type: neither `"yes"` nor 1 is
    true, and true is no port."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_enum_values=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the default of a duration or a size as text with its unit, not as a number."""
        described = handler.resolve_ref_schema(handler(core_schema))
        for name, field in cls.model_fields.items():
            text = described.get("properties", {}).get(field.alias or name)
            if (
                text is not None
                and text.get("type") == "string"
                and isinstance(text.get("default"), int | float)
            ):
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
                # The model refuses it; this names the field that was meant.
                respelt[name] = UnknownField(snake, names)
                continue
            kinds = scalars.get(name) if isinstance(name, str) else None
            respelt[name] = value if kinds is None else _as_it_is(value, kinds)
        return respelt


class Overriding(ApiModel):
    """The fields of requests that override the safety check or an approval.

    An override needs safety:override and a reason."""

    override_safety: bool = False
    reason: str | None = Field(default=None, max_length=2_000)

    @property
    def override(self) -> str | None:
        """The reason if something is overridden, else None."""
        return (self.reason or "") if self.override_safety else None


# A value that no field accepts: the clearest error is the field's own, at its own path.
_OF_ANOTHER_TYPE = object()


@cache
def _names(model: type[ApiModel]) -> tuple[str, ...]:
    """Return the names that a body may use."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


@cache
def _scalars(model: type[ApiModel]) -> dict[str, frozenset[type]]:
    """Return the fields that accept only numbers or booleans, or lists of them.

    Each comes with the types that it accepts."""
    found = {}
    for name, field in model.model_fields.items():
        if not _converts(field.metadata) and (kinds := _kinds(field.annotation)):
            found[name] = kinds
    return found


def _kinds(annotation: Any) -> frozenset[type]:
    """Return the types of bool, int and float that an annotation accepts, including in a list.

    Returns an empty set if it accepts any other type."""
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
        fits = not isinstance(given, str)  # any other value is refused by its field
    return given if fits else _OF_ANOTHER_TYPE
