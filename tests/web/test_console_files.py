"""/console/: files, headers, deep links, and the page of an installation without the console."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from opsjobs.web.console import CONTENT_SECURITY_POLICY, ConsoleFiles, ConsoleMiddleware

SCRIPT = "main-A1B2C3D4.js"
HTML = {"Accept": "text/html,application/xhtml+xml"}


async def _api(scope: Scope, receive: Receive, send: Send) -> None:
    """The application behind the console: it answers 401 to everything."""
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": b"api"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("<!doctype html><title>opsjobs</title>")
    (tmp_path / SCRIPT).write_text("console.log(1);" * 200)
    (tmp_path / ".stamp").write_text("secret of the build")
    return tmp_path


def client(folder: Path) -> httpx2.AsyncClient:
    app: Any = ConsoleMiddleware(_api, ConsoleFiles(folder))
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://here")


async def test_any_deep_link_gives_the_index_and_asks_again_each_time(folder: Path) -> None:
    async with client(folder) as http:
        for path in ("/console/", "/console/executions/7", "/console/targets/web-1.example.org"):
            answer = await http.get(path, headers=HTML)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
            assert "<title>opsjobs</title>" in answer.text
            assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "camera=()" in answer.headers["permissions-policy"]
        again = await http.get("/console/", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_a_hashed_file_is_immutable_and_compressed(folder: Path) -> None:
    async with client(folder) as http:
        answer = await http.get(f"/console/{SCRIPT}", headers={"Accept-Encoding": "gzip"})
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.text == "console.log(1);" * 200
        plain = await http.get(f"/console/{SCRIPT}", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert len(plain.content) > len(gzip.compress(plain.content))


@pytest.mark.parametrize(
    "path",
    [
        "/console/main-00000000.js",
        "/console/.stamp",
        "/console/..%2f..%2fconsole.py",
        "/console/%2e%2e/console.py",
    ],
)
async def test_a_file_that_is_not_of_the_console_is_not_there(folder: Path, path: str) -> None:
    async with client(folder) as http:
        answer = await http.get(path, headers={"Accept": "*/*"})
        assert answer.status_code in (401, 404)
        assert "secret" not in answer.text


async def test_the_root_leads_browsers_to_the_console_and_others_to_the_api(folder: Path) -> None:
    async with client(folder) as http:
        browser = await http.get("/", headers=HTML)
        assert (browser.status_code, browser.headers["location"]) == (307, "/console/")
        assert (await http.get("/console")).headers["location"] == "/console/"
        for headers in ({"Accept": "application/json"}, {"Accept": "*/*"}):
            assert (await http.get("/", headers=headers)).text == "api"
        assert (await http.post("/", headers=HTML)).text == "api"
        assert (await http.get("/consoles", headers=HTML)).text == "api"
        assert (await http.get("/api/v1/console/", headers=HTML)).text == "api"
        assert (await http.post("/console/")).status_code == 405


async def test_an_installation_without_the_console_says_how_to_build_it(tmp_path: Path) -> None:
    async with client(tmp_path) as http:
        answer = await http.get("/console/executions/7", headers=HTML)
        assert answer.status_code == 503
        assert "The console was not built" in answer.text
        assert "OPSJOBS_CONSOLE=required" in answer.text


async def test_a_new_build_is_served_without_a_restart(folder: Path) -> None:
    async with client(folder) as http:
        assert "opsjobs" in (await http.get("/console/", headers=HTML)).text
        (folder / "index.html").write_text("<title>newer</title>")
        (folder / SCRIPT).rename(folder / "main-E5F6A7B8.js")
        assert "newer" in (await http.get("/console/", headers=HTML)).text
        assert (await http.get(f"/console/{SCRIPT}")).status_code == 404
        assert (await http.get("/console/main-E5F6A7B8.js")).status_code == 200


ENTRY_BYTES_MAX = 60_000
VIEW_BYTES_MAX = 90_000
PAGES_BYTES_MAX = 200_000


def test_the_built_pages_are_within_their_budgets() -> None:
    files = ConsoleFiles()
    index = files.index()
    if index is None:
        pytest.skip("the console was not built: scripts/console build")
    html = index.content.decode()
    loaded = re.findall(r'(?:src|href)="/console/([^"]+)"', html)
    entry = _sizes(files, loaded)
    assert sum(entry.values()) <= ENTRY_BYTES_MAX, entry
    pages = [page for name in entry for page in _opened(files, name)]
    assert len(pages) > 20
    views = [_sizes(files, [*entry, page]) for page in pages]
    for view in views:
        assert sum(view.values()) <= VIEW_BYTES_MAX, view
    shown = {name: size for view in views for name, size in view.items()}
    assert sum(shown.values()) <= PAGES_BYTES_MAX, shown


def _sizes(files: ConsoleFiles, names: list[str]) -> dict[str, int]:
    """Return the compressed size of these files and of everything that they import statically."""
    loaded = {*names, *_imported(files, names)}
    return {name: len(gzip.compress(_content(files, name))) for name in loaded}


def _opened(files: ConsoleFiles, name: str) -> set[str]:
    """Return the files that a script loads when a page is opened."""
    return set(re.findall(r'import\("\./([^"]+\.js)"\)', _content(files, name).decode()))


def _imported(files: ConsoleFiles, names: list[str]) -> set[str]:
    """Return the static imports of a script, with theirs."""
    found: set[str] = set()
    waiting = [name for name in names if name.endswith(".js")]
    while waiting:
        source = _content(files, waiting.pop()).decode()
        new = set(re.findall(r'(?:from|import)"\./([^"]+\.js)"', source)) - found
        found |= new
        waiting += new
    return found


def _content(files: ConsoleFiles, name: str) -> bytes:
    file = files.get(name)
    assert file is not None, name
    return file.content
