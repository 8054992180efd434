"""YAML files of jobs and schedules, read safely and within limits.

YAML 1.2, which includes JSON.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.scalarstring import LiteralScalarString

from opsjobs.cli import inputs
from opsjobs.cli.errors import CommandFailed, ExitCode

BYTES_MAX = 1 << 20
DEPTH_MAX = 32
VALUES_MAX = 100_000
"""Limit of values in a file, with all aliases expanded."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A body with its position in its file."""

    body: dict[str, Any]
    file: str
    node: Node

    def at(self, pointer: str = "") -> str:
        """Return the line of a field of the body, or of the closest one: `jobs.yaml, line 12`."""
        line: int = self.node.start_mark.line
        node = self.node
        for step in pointer.split("/")[1:]:
            found = _inside(node, step.replace("~1", "/").replace("~0", "~"))
            if found is None:
                break
            line, node = found
        return f"{inputs.name_of(self.file)}, line {line + 1}"


def bodies(
    files: list[str], noun: str = "job", fields: str = "name, actions and targets"
) -> list[dict[str, Any]]:
    """Return the bodies in these files ("-": standard input), in order.

    A document is one body, a list of bodies, or an export: `{"jobs": […]}`. Raises CommandFailed
    with file and place.
    """
    return [placed.body for placed in placed_bodies(files, noun, fields)]


def placed_bodies(
    files: list[str], noun: str = "job", fields: str = "name, actions and targets"
) -> list[Placed]:
    """Return the bodies with their places. Raises CommandFailed as `bodies` does."""
    return [found for file in files for found in _bodies_of(file, noun, fields)]


def doubles(placed: Sequence[Placed]) -> list[tuple[Placed, Placed]]:
    """Return pairs of bodies with equal names: an earlier one, and the later one."""
    first: dict[str, Placed] = {}
    found: list[tuple[Placed, Placed]] = []
    for one in placed:
        name = one.body.get("name")
        if isinstance(name, str) and first.setdefault(name, one) is not one:
            found.append((first[name], one))
    return found


def check_names(placed: Sequence[Placed], noun: str) -> None:
    """Raise CommandFailed if two bodies have one name, with the places of both."""
    lines = [
        (
            f"two {noun}s have the name {one.body['name']!r}: "
            f"{first.at('/name')} and {one.at('/name')}. Rename one of them."
        )
        for first, one in doubles(placed)
    ]
    if lines:
        raise CommandFailed("\n".join(lines), ExitCode.USAGE)


def in_places(words: str, placed: Sequence[Placed], noun: str) -> str:
    """Return a refusal with file and line before each pointer such as `/jobs/0/name`."""

    def put(match: re.Match[str]) -> str:
        one = placed[int(match["position"])] if int(match["position"]) < len(placed) else None
        return (
            match[0]
            if one is None
            else f"{match[1]}{one.at(match['inside'])}: {match['inside'] or 'the whole'}"
        )

    return re.sub(
        rf"^( *)/{noun}s/(?P<position>[0-9]{{1,6}})(?P<inside>(?:/\S*?)?)(?=: )",
        put,
        words,
        flags=re.MULTILINE,
    )


def single_body(file: str, noun: str) -> dict[str, Any]:
    """Return the one body in this file.

    Raises CommandFailed if there is none, or more than one.
    """
    found = [document for document, _ in _of_file(file)]
    if len(found) != 1 or not isinstance(found[0], dict):
        raise CommandFailed(
            f"{file}: not a {noun}. Write one YAML document with the fields of the body.",
            ExitCode.USAGE,
        )
    return found[0]


def readable(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body for display: its name first, long texts as literal blocks."""
    order: dict[str, Any] = {name: body[name] for name in ("name", "description") if name in body}
    order.update(body)
    return {name: literal(value) for name, value in order.items()}


def literal(value: Any) -> Any:
    """Return the value with multi-line texts as literal blocks of YAML."""
    if isinstance(value, dict):
        return {str(name): literal(one) for name, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    return (
        LiteralScalarString(value)
        if isinstance(value, str) and "\n" in value and "\r" not in value
        else value
    )


def write(values: list[dict[str, Any]], comments: Sequence[str] = ()) -> None:
    """Write YAML documents to stdout, each with its comment above its first line."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1_000  # a long command stays one line
    for position, value in enumerate(values):
        comment = comments[position] if position < len(comments) else ""
        sys.stdout.write("---\n" + "".join(f"# {line}\n" for line in comment.splitlines()))
        yaml.dump(readable(value), sys.stdout)


def _bodies_of(file: str, noun: str, fields: str) -> Iterator[Placed]:
    for number, (document, node) in enumerate(_of_file(file), start=1):
        listed = isinstance(document, dict) and set(document) == {f"{noun}s"}
        value, at = (document[f"{noun}s"], node.value[0][1]) if listed else (document, node)
        several = zip(value, at.value, strict=True) if isinstance(value, list) else [(value, at)]
        for body, place in several:
            if not isinstance(body, dict):
                raise CommandFailed(
                    f"{file}, document {number}: not a {noun}. It needs {fields}.", ExitCode.USAGE
                )
            yield Placed(body, file, place)


def _of_file(file: str) -> Iterator[tuple[Any, Node]]:
    """Yield the non-empty documents of a file."""
    text, counted = inputs.read_text(file, BYTES_MAX), _Counted(file)
    yaml = YAML(typ="safe", pure=True)
    try:
        documents = [
            (yaml.constructor.construct_document(node), node) for node in yaml.compose_all(text)
        ]
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise CommandFailed(
            f"{file} is not YAML{where}: {error.problem or error.context}.", ExitCode.USAGE
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise CommandFailed(
            f"{file} is not YAML: {str(error).splitlines()[0][:200]}.", ExitCode.USAGE
        ) from None
    return (
        (counted.plain(document, 0), node) for document, node in documents if document is not None
    )


def _inside(node: Node, step: str) -> tuple[int, Node] | None:
    """Return the line and the node of a key or a position; None if there is none."""
    if isinstance(node, SequenceNode):
        exists = step.isdigit() and len(step) < len(str(VALUES_MAX)) and int(step) < len(node.value)
        return (node.value[int(step)].start_mark.line, node.value[int(step)]) if exists else None
    if isinstance(node, MappingNode):
        return next(
            ((key.start_mark.line, value) for key, value in node.value if key.value == step), None
        )
    return None


class _Counted:
    """Converter of YAML values to JSON values, with limits on number and depth."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._left = VALUES_MAX

    def plain(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > DEPTH_MAX:
            limit = (
                f"{DEPTH_MAX} deep"
                if depth > DEPTH_MAX
                else f"{VALUES_MAX} values, aliases written out"
            )
            raise CommandFailed(f"{self._file} holds more than {limit}.", ExitCode.USAGE)
        match value:
            case dict():
                return {self._key(key): self.plain(one, depth + 1) for key, one in value.items()}
            case list():
                return [self.plain(one, depth + 1) for one in value]
            case date():  # and datetime: JSON has only texts for these
                return value.isoformat()
            case None | bool() | int() | float() | str():
                return value
        raise CommandFailed(
            f"{self._file} holds a {type(value).__name__}, which JSON does not support.",
            ExitCode.USAGE,
        )

    def _key(self, key: Any) -> str:
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise CommandFailed(
                f"{self._file} has the key {key!r}: keys must be texts.", ExitCode.USAGE
            )
        return str(key)
