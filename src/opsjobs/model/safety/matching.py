"""Whether a rule applies to a call, and how severe it is where it would run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from opsjobs.model.safety.paths import emptied, is_unknown, may_be, readings
from opsjobs.model.safety.rulebook import Condition, Match, Rule, Rulebook
from opsjobs.model.safety.trace import Call, Trace
from opsjobs.model.safety.words import ANY, STAR
from opsjobs.model.verdict import Finding, Verdict

ABBREVIATED_MIN = 4
"""`--rec` is `--recursive` to the GNU tools; `--r` may be many things."""
_LETTER = re.compile(r"-[A-Za-z0-9]\Z")
FINDINGS_MAX = 100
_WINDOWS = frozenset({"powershell", "cmd"})


@dataclass(frozen=True, slots=True)
class Context:
    """Where a text would run. `labels`: of its targets, `env=prod`; `share_of_targets`: of all that there are, 0 to 1; `targets`: how
    many; `become`: whether it runs as somebody else, by the action's own `become`.
    """

    labels: frozenset[str] = frozenset()
    share_of_targets: float = 0.0
    targets: int = 0
    become: bool = False


def findings(trace: Trace, book: Rulebook, context: Context) -> tuple[Finding, ...]:
    """What the rules have to say of it, each rule once for each place, the most severe first."""
    found: dict[tuple[str, str], Finding] = {}
    for rule, excerpt in _applied(trace, book):
        if len(found) >= FINDINGS_MAX:
            break
        found.setdefault((rule.name, excerpt), Finding(rule.name, severity(rule, context), rule.reason, excerpt))
    return tuple(sorted(found.values(), key=lambda finding: -finding.severity.rank))


def severity(rule: Rule, context: Context) -> Verdict:
    """The rule's own, or the strictest of those whose condition holds here."""
    return max(
        [rule.severity, *(then for when, then in rule.stricter if _holds(when, context))], key=lambda verdict: verdict.rank
    )


def _holds(condition: Condition, context: Context) -> bool:
    match condition.kind:
        case "become":
            return context.become
        case "share":
            return context.share_of_targets >= condition.value
        case "targets":
            return context.targets >= condition.value
    return not condition.labels.isdisjoint(context.labels)


def _applied(trace: Trace, book: Rulebook) -> Iterator[tuple[Rule, str]]:
    for event, place in trace.events:
        yield book.events[event], place.excerpt
    for call in trace.calls:
        name = call.name if call.dialect == "posix" else call.name.lower()
        for rule, match in (*book.exact.get(name, ()), *book.wide):
            if applies(match, call):
                yield rule, call.place.excerpt


def applies(match: Match, call: Call) -> bool:
    """Whether the call is all that the match asks for."""
    return (
        _speaks(match.dialect, call.dialect)
        and _is_named(match.command, call)
        and all(_has_flag(flag, match, call) for flag in match.flags)
        and not any(word in call.words for word in match.without)
        and _in_order(match.words, call)
        and (match.argument is None or any(match.argument.fullmatch(word) for word in call.words[1:]))
        and (not match.path or _any_path(match.path, call, call.arguments))
        and (
            not match.if_empty
            or any(may_be(p, match.if_empty) for w in _paths(call, call.arguments) for p in emptied(w, call.place.cwd))
        )
        and all(_any_path(patterns, call, _values(key, call)) for key, patterns in match.values)
        and (not match.redirect or _any_path(match.redirect, call, [path for _, path in call.io.writes]))
        and (not match.reads or _any_path(match.reads, call, call.io.reads))
        and (not match.fed_by or not set(match.fed_by).isdisjoint(call.io.sources))
        and (match.says is None or match.says.search(call.text) is not None)
    )


def _speaks(wanted: str, dialect: str) -> bool:
    return wanted in (dialect, "any") or (wanted == "windows" and dialect in _WINDOWS)


def _is_named(names: Collection[str], call: Call) -> bool:
    if not names:
        return True
    name = call.name if call.dialect == "posix" else call.name.lower()
    return any(fnmatchcase(name, pattern if call.dialect == "posix" else pattern.lower()) for pattern in names)


def _has_flag(spellings: Iterable[str], match: Match, call: Call) -> bool:
    # Options that nobody knows may be any; that counts where the path says that it matters.
    return any(_is_given(spelling, call) for spelling in spellings) or (
        bool(match.path) and any(is_unknown(word) for word in call.words[1:])
    )


def _is_given(spelling: str, call: Call) -> bool:
    if call.dialect in _WINDOWS:
        return any(_abbreviates(word, spelling) for word in call.words[1:])
    if _LETTER.match(spelling):
        return any(word[:2] != "--" and spelling[1] in word[1:] for word in call.options)
    if spelling.startswith("--"):
        return any(
            word.startswith("--") and len(name := word.partition("=")[0]) >= ABBREVIATED_MIN and spelling.startswith(name)
            for word in call.options
        )
    return spelling in call.words[1:]


def _abbreviates(word: str, spelling: str) -> bool:
    """PowerShell takes a parameter by its beginning: `-Rec`, `-Recurse:$true`."""
    word, spelling = word.lower().partition(":")[0], spelling.lower()
    if spelling.startswith("/"):
        return word == spelling
    return len(word) > 1 and spelling.startswith(word) if spelling.startswith("-") else word == spelling


def _in_order(patterns: Iterable[re.Pattern[str]], call: Call) -> bool:
    words = iter(call.arguments)
    return all(any(pattern.fullmatch(word) for word in words) for pattern in patterns)


def _values(key: str, call: Call) -> list[str]:
    return [word[len(key) + 1 :] for word in call.words[1:] if word.startswith(f"{key}=")]


def _any_path(patterns: Collection[str], call: Call, words: Iterable[str]) -> bool:
    return any(may_be(path, patterns) for word in _paths(call, words) for path in readings(word, call.place.cwd))


def _paths(call: Call, words: Iterable[str]) -> Iterable[str]:
    """Paths of Windows as if they were of POSIX: small letters, slashes; and its globs need no shell."""
    if call.dialect not in _WINDOWS:
        return words
    return [word.lower().replace("\\", "/").removeprefix("//?/").replace("*", STAR).replace("?", ANY) for word in words]
