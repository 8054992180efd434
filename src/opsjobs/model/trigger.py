"""Triggers: URLs that launch a job, and the conditions and parameters of their calls.

A call is taken only if it proves that it was sent by a holder of the trigger's secret."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Moment
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.naming import Name
from opsjobs.model.parameter import (
    PARAMETERS_MAX,
    ParameterDraft,
    ParameterName,
    Scalar,
    bound,
    text_of,
)
from opsjobs.model.parameter_value import ValueRefused
from opsjobs.model.pattern import MatchBudget, TooMuchWork, pattern
from opsjobs.model.secret import Secret
from opsjobs.model.units import format_duration
from opsjobs.model.validation_errors import fault

CONDITIONS_MAX = 20
CALLS_PER_MINUTE_MAX = 6_000
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")

Pointer = Annotated[str, Field(max_length=500, pattern=text_patterns.JSON_POINTER)]
"""A JSON Pointer (RFC 6901) into the body of a call; "" is the whole body."""
Header = Annotated[str, Field(max_length=100, pattern=text_patterns.HEADER_NAME)]


class CallVerification(StrEnum):
    """The way in which a call proves that its sender knows the trigger's secret."""

    GITHUB = "github"
    """HMAC-SHA256 of the body, in X-Hub-Signature-256."""
    STANDARD_WEBHOOKS = "standard_webhooks"
    """The form of standardwebhooks.com: id, time and body are signed."""
    GITLAB = "gitlab"
    """The secret itself, in X-Gitlab-Token."""
    BEARER = "bearer"
    """The secret itself, in `Authorization: Bearer …`."""


class CallOutcome(StrEnum):
    """The outcome of a call."""

    LAUNCHED = "launched"
    REPEATED = "repeated"
    """The delivery was launched before: it got the same answer."""
    IGNORED = "ignored"
    """A condition of the trigger is not met."""
    PING = "ping"
    """GitHub's test of a new webhook."""
    REFUSED = "refused"


class _Absent:
    """The value of a pointer or header that a call does not have."""


ABSENT = _Absent()


class _FromCall(ApiModel):
    """A place in a call: a pointer into its body, or the name of a header."""

    pointer: Pointer | None = None
    header: Header | None = None

    def find(self, body: object, headers: Mapping[str, str]) -> object:
        """Return the value at this place; ABSENT if there is none."""
        if self.pointer is not None:
            return resolve(body, self.pointer)
        assert self.header is not None
        return headers.get(self.header.lower(), ABSENT)

    @property
    def place(self) -> str:
        """The place in words, for messages."""
        if self.header is not None:
            return f"the header {self.header}"
        return self.pointer or "the body"


class ParameterSource(_FromCall):
    """The source of a parameter's value: the body, a header, or a constant (`value`)."""

    value: Scalar | list[Scalar] | None = None

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if sum(one is not None for one in (self.pointer, self.header, self.value)) != 1:
            words = "it takes exactly one of pointer, header and value"
            raise fault("parameter_source", words)
        return self

    def read(self, body: object, headers: Mapping[str, str]) -> object:
        """Return the value; None if the call has none, so that the default applies."""
        if self.value is not None:
            return self.value
        found = self.find(body, headers)
        return None if found is ABSENT else found


class TriggerCondition(_FromCall):
    """A condition on a call.

    `equals`: the value is this one. `any_of`: it is one of these. `matches`: it is a text that the
    pattern matches as a whole. `exists`: it is there, or (false) it is not.
    """

    equals: Scalar | None = None
    any_of: Annotated[list[Scalar], Field(min_length=1, max_length=100)] | None = None
    matches: str | None = Field(default=None, min_length=1, max_length=1_000)
    exists: bool | None = None

    @field_validator("matches")
    @classmethod
    def _compiles(cls, text: str | None) -> str | None:
        if text is not None:
            pattern(text)
        return text

    @model_validator(mode="after")
    def _check_one_test(self) -> Self:
        if (self.pointer is None) == (self.header is None):
            raise fault("condition", "it takes either pointer or header")
        tests = (self.equals, self.any_of, self.matches, self.exists)
        if sum(test is not None for test in tests) != 1:
            raise fault("condition", "it takes exactly one of equals, any_of, matches and exists")
        return self

    def is_met(self, body: object, headers: Mapping[str, str], work: MatchBudget) -> bool:
        """Return True if the call meets the condition. Raises Invalid for a costly pattern."""
        found = self.find(body, headers)
        if self.exists is not None:
            return self.exists == (found is not ABSENT)
        if self.matches is not None:
            return isinstance(found, str) and self._fits(self.matches, found, work)
        wanted = self.any_of if self.any_of is not None else [self.equals]
        # A header is a text, whatever it is compared with.
        return any(
            found == (text_of(one) if self.header is not None else one)
            and isinstance(found, bool) == (isinstance(one, bool) and self.header is None)
            for one in wanted
        )

    def _fits(self, text: str, found: str, work: MatchBudget) -> bool:
        try:
            return pattern(text).fits(found, work)
        except TooMuchWork as costly:
            raise Invalid("pattern", f"The condition on {self.place}: {costly}.") from None

    @property
    def words(self) -> str:
        """The condition in words, without any value of the call."""
        if self.exists is not None:
            return f"{self.place} {'exists' if self.exists else 'does not exist'}"
        if self.matches is not None:
            return f"{self.place} matches {self.matches}"
        if self.any_of is not None:
            return f"{self.place} is one of {', '.join(text_of(one) for one in self.any_of)}"
        return f"{self.place} is {text_of(self.equals)}"


class JobTriggerDraft(ApiModel):
    """Body of POST /jobs/{id}/triggers.

    `verify`: the form in which calls prove that they know the secret. `parameters`: the sources of
    the job's parameters, by name. `when`: conditions that a call has to meet, all of them; any
    other call is answered with 200 and launches nothing. Beyond `max_calls_per_minute`, calls are
    refused; those that launch nothing and are not refused do not count. From `expires_at` on, or
    unless `enabled`, the URL does not exist for callers.
    """

    name: Name
    description: str = Field(default="", max_length=2_000)
    verify: CallVerification = CallVerification.BEARER
    parameters: dict[ParameterName, ParameterSource] = Field(
        default_factory=dict, max_length=PARAMETERS_MAX
    )
    when: list[TriggerCondition] = Field(default_factory=list, max_length=CONDITIONS_MAX)
    max_calls_per_minute: int = Field(default=60, ge=1, le=CALLS_PER_MINUTE_MAX)
    expires_at: Moment | None = None
    enabled: bool = True

    def find_unmet(self, body: object, headers: Mapping[str, str]) -> TriggerCondition | None:
        """Return the first condition that the call does not meet; None if it meets all."""
        work = MatchBudget()
        return next((one for one in self.when if not one.is_met(body, headers, work)), None)

    def to_parameters(self, body: object, headers: Mapping[str, str]) -> dict[str, object]:
        """Return the parameters of an execution, as a caller of the API would give them."""
        found = {name: source.read(body, headers) for name, source in self.parameters.items()}
        return {name: value for name, value in found.items() if value is not None}


def resolve(body: object, pointer: str) -> object:
    """Return the value that a JSON Pointer refers to; ABSENT if there is none.

    >>> resolve({"commits": [{"id": "9fce"}], "a/b": 1}, "/commits/0/id")
    '9fce'
    >>> resolve({"a/b": 1}, "/a~1b")
    1
    """
    at: Any = body
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(at, dict) and key in at:
            at = at[key]
        elif isinstance(at, list) and _INDEX.fullmatch(key) and int(key) < len(at):
            at = at[int(key)]
        else:
            return ABSENT
    return at


def check_sources(declared: list[ParameterDraft], draft: JobTriggerDraft) -> None:
    """Raise Invalid if the job would refuse each call, whatever its body says."""
    known = {parameter.name: parameter for parameter in declared}
    wrong = [
        _wrong(name, f"the job has no parameter {name!r}", "unknown_parameter")
        for name in draft.parameters
        if name not in known
    ]
    wrong += [
        _wrong(name, "it is required: say where its value comes from", "required")
        for name, parameter in known.items()
        if parameter.required and parameter.default is None and name not in draft.parameters
    ]
    for name, source in draft.parameters.items():
        try:
            wrong += _check_source(known[name], source) if name in known else []
        except ValueRefused as refused:
            wrong.append(_wrong(name, refused.detail, refused.code))
    if wrong:
        raise Invalid("invalid_parameters", f"{wrong[0].pointer}: {wrong[0].detail}.", errors=wrong)


def _check_source(parameter: ParameterDraft, source: ParameterSource) -> list[FieldError]:
    if parameter.from_credential is not None:
        words = f"its value comes from the credential {parameter.from_credential!r}: leave it out"
        raise ValueRefused("from_credential", words)
    if source.value is None:
        return []
    if parameter.secret:
        words = (
            "it is a secret, and a trigger stores constants unencrypted. Take it from the call, or "
            "declare it in the job with `from_credential: NAME`"
        )
        raise ValueRefused("secret_in_trigger", words)
    if parameter.choices_by is not None:  # allowed depending on a value of the call
        return []
    try:
        bound([parameter], {parameter.name: source.value})
    except Invalid as refused:
        return list(refused.errors)
    return []


def _wrong(name: str, words: str, code: str) -> FieldError:
    return FieldError(f"/parameters/{name}", words, code)


PREFIX = "whsec_"
KEY_BYTES = 32
TOLERANCE_SECONDS = 300
"""Greatest difference between a signed timestamp and the clock, in either direction."""
SIGNATURES_MAX = 10
_TIMESTAMP = re.compile(r"[0-9]{1,12}")

Headers = Mapping[str, str]
"""Headers of a call, by their names in lower case."""


def new_trigger_secret() -> Secret:
    """Return a new secret, in the form of Standard Webhooks."""
    return Secret(PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())


def find_signature_fault(
    form: CallVerification, secret: Secret, headers: Headers, body: bytes, now: float
) -> str | None:
    """Return why the call does not prove that its sender knows the secret; None if it does.

    `now`: seconds since 1970. All forms are checked, so that the time does not depend on `form`.
    """
    key = secret.reveal()
    faults = {one: check(key, headers, body, now) for one, check in _CHECKS.items()}
    return faults[form]


def delivery_of(form: CallVerification, headers: Headers) -> str | None:
    """Return the id of the delivery, which is the same each time it is sent; None without one."""
    names = (*_DELIVERY.get(form, ()), "idempotency-key")
    return next((headers[name] for name in names if headers.get(name)), None)


_DELIVERY: Mapping[CallVerification, tuple[str, ...]] = {
    CallVerification.GITHUB: ("x-github-delivery",),
    CallVerification.STANDARD_WEBHOOKS: ("webhook-id",),
    CallVerification.GITLAB: ("idempotency-key", "x-gitlab-event-uuid"),
}


def _check_github(key: str, headers: Headers, body: bytes, _now: float) -> str | None:
    expected = "sha256=" + hmac.new(key.encode(), body, "sha256").hexdigest()
    return _compare("X-Hub-Signature-256", headers, expected)


def _check_standard(key: str, headers: Headers, body: bytes, now: float) -> str | None:
    sent_at, message = headers.get("webhook-timestamp", ""), headers.get("webhook-id", "")
    signed = hmac.new(base64.b64decode(key.removeprefix(PREFIX)), digestmod="sha256")
    signed.update(f"{message}.{sent_at}.".encode())
    signed.update(body)
    expected = "v1," + base64.b64encode(signed.digest()).decode()
    given = headers.get("webhook-signature", "").split(" ")[:SIGNATURES_MAX]
    # A sum, so that each one is compared, whichever fits.
    if not sum(_is_same(expected, one) for one in given):
        return _describe_missing("webhook-signature", headers)
    if not message:
        return "it has no header webhook-id"
    if not _TIMESTAMP.fullmatch(sent_at):
        return "webhook-timestamp is not a number of seconds since 1970"
    if abs(now - int(sent_at)) > TOLERANCE_SECONDS:
        return (
            f"webhook-timestamp is more than {format_duration(TOLERANCE_SECONDS)} away from this "
            "service's clock"
        )
    return None


def _check_gitlab(key: str, headers: Headers, _body: bytes, _now: float) -> str | None:
    return _compare("X-Gitlab-Token", headers, key)


def _check_bearer(key: str, headers: Headers, _body: bytes, _now: float) -> str | None:
    return _compare("Authorization", headers, f"Bearer {key}")


_CHECKS: Mapping[CallVerification, Callable[[str, Headers, bytes, float], str | None]] = {
    CallVerification.GITHUB: _check_github,
    CallVerification.STANDARD_WEBHOOKS: _check_standard,
    CallVerification.GITLAB: _check_gitlab,
    CallVerification.BEARER: _check_bearer,
}


def _compare(name: str, headers: Headers, expected: str) -> str | None:
    given = headers.get(name.lower(), "")
    return None if _is_same(expected, given) else _describe_missing(name, headers)


def _is_same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass"))


def _describe_missing(name: str, headers: Headers) -> str:
    if name.lower() not in headers:
        return f"it has no header {name}"
    return f"{name} does not fit: the sender has another secret, or signs another body"
