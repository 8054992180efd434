"""The safety check of one text of one interpreter: its trace and its findings.

The calls of the trace are matched against the rules; a finding's severity depends on the context.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, lru_cache, partial
from itertools import chain

from opsjobs.model.safety_verdict import Finding, SafetyVerdict
from opsjobs.safety import command_prompt, perl_node, posix, powershell, python, system_files
from opsjobs.safety.budget import CHARACTERS_A_STEP, TEXT_BYTES_MAX, Budget, Spent
from opsjobs.safety.command_dispatch import settle
from opsjobs.safety.constant_folding import compute_output
from opsjobs.safety.interpreters import language_of
from opsjobs.safety.paths import is_unknown, may_be, readings
from opsjobs.safety.question import UNKNOWN_INPUTS, Context, ProgramInputs
from opsjobs.safety.rulebook import Condition, Match, Rulebook, SafetyRule, rulebook
from opsjobs.safety.symbolic_words import cleared
from opsjobs.safety.trace import WINDOWS, Call, Reader, SourcePosition, Trace, excerpt_of

_READERS: Mapping[str, Reader] = {
    "bash": posix.read,
    "python": python.read,
    "powershell": powershell.read,
    "powershell-line": powershell.read_line,
    "cmd": command_prompt.read,
    "cmd-line": command_prompt.read_line,
    "perl": perl_node.perl,
    "node": perl_node.node,
    "other": perl_node.other,
    "crontab": system_files.crontab,
    "system-crontab": system_files.system_crontab,
    "unit": system_files.unit,
    "start": system_files.start,
    "make": system_files.makefile,
}

INTERPRETERS = ("bash", "sh", "python", "powershell", "pwsh", "cmd", "perl", "node")
"""Interpreters that have a reader; of a path the last part counts."""


def check_text(
    interpreter: str,
    text: str,
    *,
    context: Context | None = None,
    given: ProgramInputs = UNKNOWN_INPUTS,
) -> tuple[Finding, ...]:
    """Return the findings for this text; none if nothing dangerous is found in it.

    `interpreter`: bash, sh, python, powershell, pwsh, cmd, perl, node, or a path of one of these on
    the target; sh for a command line.
    `given`: the arguments and variables of the program, as far as they are known.
    A text that cannot be read, or costs more than 64 KiB and some 50 ms, is itself a finding
    (`needs_approval`), beside those that were found until then, and those of the complete commands
    at the beginning of a shell script. Raises only MemoryError.
    """
    trace = _new_trace()
    try:
        _read(trace, interpreter, text, given)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  a reader's mistake neither refuses a text nor hides anything
        trace.events.append(("unreadable", SourcePosition(excerpt_of(text))))
    traces = (*_beginning(trace, interpreter, text, given), trace)
    return findings(traces, _matcher(), context or Context())


def too_large(
    interpreter: str, beginning: str, context: Context, given: ProgramInputs
) -> tuple[Finding, ...]:
    """Return the findings for a text that is too large to be read, and begins with this."""
    trace = _new_trace()
    trace.events.append(("too_large", SourcePosition()))
    traces = (*_beginning(trace, interpreter, beginning, given), trace)
    return findings(traces, _matcher(), context)


def traced(interpreter: str, text: str, given: ProgramInputs = UNKNOWN_INPUTS) -> Trace:
    """Return the trace of this text; exceeded bounds and unreadable parts are events in it."""
    trace = _new_trace()
    _read(trace, interpreter, text, given)
    return trace


def _new_trace(*, is_beginning: bool = False) -> Trace:
    return Trace(Budget(), _READERS, _matcher().names, is_beginning)


def _read(trace: Trace, interpreter: str, text: str, given: ProgramInputs) -> None:
    if len(text.encode(errors="replace")) > TEXT_BYTES_MAX:
        trace.events.append(("too_large", SourcePosition()))
        return
    try:
        trace.read(_language(interpreter), cleared(text), SourcePosition(given=given))
        settle(trace)
    except (Spent, RecursionError):
        trace.events.append(("too_much", SourcePosition(excerpt_of(text))))


_FAILURES = frozenset({"unreadable", "too_large", "too_much"})


def _beginning(
    trace: Trace, interpreter: str, text: str, given: ProgramInputs
) -> tuple[Trace, ...]:
    """If a shell script was not read to its end, trace the complete commands at its beginning.

    A shell runs them before it reads what follows, and stops at what it cannot read.
    """
    failures = {event for event, place in trace.events if place.depth <= 1} & _FAILURES
    if not failures or _language(interpreter) != "bash":
        return ()
    first = cleared(text).encode(errors="replace")[:TEXT_BYTES_MAX].decode(errors="ignore")
    try:
        for beginning in posix.beginnings(
            first, is_costly=failures != {"unreadable"}, was_read="too_large" not in failures
        ):
            begun = _new_trace(is_beginning=True)
            try:
                posix.read_beginning(begun, beginning, SourcePosition(depth=1, given=given))
                settle(begun)
            except (Spent, RecursionError):
                continue
            return (begun,)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  a reader's mistake hides nothing that was found before
        return ()
    return ()


@cache
def _matcher() -> Matcher:
    return Matcher(rulebook())


def _language(interpreter: str) -> str:
    name = interpreter.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".exe")
    return language_of(name) or "other"


ABBREVIATED_MIN = 4
"""`--rec` is `--recursive` to the GNU tools; `--r` is ambiguous."""
_LETTER = re.compile(r"-[A-Za-z0-9]\Z")
FINDINGS_MAX = 100
MATCHING_STEPS_MAX = 80_000
"""Steps beyond those of reading; the longest readable script takes about a quarter."""
WORD_CHARACTERS_MAX = 1_024
"""Characters of a word that a rule's expression is matched against; the rest is cut."""

Test = Callable[[Call], bool]
Ready = tuple[SafetyRule, str, tuple[Test, ...]]


def findings(traces: Iterable[Trace], matcher: Matcher, context: Context) -> tuple[Finding, ...]:
    """Return the most severe findings first, each rule once for each position."""
    found: dict[tuple[str, str], Finding] = {}
    budget = Budget(MATCHING_STEPS_MAX)
    for rule, excerpt in chain.from_iterable(_applied(trace, matcher, budget) for trace in traces):
        finding = Finding(
            rule.name, severity(rule, context), rule.reason, excerpt, unknown=rule.unknown
        )
        found.setdefault((rule.name, excerpt), finding)
    worst_first = sorted(found.values(), key=lambda finding: -finding.severity.rank)
    return tuple(worst_first[:FINDINGS_MAX])


def severity(rule: SafetyRule, context: Context) -> SafetyVerdict:
    """Return the rule's severity, or the strictest of those whose condition holds here."""
    return max(
        [rule.severity, *(then for when, then in rule.stricter if _holds(when, context))],
        key=lambda verdict: verdict.rank,
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


def _applied(trace: Trace, matcher: Matcher, budget: Budget) -> Iterator[tuple[SafetyRule, str]]:
    for event, place in trace.events:
        yield matcher.book.events[event], place.excerpt
    for position, call in enumerate(trace.calls):
        try:
            ready = tuple(matcher.about(call))
            budget.spend(len(ready) * (_size(call) + sum(map(_size, call.io.feeders)) // 4))
            applied = [rule for rule, _, tests in ready if all(test(call) for test in tests)]
            applied = [
                rule
                for rule in applied
                if not rule.undone
                or not (
                    trace.is_beginning
                    or _is_undone(rule, call, trace.calls[position + 1 :], budget)
                )
            ]
        except Spent:
            yield matcher.book.events["too_much"], call.place.excerpt
            return
        except MemoryError:
            raise
        except Exception as mistake:  # noqa: BLE001  a mistake with one call hides no other
            event = "too_much" if isinstance(mistake, RecursionError) else "unreadable"
            yield matcher.book.events[event], call.place.excerpt
            continue
        for rule in applied:
            yield rule, call.place.excerpt


def _is_undone(rule: SafetyRule, call: Call, later: Sequence[Call], budget: Budget) -> bool:
    """Return True if a later call undoes the effect of this one on the same object.

    `systemctl start x` after `systemctl stop x` does.
    """
    budget.spend(len(later))
    things = _things(call)
    return any(
        not things.isdisjoint(_things(other)) and all(test(other) for test in _tests(match))
        for other in later
        for match in rule.undone
        if other.name in match.command
    )


def _things(call: Call) -> frozenset[str]:
    return frozenset(word.removesuffix(".service") for word in call.arguments)


def _size(call: Call) -> int:
    """Return the steps that matching one rule against this call costs."""
    return 1 + len(call.words) // 8 + sum(map(len, call.words)) // CHARACTERS_A_STEP


class Matcher:
    """A compiled rulebook: for each name of a call, the tests of the rules that may apply."""

    def __init__(self, book: Rulebook) -> None:
        self.book = book
        self._exact: dict[str, list[Ready]] = {}
        self._globs: list[tuple[str, Ready]] = []
        self._redirects: list[Ready] = []
        self._anything: list[Ready] = []
        for rule in book.rules:
            for match in rule.matches:
                if not match.event:
                    self._sort(match, (rule, match.dialect, tuple(_tests(match))))
        self._of_name = lru_cache(maxsize=4096)(self._by_name)

    def _sort(self, match: Match, ready: Ready) -> None:
        for name in match.command:
            if "*" in name:
                self._globs.append((name.lower(), ready))
            else:
                self._exact.setdefault(name.lower(), []).append(ready)
        if not match.command:
            (
                self._redirects
                if match.redirect or match.empties or match.reads
                else self._anything
            ).append(ready)

    def _by_name(self, name: str, dialect: str) -> tuple[Ready, ...]:
        found = (
            *self._exact.get(name, ()),
            *(r for glob, r in self._globs if fnmatchcase(name, glob)),
            *self._anything,
        )
        return tuple(ready for ready in found if _speaks(ready[1], dialect))

    def about(self, call: Call) -> Iterable[Ready]:
        """Return the rules to test for this call."""
        found = self._of_name(call.name.lower(), call.dialect)
        if not call.io.writes and not call.io.reads:
            return found
        return (*found, *(ready for ready in self._redirects if _speaks(ready[1], call.dialect)))

    @property
    def names(self) -> frozenset[str]:
        """The names of the commands that rules refer to."""
        return frozenset(self._exact)


def _tests(match: Match) -> Iterator[Test]:
    """Return the tests of a match for a call of its dialect, the cheap ones first."""
    if match.other_than:
        yield lambda call: call.name not in match.other_than
    if match.without:
        yield lambda call: not any(word in call.words for word in match.without)
    for flag in match.flags:
        yield partial(_has_flag, flag, bool(match.path))
    if match.words:
        yield partial(_in_order, match.words)
    if (argument := match.argument) is not None:
        yield lambda call: any(
            argument.fullmatch(word[:WORD_CHARACTERS_MAX]) for word in call.words[1:]
        )
    if match.fed_by:
        yield lambda call: not set(match.fed_by).isdisjoint(call.io.sources)
    yield from _path_tests(match)
    if match.unseen:
        yield _is_unseen
    if (says := match.says) is not None:
        yield lambda call: says.search(call.text) is not None


def _path_tests(match: Match) -> Iterator[Test]:
    if match.path:
        yield lambda call: any(may_be(path, match.path) for path in call.paths)
    if match.if_empty:
        yield lambda call: any(may_be(path, match.if_empty) for path in call.paths_if_empty)
    for key, patterns in match.values:
        yield partial(_has_value, key, patterns)
    if match.fed_from:
        yield lambda call: any(
            may_be(path, match.fed_from) for feeder in call.io.feeders for path in feeder.paths
        )
    if match.not_from:
        yield (
            lambda call: (
                not all(
                    any(may_be(p, match.not_from) for p in readings(call.as_path(w)))
                    for w in call.arguments[:-1]
                )
            )
        )
    if match.to:
        yield lambda call: any(may_be(path, match.to) for path in call.destinations)
    if match.redirect:
        yield lambda call: _any_path(match.redirect, call, [path for _, path in call.io.writes])
    if match.empties:
        yield lambda call: _any_path(
            match.empties, call, [path for mode, path in call.io.writes if mode == "write"]
        )
    if match.reads:
        yield lambda call: _any_path(match.reads, call, call.io.reads)


def _is_unseen(call: Call) -> bool:
    """Return True if the text that it writes is unknown."""
    text = compute_output(call.words, call.io.fed())
    return text is None or is_unknown(text.strip())


def _speaks(wanted: str, dialect: str) -> bool:
    return wanted in (dialect, "any") or (wanted == "windows" and dialect in WINDOWS)


def _has_flag(spellings: Iterable[str], has_path: bool, call: Call) -> bool:
    # Unknown words may be any option. That counts if the match has a path, which is
    # another word.
    return any(_is_given(spelling, call) for spelling in spellings) or (
        has_path and len(call.arguments) > 1 and any(is_unknown(word) for word in call.words[1:])
    )


def _is_given(spelling: str, call: Call) -> bool:
    if call.dialect in WINDOWS:
        return any(_abbreviates(word, spelling) for word in call.words[1:])
    if _LETTER.match(spelling):
        return any(word[:2] != "--" and spelling[1] in word[1:] for word in call.options)
    if spelling.startswith("--"):
        names = [word.partition("=")[0] for word in call.options if word.startswith("--")]
        return any(len(name) >= ABBREVIATED_MIN and spelling.startswith(name) for name in names)
    return spelling in call.words[1:]


def _abbreviates(word: str, spelling: str) -> bool:
    """Return True for a prefix of a parameter, as in PowerShell: `-Rec`, `-Recurse:$true`."""
    word, spelling = word.lower().partition(":")[0], spelling.lower()
    if spelling.startswith("/"):
        return word == spelling
    return (
        len(word) > 1 and spelling.startswith(word)
        if spelling.startswith("-")
        else word == spelling
    )


def _in_order(patterns: Iterable[re.Pattern[str]], call: Call) -> bool:
    words = iter(call.arguments)
    return all(
        any(pattern.fullmatch(word[:WORD_CHARACTERS_MAX]) for word in words) for pattern in patterns
    )


def _has_value(key: str, patterns: tuple[str, ...], call: Call) -> bool:
    return _any_path(
        patterns,
        call,
        [word[len(key) + 1 :] for word in call.words[1:] if word.startswith(f"{key}=")],
    )


def _any_path(patterns: tuple[str, ...], call: Call, words: Iterable[str]) -> bool:
    return any(
        may_be(path, patterns)
        for word in words
        for path in readings(call.as_path(word), call.place.cwd)
    )
