"""Profiles: paths, bodies and field names of one generation of the platform's services.

A profile is a YAML file. Three are built in; a user's own file has the same form. What is left out
is not offered by that generation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from opsjobs.model.api_model import ApiModel
from opsjobs.model.units import describe_size
from opsjobs.model.validation_errors import plain_words

BUILT_IN = ("opsconductor-v3", "opsconductor-ms", "opsconductor-ng")
FILE_BYTES_MAX = 64 << 10
BODY_DEPTH_MAX = 8
PAGE_MAX = 1_000

NOTIFICATION_VALUES = frozenset(
    {
        "user_id",
        "recipient",
        "channel_id",
        "type",
        "title",
        "message",
        "priority",
        "data",
        "correlation_id",
        "timestamp",
    }
)
"""The values that the body of a notification may use."""
AUDIT_VALUES = frozenset(
    {
        "event_id",
        "event_type",
        "category",
        "severity",
        "event_name",
        "user_id",
        "resource_type",
        "resource_id",
        "action",
        "details",
        "success",
        "timestamp",
        "service",
        "correlation_id",
    }
)
"""The values that the body of an audit event may use."""

_PLACEHOLDER = re.compile(r"\{(?P<name>[a-z_]+)(:(?P<form>upper|lower))?\}")
_PATH = re.compile(r"/[A-Za-z0-9_./~{}-]*")
_FIELD_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class ProfileError(ValueError):
    """A profile that cannot be used; names the file, the place in it and the correction."""


def _path(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise ValueError("write a path that begins with /, such as /api/v1/targets/{id}")
    return text


def _path_of_one(text: str) -> str:
    if _path(text).count("{id}") != 1 or text.count("{") != 1:
        raise ValueError("write a path with {id} in it once, such as /api/v1/targets/{id}")
    return text


def _fixed_path(text: str) -> str:
    if "{" in _path(text):
        raise ValueError("this path has no placeholder: write it without braces")
    return text


def _field_path(text: str) -> str:
    if text and not _FIELD_PATH.fullmatch(text):
        raise ValueError("write the name of a field, with dots for fields inside of others")
    return text


def _as_list(given: object) -> object:
    return [given] if isinstance(given, str) else given


FixedPath = Annotated[str, Field(max_length=200), AfterValidator(_fixed_path)]
PathOfOne = Annotated[str, Field(max_length=200), AfterValidator(_path_of_one)]
FieldPath = Annotated[str, Field(max_length=200), AfterValidator(_field_path)]
"""The place of a value in an answer: `data.items`; empty: the whole answer."""
FieldPaths = Annotated[list[FieldPath], BeforeValidator(_as_list), Field(max_length=10)]
"""Places of which the first that has a value counts."""
Statuses = Annotated[
    list[Annotated[int, Field(ge=200, le=299)]], Field(min_length=1, max_length=10)
]


class ObjectCall(ApiModel):
    """A GET of one object by its id; `data` are the possible places of it in the answer."""

    path: PathOfOne
    data: FieldPaths = Field(default_factory=lambda: [""])

    def url(self, id: str) -> str:
        """Return the path for this id."""
        return self.path.replace("{id}", quote(id, safe=""))


class ListCall(ApiModel):
    """A GET of pages; `items` are the possible places of the list in the answer."""

    path: FixedPath
    items: FieldPaths = Field(default_factory=lambda: [""])
    skip: str = Field(default="skip", max_length=64)
    limit: str = Field(default="limit", max_length=64)
    page: int = Field(default=PAGE_MAX, ge=1, le=PAGE_MAX)


class BatchCall(ApiModel):
    """A POST that takes many ids; a service that answers 404 or 405 is asked for each one."""

    path: FixedPath
    ids: str = Field(min_length=1, max_length=64)
    items: FieldPaths = Field(default_factory=lambda: [""])
    size: int = Field(default=PAGE_MAX, ge=1, le=PAGE_MAX)


class TargetFields(ApiModel):
    """The places of the fields of a target in an answer."""

    id: FieldPaths = Field(default_factory=lambda: ["id"])
    name: FieldPaths = Field(default_factory=lambda: ["name"])
    host: FieldPaths = Field(default_factory=list)
    port: FieldPaths = Field(default_factory=list)
    transport: FieldPaths = Field(default_factory=list)
    platform: FieldPaths = Field(default_factory=list)
    tags: FieldPaths = Field(default_factory=list)
    """A list of texts: `key=value` and `key:value` are labels, others are groups."""
    labels: FieldPaths = Field(default_factory=list)
    """An object whose texts, numbers and booleans are labels."""
    active: FieldPaths = Field(default_factory=list)
    """false or an `inactive`, `disabled` or `deleted` status: the target is not used."""


class TargetCalls(ApiModel):
    """The Target Service."""

    get: ObjectCall
    list: ListCall
    batch: BatchCall | None = None
    credentials: ObjectCall | None = None
    methods: FieldPath | None = None
    """A list of connection methods; it takes precedence over flat host and port."""
    fields: TargetFields = Field(default_factory=TargetFields)


class UserFields(ApiModel):
    """The places of the fields of a user in an answer."""

    id: FieldPaths = Field(default_factory=lambda: ["id", "user_id"])
    active: FieldPaths = Field(default_factory=lambda: ["is_active", "active", "status"])
    roles: FieldPaths = Field(default_factory=lambda: ["roles", "role"])
    permissions: FieldPaths = Field(default_factory=lambda: ["permissions"])


class UserCalls(ApiModel):
    """The User Service."""

    get: ObjectCall
    fields: UserFields = Field(default_factory=UserFields)


class AuthCalls(ApiModel):
    """The Auth Service: a POST with the token in the field `token`."""

    path: FixedPath
    token: str = Field(default="token", min_length=1, max_length=64)


def _check_depth(body: object, depth: int = 0) -> None:
    if depth > BODY_DEPTH_MAX:
        raise ValueError(f"it is nested more than {BODY_DEPTH_MAX} deep")
    for part in _parts(body):
        _check_depth(part, depth + 1)


def _parts(body: object) -> Iterable[object]:
    if isinstance(body, dict):
        return body.values()
    return body if isinstance(body, list) else ()


def _uses(names: frozenset[str]) -> AfterValidator:
    """Check that a body uses these values only."""

    def check(body: dict[str, Any]) -> dict[str, Any]:
        _check_depth(body)
        for text in _texts(body):
            for found in _PLACEHOLDER.finditer(text):
                if found["name"] not in names:
                    known = ", ".join(sorted(names))
                    raise ValueError(
                        f"there is no value {{{found['name']}}} here: use one of {known}"
                    )
        return body

    return AfterValidator(check)


class NotificationCall(ApiModel):
    """A POST of one notification."""

    path: FixedPath
    accept: Statuses = Field(default_factory=lambda: [200, 201, 202])
    body: Annotated[dict[str, Any], _uses(NOTIFICATION_VALUES)]


class AuditCall(ApiModel):
    """A POST of one audit event."""

    path: FixedPath
    accept: Statuses = Field(default_factory=lambda: [200, 201, 202])
    body: Annotated[dict[str, Any], _uses(AUDIT_VALUES)]


HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")]


class HeaderNames(ApiModel):
    """The names of the headers that differ between generations."""

    correlation: HeaderName = "X-Correlation-ID"
    api_key: HeaderName = "X-API-Key"


class Profile(ApiModel):
    """The services of one generation; a service without a section is not offered by it."""

    name: str = Field(min_length=1, max_length=200)
    headers: HeaderNames = Field(default_factory=HeaderNames)
    targets: TargetCalls | None = None
    users: UserCalls | None = None
    auth: AuthCalls | None = None
    notifications: NotificationCall | None = None
    audit: AuditCall | None = None


def load_profile(name: str) -> Profile:
    """Return the built-in profile of this name, or the one in the file at this path.

    Raises ProfileError.
    """
    if name in BUILT_IN:
        return _built_in(name)
    try:
        with Path(name).open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as away:
        reason = getattr(away, "strerror", None) or str(away)
        raise ProfileError(
            f"the profile {name} cannot be read ({reason}): write {', '.join(BUILT_IN)}, or the "
            "path of a profile file"
        ) from None
    if len(content) > FILE_BYTES_MAX:
        limit = describe_size(FILE_BYTES_MAX)
        raise ProfileError(f"the profile {name} has more than {limit}: shorten it")
    return parse_profile(content.decode(errors="replace"), name)


@cache
def _built_in(name: str) -> Profile:
    text = files("opsjobs.integrations.services").joinpath("profiles", f"{name}.yaml").read_text()
    return parse_profile(text, name)


def parse_profile(text: str, name: str) -> Profile:
    """Parse a profile; `name` names it in messages. Raises ProfileError."""
    try:
        body: Any = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as wrong:
        problem = " ".join(str(wrong).split())[:300]
        raise ProfileError(f"the profile {name} is not valid YAML: {problem}") from None
    try:
        return Profile.model_validate({} if body is None else body)
    except ValidationError as wrong:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'its top'}: {plain_words(fault)}"
            for fault in wrong.errors(include_url=False)[:5]
        ]
        raise ProfileError(f"the profile {name} is wrong at {'; at '.join(faults)}") from None


def fill(body: Any, values: Mapping[str, Any]) -> Any:
    """Return a body with its placeholders replaced.

    A text that is one placeholder becomes the value itself, whatever its type; a value that is
    missing is null there, and empty inside of a longer text.
    """
    if isinstance(body, dict):
        return {key: fill(part, values) for key, part in body.items()}
    if isinstance(body, list):
        return [fill(part, values) for part in body]
    if not isinstance(body, str):
        return body
    if (whole := _PLACEHOLDER.fullmatch(body)) is not None:
        return _in_case(values.get(whole["name"]), whole["form"])
    return _PLACEHOLDER.sub(
        lambda found: _plain(_in_case(values.get(found["name"]), found["form"])), body
    )


def _in_case(value: Any, form: str | None) -> Any:
    if not isinstance(value, str) or form is None:
        return value
    return value.upper() if form == "upper" else value.lower()


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _texts(body: Any) -> Sequence[str]:
    found = [body] if isinstance(body, str) else []
    return [*found, *(text for part in _parts(body) for text in _texts(part))]


def find_field(answer: Any, path: str) -> Any:
    """Return the value at a place of an answer; None if there is none."""
    for step in path.split(".") if path else ():
        answer = answer.get(step) if isinstance(answer, dict) else None
    return answer


def first_field(answer: Any, paths: Sequence[str]) -> Any:
    """Return the first value that is there at one of these places; None if there is none."""
    for path in paths:
        if (value := find_field(answer, path)) is not None:
            return value
    return None
