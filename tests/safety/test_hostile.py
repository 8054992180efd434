"""Hostile texts get a verdict within the budget of steps and the sandbox's limits.

These are limits of time and memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsjobs.model.safety_verdict import SafetyVerdict, worst
from opsjobs.safety import Context, SafetyQuestion
from opsjobs.safety.budget import CHARACTERS_MAX, Spent, filled_in, replaced
from opsjobs.safety.check import traced
from opsjobs.safety.paths import collapse_stars, compile_glob, compile_prefix, may_be, wildcards
from opsjobs.safety.rulebook import rulebook
from opsjobs.safety.symbolic_words import ANY, STAR, join_parts
from opsjobs.sandbox.pool import SafetyCheckPool
from safety import hostile

SAFETY_POOL = SafetyCheckPool()
"""One pool for all tests:

it starts its first process for the first text, and ends with this process.
"""
# Texts that grow, each step from the one before, and texts that are read at each letter again.
BOMBS = {
    "stars": ("sh", "rm " + "*" * 400),
    "stars and letters": ("sh", "rm /" + "a*" * 5_000),
    "stars in a name": ("sh", "*" * 5_000 + "m -rf /"),
    "a parameter of stars": (
        "sh",
        "export OPSJOBS_PARAM_P='" + "*" * 1_500 + "'\nrm -f $OPSJOBS_PARAM_P",
    ),
    "stars in an expansion": (
        "sh",
        "X=" + "a" * 200 + "\nrm ${X%%" + "*a" * 60 + "b} ${X##" + "*a" * 60 + "b} ${X//a*a*a*b/x}",
    ),
    "variables of variables": (
        "sh",
        "A=aaaaaaaaaa\nB=" + "$A" * 100 + "\nC=" + "$B" * 100 + "\nD=" + "$C" * 100 + "\nrm $D",
    ),
    "braces": ("sh", "rm {" + "," * 32_000 + "}" + "x" * 32_000),
    "set and shift": ("sh", "set -- a;shift\n" * 4_000),
    "sed": ("sh", "echo " + "a" * 30_000 + " | sed s/a/" + "b" * 30_000 + "/g | sh"),
    "xargs": ("sh", "echo " + "a" * 30_000 + " | xargs -I{} rm " + "{}" * 15_000),
    "parallel": ("sh", "parallel rm " + "{}" * 15_000 + " ::: " + "a" * 30_000),
    "find": ("sh", "find " + "a " * 500 + "-exec x " * 500),
    "printf": ("sh", "printf '%" + "0" * 60_000 + "'"),
    "an option": ("sh", "sh -" + "c" * 60_000 + "!"),
    "sudo": ("sh", "sudo -" + "E" * 60_000 + "!"),
    "awk": ("sh", "awk '" + '\\"' * 30_000 + "'"),
    "a pipeline without an end": ("sh", "rev|" * 16_000),
    "make": ("sh", "make -f - <<E\n$(shell" + " " * 60_000 + "\nE"),
    "PowerShell's texts": (
        "powershell",
        "$a='" + "x" * 999 + "'\n$b=\"" + "$a" * 9_999 + '"\n$c="' + "$b" * 9_999 + '"\niex $c',
    ),
    "Python's replace": (
        "python",
        "import os\na='" + "a" * 30_000 + "'\nb=a.replace('a',a)\nos.system(b)",
    ),
    "Python's lists": ("python", "import os\na=['x']\n" + "a=[*a,*a]\n" * 2_000 + "os.system(a)"),
    "Python's times": ("python", "import os\na='x'\n" + "a=a*9999\n" * 5_000 + "os.system(a)"),
    "Perl's words": ("perl", "open " * 12_000),
    "Perl's blanks": ("perl", "while" + " " * 60_000),
    "Perl's variables": (
        "perl",
        "$a='x';"
        + "".join(f'${b}="{f"${a}" * 900}";' for a, b in ("ab", "bc", "cd", "de"))
        + "system($e)",
    ),
    "Node's brackets": ("node", "let[" * 16_000),
    "Node's templates": ("node", "exec(`${" + " " * 60_000),
    "lines of nothing": ("cmd", "\n" * 60_000),
    "cmd's variables": ("cmd", "set x=" + "y" * 30_000 + "\ndel " + "%x%" * 10_000),
}


async def answers(asked: Iterable[tuple[str, str]]) -> list[str]:
    """Return those without a verdict."""
    failed: list[str] = []
    for interpreter, text in asked:
        for finding in await SAFETY_POOL.check(SafetyQuestion(interpreter, text, Context())):
            if finding.rule == "unjudged":
                failed.append(f"{interpreter} {text[:40]!r} … {text[-20:]!r}: {finding.reason}")
    return failed


@pytest.mark.parametrize("name", BOMBS)
async def test_what_grows_or_is_read_again_and_again_is_answered(name: str) -> None:
    assert await answers([BOMBS[name]]) == []


@pytest.mark.parametrize("interpreter", hostile.ATOMS)
async def test_runs_of_whatever_a_language_has_are_answered(interpreter: str) -> None:
    assert await answers(one for one in hostile.runs() if one[0] == interpreter) == []


@pytest.mark.parametrize("seed", range(4))
async def test_mixes_and_nests_are_answered(seed: int) -> None:
    assert await answers(hostile.texts(seed, 60)) == []


@pytest.mark.parametrize("seed", [10, 11])
def test_no_reader_fails_at_them(seed: int) -> None:
    for interpreter, text in hostile.texts(seed, 40):
        traced(interpreter, text[:4_000])  # the check would turn an error of ours into an approval


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text("ab*?./", max_size=12), st.text("ab./", max_size=12))
def test_a_glob_matches_what_it_says(glob: str, text: str) -> None:
    word = glob.replace("*", STAR).replace("?", ANY)
    found = compile_glob(word)
    assert found is not None
    slow = re.compile(
        "".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in glob), re.DOTALL
    )
    assert (found.fullmatch(text) is not None) == (slow.fullmatch(text) is not None)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text("ab*?", max_size=10), st.text("ab/", max_size=10))
def test_a_beginning_is_the_shortest_or_the_longest(glob: str, text: str) -> None:
    word = glob.replace("*", STAR).replace("?", ANY)
    ends = [n for n in range(len(text) + 1) if fnmatchcase(text[:n], glob)]
    for longest, end in ((False, min(ends, default=None)), (True, max(ends, default=None))):
        found = compile_prefix(word, longest=longest).match(text)
        assert (None if found is None else found.end()) == end


def test_runs_of_wildcards_are_one() -> None:
    word = f"a{STAR}{ANY}{STAR}{STAR}b{ANY}{ANY}"
    assert (collapse_stars(word), wildcards(word)) == (f"a{ANY}{STAR}b{ANY}{ANY}", 2)
    assert may_be("/e" + STAR * 500, ("/etc",))
    assert not may_be("/e" + f"{STAR}x" * 500, ("/etc",))


@pytest.mark.parametrize(
    "words", ["rm /etc/" + "a*" * 17, "echo x > " + "b?" * 20, "cp " + "[ab]*x" * 17 + " /srv"]
)
async def test_a_word_with_too_many_wildcards_needs_an_approval(words: str) -> None:
    found = await SAFETY_POOL.check(SafetyQuestion("sh", words, Context()))
    assert worst(finding.severity for finding in found).rank >= SafetyVerdict.NEEDS_APPROVAL.rank
    assert "too-many-wildcards" in {finding.rule for finding in found}


def test_texts_that_are_put_together_have_a_limit() -> None:
    half = "a" * (CHARACTERS_MAX // 2)
    assert replaced("xx", "x", half) == half * 2
    assert filled_in("%s-%s %s", "%s", ["a", "b"]) == "a-b %s"
    assert join_parts([["a"], ["b", "c"]]) == ["ab", "ac"]
    for grows in (
        lambda: replaced("xxx", "x", half),
        lambda: filled_in("{}{}{}", "{}", [half] * 3),
        lambda: join_parts([[half]] * 3),
    ):
        with pytest.raises(Spent):
            grows()


def test_an_expression_of_a_rule_looks_no_further_than_so_far() -> None:
    """A search that starts at every letter must not read to the end from each of them."""
    endless = re.compile(r"(?<!\\)\.(?:[*+]|\{\d+,\})(?!\+)")
    wrong = {
        rule.name: found[0]
        for rule in rulebook().rules
        for match in rule.matches
        if match.says is not None
        and not match.says.pattern.startswith(("(?:^", r"(?:\A"))
        and (found := endless.search(match.says.pattern)) is not None
    }
    assert wrong == {}
