"""The project's pages: their paths, samples, and the words in their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\S*)[ \t]*([^\n]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Sample:
    """A fenced block: its language, the note after it (`POST /jobs`), and its line."""

    page: str
    line: int
    language: str
    note: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return every page for people, README first."""
    return [
        *sorted(ROOT.glob("*.md"), key=lambda p: (p.name != "README.md", p.name)),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def read(name: str) -> str:
    """Return the text of a page by its path from the root."""
    return (ROOT / name).read_text()


def samples(name: str, language: str) -> list[Sample]:
    """Return the samples of a page in one language, in order."""
    text = read(name)
    return [
        Sample(name, text.count("\n", 0, m.start()) + 1, m[1], m[2].strip(), m[3])
        for m in _FENCE.finditer(text)
        if m[1] == language
    ]


def all_samples(language: str) -> list[Sample]:
    """Return the samples of all pages in one language."""
    return [sample for page in pages() for sample in samples(str(page.relative_to(ROOT)), language)]


def prose(name: str) -> str:
    """Return a page without its samples."""
    return _FENCE.sub("", read(name))


def rows(name: str) -> Iterator[list[str]]:
    """Return the cells of every table row of a page, without headings and rulers."""
    for line in prose(name).splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def coded(text: str) -> list[str]:
    """Return the texts between backticks."""
    return _CODE.findall(text)


def first_column(name: str) -> list[str]:
    """Return the names in the first cells of a page's tables."""
    return [word for row in rows(name) for word in coded(row[0])]


def headings(name: str, level: int) -> list[str]:
    """Return the headings of one level, without backticks."""
    return [
        m.replace("`", "") for m in re.findall(rf"^{'#' * level} (.+)$", prose(name), re.MULTILINE)
    ]


def section(name: str, heading: str) -> str:
    """Return the prose and tables under a heading, up to the next one."""
    _, _, after = prose(name).partition(f"\n{heading}\n")
    return re.split(r"^#", after, maxsplit=1, flags=re.MULTILINE)[0]
