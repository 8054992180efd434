"""The service's words in the words of the command line: options and commands in place of fields and routes."""

from __future__ import annotations

import re
from collections.abc import Callable

_REPLACED: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"override_safety: true and a reason"), "--override-safety REASON"),
    (re.compile(r"`?\btakes_over\b`?(?!:)"), "--takes-over"),
    (re.compile(r"GET /([a-z-]+)/(\d+)\b(?!/)"), r"`opsjobs \1 show \2`"),
    (re.compile(r"GET /(approvals|dead-letters)\b(?!/)"), r"`opsjobs \1 list`"),
)


def in_options(words: str) -> str:
    """Return the words of a refusal with options and commands in place of the fields and routes that they stand for."""
    for pattern, replacement in _REPLACED:
        words = pattern.sub(replacement, words)
    return words
