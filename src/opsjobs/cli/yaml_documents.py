"""Files of jobs and schedules: YAML 1.2 documents (JSON is YAML, too), read safely and within limits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import LiteralScalarString

from opsjobs.cli.exit_codes import CommandFailed, ExitCode

BYTES_MAX = 1 << 20
DEPTH_MAX = 32
VALUES_MAX = 100_000
"""Of one file, with every alias written out: what refers to itself over and over is no job."""


def bodies(files: list[str], noun: str = "job", fields: str = "name, actions and targets") -> list[dict[str, Any]]:
    """The bodies in these files ("-": standard input), in order. Raises CommandFailed naming file and place.

    A document is one body, a list of bodies, or an export: `{"jobs": […]}`.
    """
    return [body for _, body in placed_bodies(files, noun, fields)]


def placed_bodies(
    files: list[str], noun: str = "job", fields: str = "name, actions and targets"
) -> list[tuple[str, dict[str, Any]]]:
    """Return the bodies with their places, such as `jobs.yaml, document 2`. Raises CommandFailed as `bodies` does."""
    return [found for file in files for found in _bodies_of(file, noun, fields)]


def one(file: str, noun: str) -> dict[str, Any]:
    """The one body in this file. Raises CommandFailed where there is none, or more than one."""
    found = list(_of_file(file))
    if len(found) != 1 or not isinstance(found[0], dict):
        raise CommandFailed(
            f"{file} is no {noun}: write one YAML document, the fields of the body with their values.", ExitCode.USAGE
        )
    return found[0]


def readable(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body as people read it: its name first, and texts of several lines as literal blocks."""
    order: dict[str, Any] = {name: body[name] for name in ("name", "description") if name in body}
    order.update(body)
    return {name: literal(value) for name, value in order.items()}


def literal(value: Any) -> Any:
    """Return the value with texts of several lines as YAML's literal blocks."""
    if isinstance(value, dict):
        return {str(name): literal(one) for name, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value and "\r" not in value else value


def write(values: list[dict[str, Any]], comments: Sequence[str] = ()) -> None:
    """Write a stream of YAML documents to stdout, each with its comment, if there is one, above its first line."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1_000  # a long command stays one line
    for position, value in enumerate(values):
        comment = comments[position] if position < len(comments) else ""
        sys.stdout.write("---\n" + "".join(f"# {line}\n" for line in comment.splitlines()))
        yaml.dump(readable(value), sys.stdout)


def _bodies_of(file: str, noun: str, fields: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, document in enumerate(_of_file(file), start=1):
        value = document[f"{noun}s"] if isinstance(document, dict) and set(document) == {f"{noun}s"} else document
        several = value if isinstance(value, list) else [value]
        for position, body in enumerate(several, start=1):
            if not isinstance(body, dict):
                raise CommandFailed(f"document {number} of {file} is no {noun}: write {fields}.", ExitCode.USAGE)
            place = f"{'standard input' if file == '-' else file}, document {number}"
            yield (f"{place}, {noun} {position}" if len(several) > 1 else place), body


def _of_file(file: str) -> Iterator[Any]:
    """The documents of a file that are not empty."""
    text, counted = _text(file), _Counted(file)
    try:
        documents = list(YAML(typ="safe", pure=True).load_all(text))
    except MarkedYAMLError as wrong:
        mark = wrong.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise CommandFailed(f"{file} is not YAML{where}: {wrong.problem or wrong.context}.", ExitCode.USAGE) from None
    except (YAMLError, ValueError, RecursionError) as wrong:
        raise CommandFailed(f"{file} is not YAML: {str(wrong).splitlines()[0][:200]}.", ExitCode.USAGE) from None
    return (counted.plain(document, 0) for document in documents if document is not None)


def _text(file: str) -> str:
    try:
        raw = sys.stdin.buffer.read(BYTES_MAX + 1) if file == "-" else Path(file).read_bytes()[: BYTES_MAX + 1]
    except OSError as wrong:
        raise CommandFailed(f"{file} cannot be read: {wrong.strerror}.", ExitCode.USAGE) from None
    if len(raw) > BYTES_MAX:
        raise CommandFailed(f"{file} has more than {BYTES_MAX} bytes: split it.", ExitCode.USAGE)
    try:
        return raw.decode()
    except UnicodeDecodeError as wrong:
        raise CommandFailed(f"{file} is not UTF-8 (byte {wrong.start}).", ExitCode.USAGE) from None


class _Counted:
    """YAML's values as JSON's, of which there are only so many and only so deep."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._left = VALUES_MAX

    def plain(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > DEPTH_MAX:
            limit = f"{DEPTH_MAX} deep" if depth > DEPTH_MAX else f"{VALUES_MAX} values, aliases written out"
            raise CommandFailed(f"{self._file} holds more than {limit}.", ExitCode.USAGE)
        match value:
            case dict():
                return {self._key(key): self.plain(one, depth + 1) for key, one in value.items()}
            case list():
                return [self.plain(one, depth + 1) for one in value]
            case date():  # and datetime: JSON knows texts only
                return value.isoformat()
            case None | bool() | int() | float() | str():
                return value
        raise CommandFailed(f"{self._file} holds a {type(value).__name__}, which JSON does not know.", ExitCode.USAGE)

    def _key(self, key: Any) -> str:
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise CommandFailed(f"{self._file} has the key {key!r}: keys are texts.", ExitCode.USAGE)
        return str(key)
