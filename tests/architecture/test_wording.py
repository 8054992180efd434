"""The rules for plain words hold in the source, and the checker finds violations."""

from __future__ import annotations

import ast

import pytest

from architecture.tree import ROOT, modules
from architecture.wording import (
    check_class_names,
    check_source,
    import_depth,
    imports_of,
)

IMPORT_DEPTH_MAX = 15


def test_the_words_of_the_source_are_plain() -> None:
    found = [
        str(finding)
        for path in modules()
        for finding in check_source(path, (ROOT / path).read_text())
    ]
    assert found == []


def test_each_class_has_a_name_of_its_own() -> None:
    assert [str(finding) for finding in check_class_names(modules())] == []


def test_imports_are_not_deep() -> None:
    chain = import_depth(imports_of(modules()))
    assert len(chain) <= IMPORT_DEPTH_MAX, " > ".join(chain)


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ('"""What is awaited."""', "opening"),
        ('"""Who may do it."""', "opening"),
        ('def a():\n    """Whether it is open."""', "opening"),
        ('"""' + "Return " + "a" * 88 + '."""', "long first line"),
        ('"""Return the sum"""', "unfinished first line"),
        ('"""Return the sum, as he wants it."""', "person"),
        ("x = 1  # nobody reads it", "person"),
        ('raise ValueError("somebody else has it")', "person"),
        ('"""Return the sum; None where there is none."""', "where for if"),
        ("def told(): ...", "name of a function"),
        ("def _known(): ...", "name of a function"),
        ("def is_url(text: str) -> str: ...", "predicate"),
        ("x = 1 if a else (2 if b else 3)", "nested conditional expression"),
        ("x = [y for z in a if (y := z)]", "walrus in a comprehension"),
        ("x = " + '"a"' * 40, "long line"),
        ("x = max(\n    1, 2\n)  # why", "comment behind a bracket"),
        ("a, b = (\n    1,\n    2,\n)", "broken tuple"),
    ],
)
def test_the_checker_finds(source: str, rule: str) -> None:
    assert rule in {finding.rule for finding in check_source("a.py", source)}


@pytest.mark.parametrize(
    "source",
    [
        '"""Return the sum."""\n\nx = 1  # the limit of the server',
        "def parse(text): ...",
        "class A:\n    @property\n    def told(self): ...",
        "x = 1 if a else 2",
        "if (y := z): ...",
        'x = "he"',
        '"""Return the directory where the keys are."""',
    ],
)
def test_the_checker_accepts(source: str) -> None:
    assert list(check_source("a.py", source)) == []


def test_two_classes_of_one_name_are_found() -> None:
    sources = {"a.py": ast.parse("class A: ..."), "b.py": ast.parse("class A: ...\nclass B: ...")}
    assert [(f.path, f.text) for f in check_class_names(sources)] == [("a.py", "A"), ("b.py", "A")]


def test_the_longest_chain_of_imports_is_found() -> None:
    sources = {
        "src/x/a.py": ast.parse("from x.b import f\nfrom x import c"),
        "src/x/b.py": ast.parse("import x.c"),
        "src/x/c.py": ast.parse(""),
    }
    assert import_depth(imports_of(sources)) == ["src/x/a.py", "src/x/b.py", "src/x/c.py"]
