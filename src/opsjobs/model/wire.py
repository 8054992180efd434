"""The base of everything that comes in as JSON: snake_case, camelCase taken too, unknown fields refused."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


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
            snake = _HUMP.sub("_", key).lower() if isinstance(key, str) and key not in known else key
            name = snake if snake in known else key
            if name in respelt:
                raise ValueError(f"{name} is given twice, in two spellings")
            respelt[name] = value
        return respelt
