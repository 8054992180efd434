"""Patterns: the same results as Python's if both support them, and none that takes forever."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from opsjobs.model.pattern import MatchBudget, Pattern, TooMuchWork, pattern

ATOMS = [
    "a",
    "b",
    "c",
    ".",
    "[ab]",
    "[^a]",
    r"\w",
    r"\d",
    r"\s",
    r"\S",
    r"\.",
    "[a-c1-3]",
    r"[\d_]",
    "(?:ab)",
    "()",
]
PLACES = ["^", "$(?![\\s\\S])", r"\b", r"\B"]


REPEATS = ["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"]


@some.composite
def patterns(draw: some.DrawFn, depth: int = 2) -> str:
    """Patterns with the same meaning in Python's dialect and ours.

    None repeats repetitions, for which Python's engine takes years.
    """
    parts: list[str] = []
    for _ in range(draw(some.integers(1, 4))):
        inner = depth and draw(some.booleans())
        atom = f"({draw(patterns(depth - 1))})" if inner else draw(some.sampled_from(ATOMS))
        repeats = "()" in atom or not set("*+?{").isdisjoint(atom)
        parts.append(
            atom + draw(some.sampled_from(["", "?"] if inner and repeats else ["", "", *REPEATS]))
        )
    text = "".join(parts)
    return f"{text}|{draw(some.sampled_from(ATOMS))}" if draw(some.booleans()) else text


@settings(derandomize=True)
@given(patterns(), some.text("abc1_. \n", max_size=8))
@example("(a*)*", "aaab")
@example("((a|b)+c?)*b", "abcabb")
@example("(()*a?)*", "aab")
@example("((a{1,2}){2}b*)+", "aabaaa")
def test_a_pattern_gives_pythons_answers(text: str, subject: str) -> None:
    theirs = re.compile(text, re.ASCII)
    ours = Pattern(text)
    assert ours.matches(subject) == (theirs.search(subject) is not None)
    assert ours.fits(subject) == (theirs.fullmatch(subject) is not None)


@pytest.mark.parametrize(
    ("text", "subject", "matches"),
    [
        ("^b", "ab", False), ("^b", "a\nb", False), ("(?m)^b", "a\nb", True), ("a$", "ab", False), ("a$", "a\n", False),
        ("(?m)a$", "a\nb", True), (r"\bfoo\b", "a foo!", True), (r"\bfoo\b", "food", False), (r"o\B", "food", True),
        ("(?i)Ä", "xäx", True), ("(?s)a.b", "a\nb", True), ("a.b", "a\nb", False), ("[]a]", "]", True), ("[a-]", "-", True),
        ("[^]]", "]", False), ("{", "{", True), ("a{,2}", "a{,2}", True), (r"\x41é", "Aé", True), (r"[^\D3]", "3", False),
        (r"[^\D3]", "4", True), (r"\Aab\z", "ab", True),
    ],
)  # fmt: skip
def test_each_form_of_the_dialect(text: str, subject: str, matches: bool) -> None:
    assert Pattern(text).matches(subject) is matches


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a**", "repeated"), ("(a", "missing"), ("[a", "missing"), (r"(a)\1", "linear time"), ("a(?=b)", "only supported as"),
        ("(?P<n>a)", "only supported as"), ("a{1001}", "not a range"), ("a{3,2}", "not a range"), ("((a{99}){99}){99}", "repeats too much"),
        ("\\", "backslash"), ("+a", "nothing before"), ("a)", "closes nothing"), ("[z-a]", "no order"), ("(" * 99, "deep"),
        (r"\q", "means nothing"), ("a" * 1_001, "limit"), (r"\xZ", "hexadecimal"),
    ],
)  # fmt: skip
def test_what_is_no_pattern_of_ours_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pattern(text)


@pytest.mark.parametrize(
    "text", ["(a*)*b", "(a|aa)+$b", "(a|a|a|a)*b", "((a+)+)+b", "(.*)*x(.*)*y"]
)
def test_what_takes_others_forever_ends(text: str) -> None:
    assert not Pattern(text).matches("a" * 5_000)


def test_many_states_are_forgotten_and_nothing_is_lost() -> None:
    made = Pattern("(a|b)*a(a|b){250}c")
    subject = "".join("ab"[(n * n) % 7 % 2] for n in range(3_000))
    assert not made.matches(subject)
    assert made.matches(subject + "a" + "b" * 250 + "c")


def test_one_text_is_compiled_once() -> None:
    assert pattern("^x+$") is pattern("^x+$")


MANY_STATES = "[ab]*a[ab]{1000}[ab]{1000}"
LETTERS = "".join(random.Random(1).choices("ab", k=32_768))


@pytest.mark.parametrize("ask", [Pattern.fits, Pattern.matches])
def test_what_can_go_on_in_thousands_of_ways_at_a_time_is_given_up(ask: Any) -> None:
    with pytest.raises(TooMuchWork, match="takes too long with this text"):
        ask(Pattern(MANY_STATES), LETTERS + "c")


def test_the_work_of_many_texts_is_counted_together() -> None:
    work, wanted = MatchBudget(), Pattern("[ab]*a[ab]{200}")
    pieces = [LETTERS[start : start + 1_000] for start in range(0, 32_000, 1_000)]
    wanted.fits(pieces[0], work)
    with pytest.raises(TooMuchWork):
        [wanted.fits(piece, work) for piece in pieces]


def test_what_was_looked_at_before_costs_no_work() -> None:
    wanted, work = Pattern("[a-z]+(-[a-z]+)*"), MatchBudget()
    assert wanted.fits("web-server", work)
    left = work.left
    assert wanted.fits("web-server", work)
    assert work.left == left


def test_a_large_state_costs_no_more_per_character_than_a_small_one() -> None:
    def seconds(made: Pattern) -> float:
        begun = time.process_time()
        assert not made.matches("a" * 100_000)
        return time.process_time() - begun

    small, large = Pattern("a?b"), Pattern("((a?){40}){40}b")
    least_of_large, least_of_small = (min(seconds(one) for _ in range(3)) for one in (large, small))
    assert least_of_large < 10 * least_of_small


@pytest.mark.parametrize("empty", ["(a{0})", "()", "(|)"])
def test_nothing_repeated_without_end_is_no_pattern(empty: str) -> None:
    for _ in range(6):
        empty = f"({empty}{{1000}})"
    with pytest.raises(ValueError, match="repeats too much"):
        Pattern(empty)
