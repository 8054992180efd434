"""Variables: the names, defaults and descriptions of settings, and reading their values.

A group of settings is a pydantic model. Each of its fields is one variable of the environment,
declared by `setting`. Groups are read from a mapping, not from the process: tests and `opsjobs up`
build their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from opsjobs.model.units import describe_size

PREFIX = "OPSJOBS_"
SECRET_FILE_BYTES_MAX = 65_536


class SettingsGroup(BaseModel):
    """Settings that belong together; immutable. Models are built when they are first used."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        defer_build=True,
        hide_input_in_errors=True,
    )


def setting(
    name: str,
    default: str | None,
    description: str,
    *,
    secret: bool = False,
    unset: Any = None,
    also: str | None = None,
) -> Any:
    """Declare a field of a group.

    `name` is the variable. Without the prefix OPSJOBS_ it is a name of the platform, and is read
    with and without the prefix. `default` is text, validated like the variable itself; if it is
    None, the field is `unset` as long as the variable is not set. A `secret` is shown as ***, and
    can also be read from the file that NAME_FILE names. `also` is an older name of the platform.
    """
    start: Any = unset if default is None else default
    return Field(
        default=start,
        validate_default=default is not None,
        description=description,
        json_schema_extra={
            "variable": name,
            "default": default,
            "secret": secret,
            "also": also,
        },
    )


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting as it was declared."""

    path: tuple[str, ...]
    """The path of its field, such as ("worker", "zone")."""
    name: str
    default: str | None
    description: str
    secret: bool
    also: str | None = None
    """An older name of the platform."""

    @property
    def names(self) -> tuple[str, ...]:
        """The accepted names, in order of precedence."""
        if self.name.startswith(PREFIX):
            return (self.name,)
        older = (self.also,) if self.also is not None else ()
        return (PREFIX + self.name, self.name, *older)

    @property
    def alias(self) -> str | None:
        """The other accepted name, if there is one."""
        return None if self.name.startswith(PREFIX) else PREFIX + self.name


def variables(group: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Variable]:
    """Return the variables of a group and of the groups in it, in the order of declaration.

    A field that `setting` did not declare is no variable: it is set in code.
    """
    for name, field in group.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, SettingsGroup):
            yield from variables(kind, (*path, name))
        elif field.json_schema_extra is not None:
            yield _variable((*path, name), field)


def _variable(path: tuple[str, ...], field: FieldInfo) -> Variable:
    declared: Any = field.json_schema_extra
    return Variable(
        path,
        declared["variable"],
        declared["default"],
        field.description or "",
        declared["secret"],
        declared["also"],
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """The value of one variable in the environment."""

    variable: Variable
    text: str | None = None
    """The value as written; None if the variable is not set."""
    name: str = ""
    """The spelling that was found."""
    origin: str = "default"
    """One of "default", "environment" or the path of the file."""

    @property
    def shown(self) -> str:
        """The value for display: a secret as ***, a URL without its password."""
        text = self.variable.default if self.text is None else self.text
        if text is None:
            return ""
        return redact(text) if self.variable.secret else text

    def describe_fault(self, write: str) -> str:
        """Return the message for an invalid value."""
        shown = self.shown if self.variable.secret else repr(self.text)
        file = "" if self.origin == "environment" else f" (from {self.origin})"
        return f"{self.name} is {shown}{file}: {write}."


def read(environ: Mapping[str, str], variable: Variable) -> Reading:
    """Read one variable. An empty one is not set.

    Raises ValueError if the variable and its file are both set, or if the file cannot be read.
    """
    for name in variable.names:
        text, origin = environ.get(name, "").strip(), "environment"
        if variable.secret and (path := environ.get(f"{name}_FILE", "").strip()):
            if text:
                raise ValueError(f"{name} and {name}_FILE are both set: keep only one of them.")
            text, origin = _read_file(name, path), path
        if text:
            return Reading(variable, text, name, origin)
    return Reading(variable)


def _read_file(name: str, path: str) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"{name}_FILE is {path!r}, which cannot be read ({error.strerror}): "
            "write the path of a readable file."
        ) from None
    if len(content) > SECRET_FILE_BYTES_MAX or b"\x00" in content:
        raise ValueError(
            f"{name}_FILE is {path!r}, which is not a text of at most "
            f"{describe_size(SECRET_FILE_BYTES_MAX)}."
        )
    return content.decode(errors="replace").strip()


def redact(text: str) -> str:
    """Return a secret as ***; a URL keeps everything but its password."""
    if "://" not in text:
        return "***"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "***"
    user, at, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}:***" if ":" in user else user
    query = re.sub(r"(?i)(password=)[^&]*", r"\1***", parts.query)
    return parts._replace(netloc=f"{shown}{at}{host}", query=query).geturl()
