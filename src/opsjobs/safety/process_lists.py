"""Recognize command lines that list all processes, not a choice of them: `kill $(ps …)`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opsjobs.safety.symbolic_words import render_word
from opsjobs.safety.trace import Call

KILL_ALL = ("kill", "-9", "-1")
"""The call that is equivalent to ending every listed process."""
_ALL_OF_PS = re.compile(r"-?(?=\w*[eA]|\w*a\w*x|\w*x\w*a)[aAdefhHjloOuvwxX]+\Z")
_COLUMNS = re.compile(r"[\w,=%]+\Z")
_EVERY_NAME = re.compile(r"\^?\.?[*+]?\$?\Z")
# Programs that only cut columns or lines out of a list, regardless of its items.
_CUTS = frozenset({"cat", "cut", "sort", "tac", "tail", "tr", "uniq", "xargs"})
_PRINTS = re.compile(r"\s*(?:NR\s*(?:>=?|!=)\s*\d+\s*)?\{\s*print\s*\$\d+;?\s*\}\s*\Z")
_DIGITS = re.compile(r"\^?(?:\[0-9\]|\\d|\[\[:digit:\]\])[*+]?\$?\Z")
_NO_HEADING = re.compile(r"1d\Z")


def lists_all_processes(calls: Sequence[Call]) -> bool:
    """Return True if the first call lists all processes, and no later one chooses among them."""
    return bool(calls) and _lists_all(calls[0]) and all(_keeps_all(call) for call in calls[1:])


def _lists_all(call: Call) -> bool:
    words = [render_word(word) for word in call.words[1:]]
    match call.name:
        case "ps":
            return any(_ALL_OF_PS.match(word) for word in words) and all(
                _ALL_OF_PS.match(word) or _COLUMNS.match(word) or word in ("-o", "--no-headers")
                for word in words
            )
        case "pgrep":
            names = [word for word in words if not word.startswith("-")]
            return all(_EVERY_NAME.match(name) for name in names) and set(words) <= {*names, "-f"}
        case "ls":
            return "/proc" in (word.rstrip("/") for word in words)
    return False


def _keeps_all(call: Call) -> bool:
    words = [render_word(word) for word in call.words[1:]]
    match call.name:
        case "awk" | "gawk" | "mawk":
            return len(words) == 1 and _PRINTS.match(words[0]) is not None
        case "sed":
            return len(words) == 1 and _NO_HEADING.match(words[0]) is not None
        case "grep" | "egrep":
            named = [word for word in words if not word.startswith("-")]
            return "-v" in words or (len(named) == 1 and _DIGITS.match(named[0]) is not None)
    return call.name in _CUTS
