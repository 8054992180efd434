"""Load and validate the rules from the YAML files in the `rules` folder.

An error names the rule that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from opsjobs.model.safety_verdict import SafetyVerdict

_KEYS = frozenset(
    {"name", "severity", "reason", "stricter", "unknown", "undone", "any", "finds", "passes"}
)
_MATCH_KEYS = frozenset(
    {
        *(
            "command",
            "dialect",
            "event",
            "flags",
            "without",
            "words",
            "argument",
            "path",
            "if_empty",
            "values",
        ),
        *(
            "redirect",
            "empties",
            "reads",
            "fed_by",
            "says",
            "to",
            "unseen",
            "other_than",
            "fed_from",
            "not_from",
        ),
    }
)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
_CONDITION = re.compile(
    r"(?P<flag>become)|(?P<number>share|targets)>=(?P<value>\d+(\.\d+)?)"
    r"|(?P<label>[\w./-]+(=[\w.|-]+)?)"
)
_DIALECTS = frozenset({"posix", "powershell", "cmd", "python", "windows", "any"})
EXAMPLE_CHARACTERS_MAX = 200
LANGUAGES = frozenset({"bash", "python", "powershell", "cmd", "perl", "node"})


class RuleError(Exception):
    """A file of rules is invalid. Names the file, the rule, and the accepted values."""


@dataclass(frozen=True, slots=True)
class Match:
    """The conditions on one call for a rule to apply: all that are set must hold."""

    command: tuple[str, ...] = ()
    dialect: str = "posix"
    event: str = ""
    flags: tuple[tuple[str, ...], ...] = ()
    """Each of these options, in any of its spellings."""
    without: tuple[str, ...] = ()
    """None of these words."""
    words: tuple[re.Pattern[str], ...] = ()
    """These words, in this order among the arguments."""
    argument: re.Pattern[str] | None = None
    """A pattern that matches one argument whole."""
    path: tuple[str, ...] = ()
    """Patterns of paths among the arguments."""
    if_empty: tuple[str, ...] = ()
    """Patterns of the paths that result if a variable is empty."""
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Patterns of paths after `key=`."""
    redirect: tuple[str, ...] = ()
    """Patterns of paths that its output is redirected to."""
    empties: tuple[str, ...] = ()
    """Patterns of paths that its output is redirected to; appending does not count."""
    reads: tuple[str, ...] = ()
    """Patterns of paths that `<` reads."""
    fed_by: tuple[str, ...] = ()
    """Names of commands that produce its input."""
    says: re.Pattern[str] | None = None
    """A pattern found in all its text."""
    to: tuple[str, ...] = ()
    """Patterns of the paths that a copying command writes to."""
    unseen: bool = False
    """True if the text that it writes must not be known."""
    other_than: tuple[str, ...] = ()
    """None of these names of commands."""
    fed_from: tuple[str, ...] = ()
    """Patterns of the paths among the arguments of the commands before it in the pipe."""
    not_from: tuple[str, ...] = ()
    """A copy does not count if all its sources have these paths."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that makes a rule stricter.

    `become`, `share>=0.5`, `targets>=100`, or a label, `env=prod|production`.
    """

    text: str
    kind: str
    value: float = 0
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Example:
    """A text, and the interpreter that it is for."""

    language: str
    text: str


@dataclass(frozen=True, slots=True)
class SafetyRule:
    """One rule of the safety check."""

    name: str
    severity: SafetyVerdict
    reason: str
    matches: tuple[Match, ...]
    stricter: tuple[tuple[Condition, SafetyVerdict], ...]
    finds: tuple[Example, ...]
    """Examples that the rule must find."""
    passes: tuple[Example, ...]
    """Examples that it must not find."""
    unknown: bool = False
    """True if it finds only text that cannot be read; a policy may raise all such rules."""
    undone: tuple[Match, ...] = ()
    """Later calls of the same text that undo it if they share a word: then no finding."""

    def data(self) -> dict[str, Any]:
        """An item of the response to GET /safety/rules."""
        return {
            "name": self.name,
            "severity": self.severity.value,
            "unknown": self.unknown,
            "stricter": [
                {"when": when.text, "severity": then.value} for when, then in self.stricter
            ],
            "reason": self.reason,
            "example": self.finds[0].text[:EXAMPLE_CHARACTERS_MAX],
        }


@dataclass(frozen=True)
class Rulebook:
    """All rules, and those about events by the event's name."""

    rules: tuple[SafetyRule, ...]

    @cached_property
    def events(self) -> Mapping[str, SafetyRule]:
        """Return the rules for events, which are not calls: `unreadable`, `dynamic_command` …."""
        return {match.event: rule for rule in self.rules for match in rule.matches if match.event}


@cache
def rulebook() -> Rulebook:
    """Return the rules of the package, read once. Raises RuleError."""
    folder = files("opsjobs.safety") / "rules"
    texts = {
        file.name: file.read_text() for file in folder.iterdir() if file.name.endswith(".yaml")
    }
    return bound(dict(sorted(texts.items())))


def bound(texts: Mapping[str, str]) -> Rulebook:
    """Build a rulebook from the texts of files, by file name. Raises RuleError.

    `paths.yaml` holds the named sets of paths.
    """
    sets = _sets(texts.get("paths.yaml", "{}"))
    rules = [
        rule
        for name, text in texts.items()
        if name != "paths.yaml"
        for rule in _rules(name, text, sets)
    ]
    twice = {rule.name for rule in rules if sum(other.name == rule.name for other in rules) > 1}
    if twice:
        raise RuleError(f"two rules are called {min(twice)}: give one of them another name.")
    return Rulebook(tuple(rules))


def _load(name: str, text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise RuleError(f"{name} is not YAML: {error}") from None


def _sets(text: str) -> dict[str, tuple[str, ...]]:
    loaded = _load("paths.yaml", text)
    if not isinstance(loaded, dict) or not all(_is_texts(v) for v in loaded.values()):
        raise RuleError("paths.yaml: write names, each with a list of patterns of paths.")
    return {name: tuple(patterns) for name, patterns in loaded.items()}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _rules(file: str, text: str, sets: Mapping[str, tuple[str, ...]]) -> Iterator[SafetyRule]:
    loaded = _load(file, text)
    if not isinstance(loaded, list):
        raise RuleError(f"{file}: write a list of rules.")
    for number, body in enumerate(loaded, start=1):
        name = body.get("name") if isinstance(body, dict) else None
        where = f"{file}: rule {name or number}"
        try:
            yield _rule(body, sets)
        except (KeyError, TypeError, ValueError, re.error) as wrong:
            reason = f"{wrong.args[0]} is missing" if isinstance(wrong, KeyError) else str(wrong)
            raise RuleError(f"{where}: {reason}.") from None


def _rule(body: Any, sets: Mapping[str, tuple[str, ...]]) -> SafetyRule:
    if not isinstance(body, dict):
        raise TypeError("write a rule with name, severity, reason, any, finds and passes")
    _only(body, _KEYS)
    if not _NAME.match(str(body["name"])):
        raise ValueError("its name is words of small letters with - between them")
    if not isinstance(body["reason"], str) or not body["reason"].endswith("."):
        raise ValueError("its reason is a sentence")
    return SafetyRule(
        name=body["name"],
        severity=_severity(body["severity"]),
        reason=body["reason"],
        matches=tuple(_match(one, sets) for one in _list(body, "any")),
        stricter=tuple(
            (_condition(when), _severity(then)) for when, then in body.get("stricter", {}).items()
        ),
        finds=tuple(_examples(body, "finds")),
        passes=tuple(_examples(body, "passes")),
        unknown=body.get("unknown") is True,
        undone=tuple(_match(one, sets) for one in body.get("undone", ())),
    )


def _only(body: Mapping[str, Any], keys: frozenset[str]) -> None:
    unknown = sorted(map(str, body.keys() - keys))
    if unknown:
        raise ValueError(f"there is no {unknown[0]} in a rule: write {', '.join(sorted(keys))}")


def _list(body: Mapping[str, Any], key: str) -> list[Any]:
    value = body[key]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} is a list, and not empty")
    return value


def _severity(word: Any) -> SafetyVerdict:
    if word not in set(SafetyVerdict) or word == SafetyVerdict.ALLOW:
        raise ValueError(f"{word!r} is not a severity: write warn, needs_approval or block")
    return SafetyVerdict(word)


def _condition(text: Any) -> Condition:
    found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"{text!r} is not a condition: "
            "write become, share>=0.5, targets>=100 or a label, env=prod"
        )
    if found["flag"]:
        return Condition(text, "become")
    if found["number"]:
        return Condition(text, found["number"], float(found["value"]))
    key, equals, values = found["label"].partition("=")
    return Condition(
        text,
        "label",
        labels=frozenset(f"{key}={value}" if equals else key for value in values.split("|")),
    )


def _examples(body: Mapping[str, Any], key: str) -> Iterator[Example]:
    for one in _list(body, key):
        example = dict(one) if isinstance(one, dict) else {"bash": one}
        times = example.pop("times", 1)
        if (
            len(example) != 1
            or not example.keys() <= LANGUAGES
            or not all(isinstance(text, str) for text in example.values())
        ):
            raise TypeError(
                f"an example of {key} is a text, or one with its interpreter: {{powershell: …}}"
            )
        (language, text), *_ = example.items()
        yield Example(language, text * int(times))


def _match(body: Any, sets: Mapping[str, tuple[str, ...]]) -> Match:
    if not isinstance(body, dict) or not body:
        raise TypeError("an item of `any` is a mapping, such as {command: rm, flags: [-r]}")
    _only(body, _MATCH_KEYS)
    dialect = body.get("dialect", "posix")
    if dialect not in _DIALECTS:
        raise ValueError(f"{dialect!r} is not a dialect: write {', '.join(sorted(_DIALECTS))}")
    return Match(
        command=_texts(body.get("command")),
        dialect=dialect,
        event=str(body.get("event", "")),
        flags=tuple(tuple(flag.split("|")) for flag in _texts(body.get("flags"))),
        without=_texts(body.get("without")),
        words=tuple(re.compile(word, re.IGNORECASE) for word in _texts(body.get("words"))),
        argument=_regex(body.get("argument")),
        path=_paths(body.get("path"), sets),
        if_empty=_paths(body.get("if_empty"), sets),
        values=tuple(
            (key, _paths(patterns, sets)) for key, patterns in body.get("values", {}).items()
        ),
        redirect=_paths(body.get("redirect"), sets),
        empties=_paths(body.get("empties"), sets),
        reads=_paths(body.get("reads"), sets),
        fed_by=_texts(body.get("fed_by")),
        says=_regex(body.get("says")),
        to=_paths(body.get("to"), sets),
        unseen=body.get("unseen") is True,
        other_than=_texts(body.get("other_than")),
        fed_from=_paths(body.get("fed_from"), sets),
        not_from=_paths(body.get("not_from"), sets),
    )


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not _is_texts(texts):
        raise TypeError(
            f"{value!r} is neither a text nor a list of texts: "
            "quote what YAML takes for something else"
        )
    return tuple(texts)


def _regex(value: Any) -> re.Pattern[str] | None:
    if value is None:
        return None
    return re.compile(
        "|".join(f"(?:{text})" for text in _texts(value)), re.IGNORECASE | re.MULTILINE
    )


def _paths(value: Any, sets: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    found: list[str] = []
    for text in _texts(value):
        if text.startswith("@"):
            if text[1:] not in sets:
                raise ValueError(
                    f"{text} is not a set of paths.yaml: there are {', '.join(sorted(sets))}"
                )
            found += sets[text[1:]]
        else:
            found.append(text)
    return tuple(found)
