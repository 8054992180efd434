"""Requests generated from the API's own description, valid and invalid, from three callers.

The callers are two users, and one without a token. Each response must satisfy: it is no 5xx; its
status, headers and body are as described; a request that the description calls invalid is not
accepted; a refusal is a problem document; a caller without the permission is refused before the
body is checked; a caller without a token learns so, and nothing else.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
# An open stream ends when its viewer leaves: tests/api reads it.
STREAMS = frozenset({"/executions/{id}/events", "/events"})
# Requests that delete the users of the fuzz test itself.
SUICIDES = frozenset({("POST", "/auth/logout")})
REQUEST_SECONDS = 30
CANARY = "canary-of-the-fuzz"
EXCERPT_CHARACTERS = 300
# In addition to the usual ones: the order of refusals is 401, 413 and 415, 404 and 403, 412 and
# 428, 422.
REFUSALS = (
    "400",
    "401",
    "403",
    "404",
    "405",
    "406",
    "409",
    "410",
    "412",
    "413",
    "415",
    "422",
    "424",
    "428",
    "429",
)
# The described parts of responses: status, media type, headers and bodies.
AS_DESCRIBED = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CONFIG = {"checks": {"negative_data_rejection": {"expected-statuses": list(REFUSALS)}}}


@dataclass
class Fuzz:
    """The tested service. `admin`, `viewer`: their tokens.

    `known`: an existing id, by the beginning of a path.
    """

    url: str
    admin: str
    viewer: str
    known: Mapping[str, str]
    examples: int
    chance: int
    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._schema = schemathesis.openapi.from_dict(
            self._description(), config=schemathesis.Config.from_dict(CONFIG)
        )
        self._schema.config.update(base_url=self.url)
        self._http = requests.Session()
        self._dice = random.Random(self.chance)

    def _description(self) -> dict[str, Any]:
        answer = httpx2.get(
            f"{self.url}/openapi.json", headers=self._headers(self.admin), timeout=REQUEST_SECONDS
        )
        description: dict[str, Any] = answer.json()
        # The test chooses the caller: with tokens, the library would leave some out.
        description["components"].pop("securitySchemes", None)
        description.pop("security", None)
        self._open = set()
        for path, operations in description["paths"].items():
            self._open |= {
                (path, method)
                for method, operation in operations.items()
                if operation.pop("security", None) == []
            }
        return description

    def operations(self) -> Iterator[Any]:
        """Return the operations to request."""
        for found in self._schema.get_all_operations():
            operation = found.ok()
            if (
                operation.path not in STREAMS
                and (operation.method.upper(), operation.path) not in SUICIDES
            ):
                yield operation

    def play(self, modes: Sequence[GenerationMode] = MODES) -> None:
        """Send requests to all operations, `examples` times a mode."""
        for operation in self.operations():
            for mode in modes:
                self._ask(operation, mode)

    def _ask(self, operation: Any, mode: GenerationMode) -> None:
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
            return  # an id is any text, and so are the headers: nothing can be invalid
        strategy = operation.as_strategy(generation_mode=mode)

        @seed(self.chance)
        @settings(
            max_examples=self.examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def ask(case: Any) -> None:
            self._one(case, mode)

        with suppress(Unsatisfiable):  # nor here: all parameters are texts
            ask()

    def _one(self, case: Any, mode: GenerationMode) -> None:
        self.cases += 1
        self._aim(case)
        for token, judge in (
            (self.viewer, self._judge_viewer),
            (None, self._judge_nobody),
            (self.admin, self._judge),
        ):
            answer = case.call(
                session=self._http, headers=self._headers(token), timeout=REQUEST_SECONDS
            )
            self.statuses[answer.status_code] += 1
            if answer.status_code >= 500:
                self._complain(case, answer, "a server error")
            elif answer.status_code >= 400 and "application/problem+json" not in answer.headers.get(
                "content-type", ""
            ):
                self._complain(case, answer, "a refusal that is no problem document")
            if CANARY in answer.text:
                self._complain(case, answer, "a secret is told")
            self._judge_description(case, answer)
            judge(case, answer, mode)

    def _aim(self, case: Any) -> None:
        """Half of the time, request an existing object."""
        beginning = "/" + case.operation.path.split("/")[1]
        if "id" in case.path_parameters and beginning in self.known and self._dice.random() < 0.5:
            case.path_parameters["id"] = self.known[beginning]

    def _judge_description(self, case: Any, answer: Any) -> None:
        try:
            case.validate_response(answer, checks=AS_DESCRIBED)
        except (Failure, FailureGroup) as failure:
            self._complain(case, answer, f"not as described: {_reason(failure)}")

    def _judge(self, case: Any, answer: Any, mode: GenerationMode) -> None:
        if mode is not GenerationMode.NEGATIVE or (
            "id" in case.path_parameters and answer.status_code == 404
        ):
            return
        try:
            case.validate_response(answer, checks=[negative_data_rejection])
        except (Failure, FailureGroup) as failure:
            # In a URL everything is text: a list of texts cannot be of another type, whatever the
            # library makes of it.
            if not _TEXTS.search(reason := _reason(failure)):
                self._complain(case, answer, f"taken, though: {reason}")

    def _judge_viewer(self, case: Any, answer: Any, mode: GenerationMode) -> None:
        permission = case.operation.definition.raw.get("x-permission")
        if (
            permission is not None
            and permission not in VIEWER
            and answer.status_code not in (403, 404, 405, 413, 415)
        ):
            self._complain(case, answer, f"a viewer does not hold {permission}")

    def _judge_nobody(self, case: Any, answer: Any, mode: GenerationMode) -> None:
        if (
            case.operation.path,
            case.operation.method.lower(),
        ) not in self._open and answer.status_code != 401:
            self._complain(case, answer, "no token was shown")

    def _complain(self, case: Any, answer: Any, why: str) -> None:
        told = f"{case.method} {case.formatted_path} {answer.status_code} {why}"
        self.wrong.append(
            f"{told}\n  {answer.text[:EXCERPT_CHARACTERS]}\n  {case.as_curl_command()[:EXCERPT_CHARACTERS]}"
        )

    @staticmethod
    def _headers(token: str | None) -> dict[str, str]:
        return {} if token is None else {"Authorization": f"Bearer {token}"}


_TEXTS = re.compile("in query - violates .anyOf")
VIEWER = frozenset(
    {
        "any token",
        "jobs:read",
        "executions:read",
        "schedules:read",
        "triggers:read",
        "targets:read",
        "system:read",
    }
)


def _reason(failure: Failure | FailureGroup) -> str:
    first = failure.exceptions[0] if isinstance(failure, FailureGroup) else failure
    return " ".join(str(first).split())[:EXCERPT_CHARACTERS]


def furnished(http: httpx2.Client) -> dict[str, str]:
    """Create one of each noun, so that requests find something; return ids by path."""
    found: dict[str, str] = {}

    def make(
        path: str,
        body: Mapping[str, Any],
        at: str | None = None,
        read: Callable[[Any], str] = lambda made: made["id"],
    ) -> None:
        answer = http.post(path, json=body)
        assert answer.status_code in (201, 202), answer.text
        found[at or path] = str(read(answer.json()))

    make("/credentials", {"name": "key", "type": "password", "username": "ada", "password": CANARY})
    make("/target-groups", {"name": "web"})
    make(
        "/targets",
        {
            "name": "web-1",
            "host": "192.0.2.1",
            "credential": "key",
            "groups": ["web"],
            "labels": {"env": "test"},
        },
    )
    make(
        "/calendars",
        {
            "name": "nights",
            "kind": "blackout",
            "timezone": "UTC",
            "windows": [{"from": "2026-12-24T18:00", "until": "2026-12-27T06:00"}],
        },
    )
    action = {"type": "command", "command": "uptime"}
    make("/jobs", {"name": "look", "actions": [action], "targets": {"ids": ["web-1"]}})
    make(
        f"/jobs/{found['/jobs']}/schedules",
        {"name": "nightly", "type": "cron", "cron": "30 2 * * *", "timezone": "UTC"},
        "/schedules",
    )
    make(f"/jobs/{found['/jobs']}/execute", {}, "/executions")
    make("/api-keys", {"name": "victim", "role": "viewer"})
    answer = http.post(
        "/files", content=b"bytes", headers={"Content-Type": "application/octet-stream"}
    )
    found["/files"] = str(answer.json()["id"])
    return found
