"""Parameters of a job: declarations, and the validation of values for an execution."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.naming import Name, check_host
from opsjobs.model.parameter_value import ParameterType, Value, ValueRefused, fitting, size_of
from opsjobs.model.pattern import MatchBudget, TooMuchWork, pattern
from opsjobs.model.secret import JobSecret, Secret
from opsjobs.model.validation_errors import fault

PARAMETERS_MAX = 100
NAME = text_patterns.PARAMETER_NAME
_URL_CHARACTERS = re.compile(r"[\x21-\x7e]+")
Scalar = str | bool | int | float
Choices = Annotated[list[Scalar], Field(min_length=1, max_length=1_000)]

ParameterName = Annotated[str, Field(pattern=NAME)]


class ChoicesBy(ApiModel):
    """Allowed values that depend on another parameter, declared before.

    `map` holds them by the other parameter's value as text."""

    parameter: ParameterName
    map: dict[Annotated[str, Field(max_length=1_000)], Choices] = Field(
        min_length=1, max_length=1_000
    )


class ParameterDraft(ApiModel):
    """One declared parameter.

    `required`: an execution must set it, unless there is a `default`. `pattern` has to match the
    whole of a text, or of each entry of a list; `min` and `max` bound numbers, and times (as ISO
    8601); `min_length` and `max_length` the characters of a text or the entries of a list. The
    allowed values are a list (`choices`), depend on another parameter (`choices_by`), or are
    fetched from a URL when a value is given (`choices_url`: JSON, a list of values, or of objects
    with `value`). A secret parameter (`type: secret`, or a text with `secret: true`) is stored
    encrypted, shown as `***`, and never part of a command. The value of one with `from_credential`
    is read from the credential of that name (of type secret) at run time: no execution sets it."""

    name: ParameterName
    type: ParameterType = "string"
    label: str = Field(default="", max_length=200)
    description: str = Field(default="", max_length=2_000)
    required: bool = False
    default: Scalar | list[Scalar] | None = None
    secret: bool = False
    pattern: str | None = Field(default=None, min_length=1, max_length=1_000)
    min: int | float | str | None = None
    max: int | float | str | None = None
    min_length: int | None = Field(default=None, ge=0, le=32_768)
    max_length: int | None = Field(default=None, ge=0, le=32_768)
    choices: Choices | None = None
    choices_by: ChoicesBy | None = None
    choices_url: str | None = Field(default=None, max_length=2_000)
    from_credential: Name | None = None

    @field_validator("pattern")
    @classmethod
    def _check_syntax(cls, text: str | None) -> str | None:
        if text is not None:
            pattern(text)
        return text

    @field_validator("choices_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url)
        return url

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        sources = [self.choices, self.choices_by, self.choices_url]
        named = sum(source is not None for source in sources)
        if named > 1 or (named == 0 and self.type in ("choice", "multi_choice")):
            words = "allowed values come from exactly one of choices, choices_by and choices_url"
            raise fault("choices", words, "choices")
        if self.type == "secret" and not self.secret:
            object.__setattr__(self, "secret", True)
        self._check_secret()
        for field, types in _ONLY_FOR.items():
            if getattr(self, field) is not None and self.type not in types:
                raise fault(
                    "not_for_this_type",
                    f"{field} is for {', '.join(types)}, not for {self.type}",
                    field,
                )
        self._check_bounds()
        return self

    def _check_secret(self) -> None:
        if not self.secret:
            if self.from_credential is not None:
                raise fault("secret", "a credential gives secrets: say `type: secret`", "type")
            return
        self._check_from_credential()
        if self.type not in ("string", "secret"):
            raise fault("secret", f"a secret is a text, not of type {self.type}", "secret")
        if self.default is not None:
            raise fault(
                "secret", "a secret has no default: it would lie open in the job", "default"
            )
        if self.choices is not None or self.choices_by is not None or self.choices_url is not None:
            raise fault(
                "secret",
                "a secret has no list of allowed values: it would lie open in the job",
                "choices",
            )

    def _check_from_credential(self) -> None:
        """Raise a fault for a constraint that is never checked: the value is read at run time."""
        fields = ("pattern", "min_length", "max_length", *(("required",) if self.required else ()))
        for field in fields if self.from_credential is not None else ():
            if getattr(self, field) is not None:
                raise fault(
                    "from_credential",
                    f"its value comes from a credential: leave {field} out",
                    field,
                )

    def _check_bounds(self) -> None:
        for field in ("min", "max"):
            if (bound := getattr(self, field)) is not None:
                self._check_value(bound, field)
        if (self.min is not None and self.max is not None) and size_of(
            self.type, self.min
        ) > size_of(self.type, self.max):
            raise fault("range", "min is more than max", "min")
        if (
            self.min_length is not None
            and self.max_length is not None
            and self.min_length > self.max_length
        ):
            raise fault("range", "min_length is more than max_length", "min_length")
        for position, choice in enumerate(self.choices or ()):
            self._check_value(choice, "choices", position)
        if self.default is not None:
            self._check_default("default", self.default)

    def _check_value(self, value: object, *at: str | int) -> None:
        single = {"choice": "string", "multi_choice": "string"}.get(self.type, self.type)
        try:
            one = [value] if single == "host_list" else value
            fitting(single, one)  # type: ignore[arg-type]  # it is one of its types
        except ValueRefused as refused:
            raise fault(refused.code, refused.detail, *at) from None

    def _check_default(self, at: str, value: object) -> None:
        try:
            self.check(value, self.choices)
        except ValueRefused as refused:
            raise fault(refused.code, refused.detail, at) from None

    def check(
        self, given: object, offered: Sequence[Scalar] | None, work: MatchBudget | None = None
    ) -> Value:
        """Return the typed value. Raises ValueRefused.

        `offered`: the allowed values (None: any). `work`: the budget for matching patterns."""
        value = fitting(self.type, given)
        self._check_pattern(value, work or MatchBudget())
        self._check_size(value)
        if offered is None:
            return value
        return (
            [_chosen(one, offered) for one in value]
            if isinstance(value, list)
            else _chosen(value, offered)
        )

    def _check_pattern(self, value: Value, work: MatchBudget) -> None:
        if self.pattern is None:
            return
        for text in value if isinstance(value, list) else [value]:
            try:
                fits = pattern(self.pattern).fits(str(text), work)
            except TooMuchWork as costly:
                raise ValueRefused("pattern", str(costly)) from None
            if not fits:
                raise ValueRefused("pattern", f"it does not match {self.pattern}")

    def _check_size(self, value: Value) -> None:
        if isinstance(value, str | list) and self.type != "datetime":
            if self.min_length is not None and len(value) < self.min_length:
                raise ValueRefused("too_short", f"it is shorter than {self.min_length}")
            if self.max_length is not None and len(value) > self.max_length:
                raise ValueRefused("too_long", f"it is longer than {self.max_length}")
        if self.min is not None and size_of(self.type, value) < size_of(self.type, self.min):
            raise ValueRefused("out_of_range", f"it is less than {self.min}")
        if self.max is not None and size_of(self.type, value) > size_of(self.type, self.max):
            raise ValueRefused("out_of_range", f"it is more than {self.max}")


_TEXTS: tuple[ParameterType, ...] = ("string", "secret")
_LISTS: tuple[ParameterType, ...] = ("multi_choice", "host_list")
_ONLY_FOR: Mapping[str, tuple[ParameterType, ...]] = {
    "pattern": (*_TEXTS, "choice", *_LISTS),
    "min": ("integer", "number", "datetime"),
    "max": ("integer", "number", "datetime"),
    "min_length": (*_TEXTS, *_LISTS),
    "max_length": (*_TEXTS, *_LISTS),
    "choices": ("string", "integer", "number", "choice", *_LISTS),
    "choices_by": ("string", "integer", "number", "choice", *_LISTS),
    "choices_url": ("string", "integer", "number", "choice", *_LISTS),
}


def check_url(url: str, purpose: str = "choices") -> None:
    """Raise ValueError for an invalid URL of choices, or of another purpose."""
    words = f"{url[:100]!r} is not an address for {purpose}: write https://HOST/PATH"
    if not _URL_CHARACTERS.fullmatch(url):
        raise ValueError(f"{words}, without blanks, control characters and characters beyond ASCII")
    try:
        parts = urlsplit(url)
        host, port = check_host(parts.hostname or ""), parts.port
    except ValueError as wrong:
        raise ValueError(f"{words} ({wrong})") from None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or port == 0:
        raise ValueError(words)


def check_declared(parameters: Sequence[ParameterDraft]) -> None:
    """Raise a fault for duplicate names or environment variables, or an invalid `choices_by`."""
    before: dict[str, ParameterDraft] = {}
    variables: set[str] = set()
    for position, parameter in enumerate(parameters):
        if (variable := variable_of(parameter.name)) in variables:
            words = (
                f"two parameters are {variable} in the environment of a run: give them different "
                "names"
            )
            raise fault("duplicate_parameter", words, "parameters", position, "name")
        by = parameter.choices_by
        if by is not None and (by.parameter not in before or before[by.parameter].secret):
            words = (
                f"{by.parameter!r} is no parameter that is declared before {parameter.name!r} and "
                "is not secret"
            )
            raise fault(
                "unknown_parameter", words, "parameters", position, "choices_by", "parameter"
            )
        before[parameter.name] = parameter
        variables.add(variable)


def variable_of(name: str) -> str:
    """Return the parameter's variable in the environment of a run.

    >>> variable_of("web-port")
    'OPSJOBS_PARAM_WEB_PORT'"""
    return f"OPSJOBS_PARAM_{name.upper().replace('-', '_')}"


def bound(
    declared: Sequence[ParameterDraft],
    given: Mapping[str, object],
    fetched: Mapping[str, Sequence[Scalar]] | None = None,
) -> dict[str, Value | Secret | JobSecret]:
    """Return the value of every declared parameter: the given one, its default, or None.

    Secrets are `Secret` or `JobSecret`. `fetched`: the choices of those with a `choices_url`.
    Raises Invalid with a pointer to each wrong one."""
    known = {parameter.name for parameter in declared}
    wrong = [
        FieldError(_at(name), f"there is no parameter {name[:100]!r}", "unknown_parameter")
        for name in given
        if name not in known
    ]
    values: dict[str, Value | Secret | JobSecret] = {}
    work = MatchBudget()
    for parameter in declared:
        try:
            values[parameter.name] = _bound(
                parameter, given.get(parameter.name), values, fetched or {}, work
            )
        except ValueRefused as refused:
            values[parameter.name] = None
            wrong.append(FieldError(_at(parameter.name), refused.detail, refused.code))
    if wrong:
        more = f" ({len(wrong) - 1} more in errors)" if len(wrong) > 1 else ""
        raise Invalid(
            "invalid_parameters", f"{wrong[0].pointer}: {wrong[0].detail}.{more}", errors=wrong
        )
    return values


def _bound(
    parameter: ParameterDraft,
    given: object,
    before: Mapping[str, Any],
    fetched: Mapping[str, Sequence[Scalar]],
    work: MatchBudget,
) -> Value | Secret | JobSecret:
    if parameter.from_credential is not None:
        if given is not None:
            words = (
                f"its value comes from the credential {parameter.from_credential!r}: leave it out"
            )
            raise ValueRefused("from_credential", words)
        return JobSecret(parameter.from_credential)
    if given is None and (given := parameter.default) is None:
        if parameter.required:
            raise ValueRefused("required", "it is required")
        return None
    if isinstance(given, Secret | JobSecret):
        if not parameter.secret:
            raise ValueRefused("secret", "a secret is given for it, and it is not declared as one")
        if isinstance(given, JobSecret):  # passed on by the job that runs this one as a step
            return given
        given = given.reveal()
    offered: Sequence[Scalar] | None = parameter.choices or fetched.get(parameter.name)
    if (by := parameter.choices_by) is not None:
        offered = by.map.get(text_of(before[by.parameter]), [])
    value = parameter.check(given, offered, work)
    return Secret(str(value)) if parameter.secret else value


def undeclared(given: Mapping[str, object]) -> list[ParameterDraft]:
    """Return declarations for the values of an ad-hoc execution, with their types.

    Raises Invalid."""
    wrong: list[FieldError] = []
    declared: list[ParameterDraft] = []
    for name, value in given.items():
        try:
            declared.append(ParameterDraft(name=name, type=_type_of(value)))
        except ValueError:
            words = (
                "a parameter's name is letters, digits, _ and -, and does not begin with a digit"
            )
            wrong.append(FieldError(_at(name), words, "invalid"))
    if wrong:
        raise Invalid("invalid_parameters", f"{wrong[0].pointer}: {wrong[0].detail}.", errors=wrong)
    return declared


def _type_of(value: object) -> ParameterType:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case _:
            return "string"


def text_of(value: object) -> str:
    """Return a value as text for a command or a variable.

    Lists are joined with commas, objects are JSON, booleans are true and false, None is empty."""
    match value:
        case None:
            return ""
        case Secret():
            return value.reveal()
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join(text_of(one) for one in value)
        case dict():
            return json.dumps(value)
        case _:
            return str(value)


def _chosen(value: Value, offered: Sequence[Scalar]) -> Scalar:
    """Return the allowed value equal to this one, by value or, as on a command line, by text."""
    for choice in offered:
        same = choice == value and isinstance(choice, bool) == isinstance(value, bool)
        if same or (isinstance(value, str) and text_of(choice) == value):
            return choice
    raise ValueRefused("not_a_choice", f"{str(value)[:100]!r} is not among the allowed values")


def _at(name: str) -> str:
    return "/parameters/" + name.replace("~", "~0").replace("/", "~1")
