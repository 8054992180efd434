"""The targets of references in pages exist: links, files, tests, contracts."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from docs.pages import ROOT, coded, pages

PAGES = [str(page.relative_to(ROOT)) for page in pages()]
_LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")
_FILE = re.compile(r"(?:src|tests|docs|scripts|bench)/[\w./-]*\w")
_PAGE = re.compile(r"\bdocs/[\w/-]+\.md\b|\b\d+-[a-z]+\.md\b")
# `engine/launching/launch.py`, `remote/spool/`
_SOURCE = re.compile(r"(?<![\w/])(?:[a-z_]+/)*[a-z_]+(?:\.py|/(?![\w{]))")
_TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")
_CONTRACT = re.compile(r"importlinter:contract:([\w-]+)")


def text(page: str) -> str:
    return (ROOT / page).read_text()


def test_pages_that_the_source_names_exist() -> None:
    named = {
        (str(path.relative_to(ROOT)), page)
        for path in (ROOT / "src").rglob("*.py")
        for page in _PAGE.findall(path.read_text())
    }
    assert [(path, page) for path, page in sorted(named) if not (ROOT / page).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert [link for link in _LINK.findall(text(page)) if not leads_somewhere(page, link)] == []


def leads_somewhere(page: str, link: str) -> bool:
    """True if the file of a link exists and, if the link names an anchor, has such a heading."""
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


def anchors(page_text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub creates them."""
    prose = re.sub(r"^```.*?^```", "", page_text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    named = {
        word.partition("::")[0].rstrip("/")
        for code in coded(text(page))
        for word in [code]
        if _FILE.match(code)
    }
    gone = sorted(
        n for n in named if re.fullmatch(_FILE, n) and "000N" not in n and not (ROOT / n).exists()
    )
    assert gone == []


def test_the_map_names_what_is_there() -> None:
    source = ROOT / "src/opsjobs"
    blocks = re.findall(r"^```text\n(.*?)^```", text("ARCHITECTURE.md"), re.MULTILINE | re.DOTALL)
    paths = [path for block in blocks for path in _SOURCE.findall(block)]
    assert len(paths) > 40
    # A name without a folder is next to the file that its line begins with.
    folders = [source, *(folder for folder in source.iterdir() if folder.is_dir())]
    assert [p for p in paths if not any((folder / p).exists() for folder in folders)] == []


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_exist(page: str) -> None:
    gone = [
        f"{file}::{name}"
        for file, name in _TEST.findall(text(page))
        if not _has_test(ROOT / file, name)
    ]
    assert gone == []


@pytest.mark.parametrize("page", PAGES)
def test_contracts_that_are_named_exist(page: str) -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    assert [
        c for c in _CONTRACT.findall(text(page)) if f"importlinter:contract:{c}" not in contracts
    ] == []


def test_constraints_that_decisions_name_are_in_the_schema() -> None:
    schema = "".join(
        p.read_text() for p in (ROOT / "src/opsjobs/store/migrations/versions").glob("*.sql")
    )
    page = text("docs/decisions/0002-states-change-by-guarded-transitions.md")
    named = re.search(r"The constraints (.+?) in `src", page)
    assert named is not None
    assert [c for c in coded(named[1]) if not re.search(rf"constraint {c}\s", schema)] == []


def test_every_decision_says_how_it_is_enforced() -> None:
    decisions = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    numbers = [int(d.name[:4]) for d in decisions]
    assert numbers == sorted(set(numbers))
    for decision in decisions:
        told = decision.read_text()
        assert told.startswith(f"# {int(decision.name[:4])}. ")
        for part in ("Context", "Decision", "Rejected", "Enforced by"):
            assert f"**{part}.**" in told, f"{decision.name} lacks {part}"
        assert _TEST.search(told) or "importlinter:contract" in told, (
            f"{decision.name} names no check"
        )


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_sober(page: str) -> None:
    prose = re.sub(r"`[^`]*`|^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\w!(?:\s|$)", prose) == []


def _has_test(file: Path, name: str) -> bool:
    return (
        file.exists()
        and re.search(rf"^(?:async )?def {name}\(", file.read_text(), re.MULTILINE) is not None
    )


PICTURE_BYTES_MAX = 80_000


def test_pictures_are_there_in_both_themes_and_small() -> None:
    page = ROOT / "docs/concepts/console-tour.md"
    named = re.findall(r'(?:src|srcset)="([^"]+)"', page.read_text())
    files = {(page.parent / name).resolve() for name in named}
    assert files == set((ROOT / "docs/images").rglob("*.webp"))
    assert len(files) == 2 * page.read_text().count("<picture>") > 20
    assert [file.name for file in files if file.stat().st_size > PICTURE_BYTES_MAX] == []
