"""Every response that an API test gets is checked against the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx2
import jsonschema_rs
from fastapi import FastAPI

from opsjobs.api.paths import PREFIX

JSON = re.compile(r"application/(json|problem\+json)\b")


class Description:
    """The OpenAPI document of an application; its schemas are compiled when they are needed."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._validators: dict[tuple[str, ...], Any] = {}

    async def check(self, answer: httpx2.Response) -> None:
        """Raise AssertionError if the response does not match the document.

        Status, media type and body are checked.
        """
        request = answer.request
        template = self._template(request.url.path, request.method.lower())
        if template is None or answer.status_code >= 500:
            return
        responses = self.document["paths"][template][request.method.lower()]["responses"]
        status = str(answer.status_code)
        described = status if status in responses else f"{status[0]}XX"
        what = f"{request.method} {template}: {status}"
        assert described in responses, f"{what} is not described"
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        content = responses[described].get("content", {})
        if not media_type and not content:
            return
        assert media_type in content, f"{what}: {media_type or 'no content'} is not described"
        if JSON.fullmatch(media_type):
            await answer.aread()
            wrong = next(
                self._validator(
                    template, request.method.lower(), described, media_type
                ).iter_errors(answer.json()),
                None,
            )
            assert wrong is None, f"{what}: the body is not as described: {wrong}"

    @cached_property
    def document(self) -> Any:
        """Return the document, but with unnamed properties forbidden."""
        return _closed(self._app.openapi())

    @cached_property
    def _templates(self) -> list[tuple[re.Pattern[str], str, frozenset[str]]]:
        """Return the sort key of a path; fixed paths first:

        `export` in /jobs/export is no job's id.
        """
        paths = sorted(self.document["paths"].items(), key=lambda item: "{" in item[0])
        return [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path, frozenset(operations))
            for path, operations in paths
        ]

    def _template(self, path: str, method: str) -> str | None:
        path = path.removeprefix(PREFIX)
        found = (
            template
            for pattern, template, methods in self._templates
            if method in methods and pattern.fullmatch(path)
        )
        return next(found, None)

    def _validator(self, *at: str) -> Any:
        if at not in self._validators:
            template, method, status, media_type = at
            schema = self.document["paths"][template][method]["responses"][status]["content"][
                media_type
            ]["schema"]
            whole = {**schema, "components": self.document["components"]}
            self._validators[at] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self._validators[at]


def _closed(value: Any) -> Any:
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _closed(item) for key, item in value.items()}
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found
