"""Interpreters: the language of each, and the position of the program in its words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from opsjobs.safety.question import SAME, EnvironmentChange

Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Argv:
    """A command with its arguments, run by a wrapper."""

    words: tuple[str, ...]
    fed: bool = True
    """True if it reads the input of the wrapper; otherwise that input becomes its words."""
    whole: bool = False
    """True if that input is not split at white space."""
    change: EnvironmentChange = SAME
    """The changes of the environment by the wrapper."""


@dataclass(frozen=True, slots=True)
class InnerText:
    """A program in a language, as the text of a word."""

    language: str
    text: str
    arguments: tuple[str, ...] | None = None
    """The arguments of the call; None if they are unknown."""
    zero: str | None = None
    """The name that it is called by."""
    change: EnvironmentChange = SAME
    evaluated: bool = False
    """True if the shell itself evaluates it."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the target that is run, with its arguments."""

    language: str
    path: str
    arguments: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Standard:
    """A program that is read from standard input, with its arguments."""

    language: str
    arguments: tuple[str, ...] | None = None


Inner = Argv | InnerText | File | Standard


SHELLS = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "ksh93", "mksh", "ash", "rbash", "lksh", "yash"}
)
LANGUAGES = {
    **dict.fromkeys(SHELLS, "bash"),
    **dict.fromkeys(("fish", "csh", "tcsh"), "other"),
    **dict.fromkeys(("python", "python2", "python3", "pypy", "pypy3"), "python"),
    "perl": "perl",
    **dict.fromkeys(("node", "nodejs", "deno", "bun"), "node"),
    **dict.fromkeys(("ruby", "php", "lua", "osascript", "tclsh", "expect"), "other"),
    **dict.fromkeys(("pwsh", "powershell", "pwsh-preview"), "powershell"),
    "cmd": "cmd",
}
# The options whose value, the next word, is the program.
_CODE = {"bash": "c", "python": "c", "perl": "eE", "node": "ep", "other": "ecr"}
_VALUED = {"bash": "oO", "python": "WX", "perl": "IMm", "node": "r", "other": "r"}
_LONG_VALUED = frozenset({"--rcfile", "--init-file", "--require", "--import"})
_LONG_CODE = frozenset({"--eval", "--print", "--command"})
_VERSIONED = re.compile(r"(python|perl|pypy|php|ruby|lua)[\d.]+\Z")


def language_of(name: str) -> str | None:
    """Return the language of a command by its name: `python3.11` -> python, `dash` -> bash."""
    found = _VERSIONED.match(name)
    return LANGUAGES.get(found[1] if found else name)


def interpreted(language: str, words: Words) -> list[Inner]:
    """Return the program that an interpreter with these words runs.

    It is the text of a word, a file, or standard input.
    """
    if language in ("powershell", "cmd"):
        return (
            [InnerText(f"{language}-line", "\n".join(words[1:]))]
            if len(words) > 1
            else [Standard(language)]
        )
    at, code = 1, False
    while (
        at < len(words) and words[at] != "--" and words[at][:1] in ("-", "+") and len(words[at]) > 1
    ):
        word = words[at]
        if language == "python" and word == "-m":
            return []
        attached = _attached(language, word)
        if attached is not None:
            return [InnerText(language, attached, tuple(words[at + 1 :]))]
        code = code or _is_code(language, word)
        if language == "bash" and word == "-s":
            return [Standard(language, tuple(w for w in words[at + 1 :] if w != "--"))]
        at += 2 if not code and _takes_value(language, word) else 1
        if code and language != "bash":
            break
    rest = words[at + 1 :] if words[at : at + 1] == ("--",) else words[at:]
    if code:
        return [_coded(language, tuple(rest))] if rest else [Standard(language)]
    return (
        [File(language, rest[0], tuple(rest[1:]))]
        if rest and rest[0] != "-"
        else [Standard(language, tuple(rest[1:]))]
    )


def _coded(language: str, rest: tuple[str, ...]) -> InnerText:
    """Return the text of `sh -c TEXT NAME ARGUMENTS`; elsewhere the arguments follow at once."""
    if language == "bash":
        return InnerText(language, rest[0], rest[2:], rest[1] if len(rest) > 1 else None)
    return InnerText(language, rest[0], rest[1:])


def _is_code(language: str, word: str) -> bool:
    if word.startswith("--"):
        return word in _LONG_CODE
    letters = _CODE[language]
    if language == "bash":  # it accepts its letters in any order
        return letters in word and re.fullmatch(r"-\w+", word) is not None
    # The program follows the letter, and -M, -I and -W are names.
    return re.fullmatch(rf"-(?![MImW])\w*[{letters}]", word) is not None


def _takes_value(language: str, word: str) -> bool:
    return word in _LONG_VALUED if word.startswith("--") else word[-1] in _VALUED[language]


def _attached(language: str, word: str) -> str | None:
    """Return a program attached to its letter: `python -cimport os`."""
    attached = language in ("python", "perl") and len(word) > 2 and word[1] in _CODE[language]
    return word[2:] if attached else None
