"""Messages between this process and a checking one: JSON with its length before it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from opsjobs.model.safety_verdict import Finding, SafetyVerdict
from opsjobs.safety import TEXT_BYTES_MAX, Context, SafetyQuestion

HEADER = struct.Struct("!I")
MESSAGE_BYTES_MAX = 4 << 20
READY = b"{}"
"""The first message of a checking process: everything is loaded."""


class Malformed(Exception):
    """The other side sent something that is not a message."""


def framed(body: bytes) -> bytes:
    """Return the message with its length before it."""
    return HEADER.pack(len(body)) + body


def length_of(header: bytes) -> int:
    """Return the length of the message behind this header. Raises Malformed."""
    (length,) = HEADER.unpack(header)
    if length > MESSAGE_BYTES_MAX:
        raise Malformed(f"a message of {length} bytes, at most {MESSAGE_BYTES_MAX} are allowed")
    return int(length)


def encode_question(question: SafetyQuestion, *, too_large: bool) -> bytes:
    """Return a question as JSON; if it is too large, only the beginning of its text.

    Nothing of a text whose inputs are too large: without them its commands mean something else.
    """
    context = question.context
    knows_inputs = question.given_characters <= TEXT_BYTES_MAX
    return json.dumps(
        {
            "interpreter": question.interpreter,
            "text": question.text[:TEXT_BYTES_MAX] if knows_inputs else "",
            "too_large": too_large,
            "labels": sorted(context.labels),
            "share_of_targets": context.share_of_targets,
            "targets": context.targets,
            "become": context.become,
            "arguments": question.arguments if knows_inputs else None,
            "variables": question.variables if knows_inputs else (),
            "unknown": question.unknown,
        }
    ).encode()


def decode_question(body: bytes) -> tuple[SafetyQuestion, bool]:
    """Return the question, and whether it is too large to be read."""
    message: Mapping[str, Any] = json.loads(body)
    context = Context(
        frozenset(message["labels"]),
        message["share_of_targets"],
        message["targets"],
        message["become"],
    )
    arguments = None if message["arguments"] is None else tuple(message["arguments"])
    variables = tuple((name, value) for name, value in message["variables"])
    question = SafetyQuestion(
        message["interpreter"], message["text"], context, arguments, variables, message["unknown"]
    )
    return question, bool(message["too_large"])


def encode_answer(findings: Sequence[Finding], *, leaves: bool) -> bytes:
    """Return the findings as JSON. `leaves`: the process exits after this answer."""
    found = [
        (finding.rule, finding.severity.value, finding.reason, finding.excerpt, finding.unknown)
        for finding in findings
    ]
    return json.dumps({"findings": found, "leaves": leaves}).encode()


def encode_failure(reason: str) -> bytes:
    """Return an answer with the reason for having no findings. The process exits after it."""
    return json.dumps({"failed": reason}).encode()


def decode_answer(body: bytes) -> tuple[tuple[Finding, ...] | str, bool]:
    """Return the findings or the failure, and whether the process exits. Raises Malformed."""
    try:
        message: Mapping[str, Any] = json.loads(body)
        if (failed := message.get("failed")) is not None:
            return str(failed), True
        found = tuple(
            Finding(rule, SafetyVerdict(severity), reason, excerpt, unknown=bool(unknown))
            for rule, severity, reason, excerpt, unknown in message["findings"]
        )
        return found, bool(message["leaves"])
    except (ValueError, KeyError, TypeError) as wrong:
        raise Malformed(f"no answer: {wrong!r}") from None
