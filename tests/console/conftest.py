"""One service with a lab and one browser for all tests of the console."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from console.browser import (
    DESKTOP,
    BrowserThread,
    Visitor,
    find_chromium,
    log_in,
    opened,
    tab,
)
from kit.backing_servers import memory, open_folder
from kit.openid_provider import CLIENT, SECRET, Provider, openid_provider
from kit.opsjobs_processes import UpProcess, opsjobs_up
from kit.ports import free_port
from opsjobs.web.console import ConsoleFiles

MACHINES = 6
PASSWORD = "correct horse battery"
PEOPLE: dict[str, dict[str, Any]] = {
    "vic": {"role": "viewer"},
    "max": {"role": "manager"},
    "root": {"role": "admin"},
    # For the attacks: pages of other sites act as rita, and pam changes her password.
    "rita": {"role": "admin"},
    "pam": {"role": "admin"},
    # Her logins are ended, in all tabs.
    "una": {"role": "viewer"},
    # With a scope: objects without labels are outside of it.
    "sam": {"role": "operator", "scope": "lab=true"},
    "lea": {"permissions": ["jobs:read", "jobs:execute", "executions:retry"]},
    # Sees what others launch, and launches stored jobs only.
    "cleo": {
        "permissions": [
            *("jobs:read", "targets:read", "executions:read", "jobs:execute", "executions:retry")
        ]
    },
    # Runs commands, but sees no targets to choose and no jobs.
    "kit": {"permissions": ["commands:run", "executions:read", "executions:retry"]},
}
"""Users who log in with a password, by their grants."""
ENDED_SECONDS = 60
CONFIRMED_SECONDS = 300
"""Half of the time in which a login needs no confirmation."""


_GATES = itertools.count(1)


@dataclass(frozen=True)
class Gate:
    """The files for which commands wait on the machines of the lab.

    They share the files of this machine.
    """

    path: Path

    @property
    def wait(self) -> str:
        """Return the command that ends once the gate is open."""
        return f"until [ -e {self.path} ]; do sleep 0.3; done"

    def open(self) -> None:
        """Let them continue."""
        self.path.touch()


@dataclass
class Stack:
    """The service, and its API as admin."""

    service: UpProcess
    url: str
    token: str
    http: httpx2.Client

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the response of the API; a refusal fails the test."""
        answer = self.http.request(method, path, json=body)
        assert answer.status_code < 400, f"{method} {path}: {answer.text}"
        return answer.json() if answer.content else None

    def launch(self, command: str, **more: Any) -> dict[str, Any]:
        """Launch a command on all machines of the lab."""
        actions = [{"type": "command", "command": command}]
        body = {"actions": actions, "targets": {"selector": "lab=true"}, **more}
        made: dict[str, Any] = self.call("POST", "/run", body)
        return made

    def run(self, command: str, **more: Any) -> dict[str, Any]:
        """Launch it the same way; return it once it has ended."""
        made = self.launch(command, **more)
        answer = self.http.get(f"/executions/{made['id']}/events", timeout=ENDED_SECONDS)
        assert answer.status_code == 200
        ended: dict[str, Any] = self.call("GET", f"/executions/{made['id']}")
        return ended

    def gate(self) -> Gate:
        """Return a closed gate."""
        return Gate(self.service.data.parent / f"gate-{next(_GATES)}")

    def twin(self, machine: str, name: str, labels: dict[str, str]) -> None:
        """Add a target with another name that is a machine of the lab."""
        (lab,) = self.call("GET", f"/targets?name={machine}")["items"]
        way = {key: lab[key] for key in ("host", "port", "credential", "host_keys")}
        self.call("POST", "/targets", {"name": name, "labels": labels, **way})


@pytest.fixture(scope="session")
def browser() -> Iterator[BrowserThread]:
    """The installed Chromium."""
    program = find_chromium()
    if program is None:
        pytest.skip("the console is tested with Chromium: apt-get install chromium")
    if ConsoleFiles().index() is None:
        pytest.skip("the console was not built: scripts/console build")
    found = BrowserThread(program)
    yield found
    found.close()


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """The OpenID Connect provider of the service."""
    with openid_provider() as found:
        yield found


@pytest.fixture(scope="session")
def stack(browser: BrowserThread, provider: Provider) -> Iterator[Stack]:
    """A service with machines, which all tests share: objects that a test creates stay."""
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    provider.redirect_uris = {f"{public}/api/v1/auth/oidc/callback"}
    settings = {
        "OPSJOBS_PUBLIC_URL": public,
        "OPSJOBS_JWT_ISSUER": provider.url,
        "OPSJOBS_JWT_NAME_CLAIM": "preferred_username",
        "OPSJOBS_OIDC_CLIENT_ID": CLIENT,
        "OPSJOBS_OIDC_CLIENT_SECRET": SECRET,
        "OPSJOBS_OIDC_LABEL": "Log in with Example ID",
        # A receiver of webhooks: the server of the provider.
        "OPSJOBS_WEBHOOK_ALLOW": "127.0.0.1/32",
    }
    with (
        open_folder(memory()) as folder,
        opsjobs_up(
            *(folder / "data", "--lab", str(MACHINES), "--port", str(port)), settings=settings
        ) as service,
    ):
        url = (service.data / "endpoint").read_text().strip()
        token = (service.data / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with httpx2.Client(base_url=f"{url}/api/v1", headers=headers, timeout=30) as http:
            yield Stack(service, url, token, http)


Visit = Callable[..., AbstractContextManager[Visitor]]


@dataclass
class Logins:
    """A page for each person, which keeps fetched and compiled files for the next visit."""

    browser: Browser
    pages: dict[str, Page] = field(default_factory=dict)
    begun_at: dict[str, float] = field(default_factory=dict)

    def page(self, who: str, begin: Callable[[BrowserContext], None]) -> Page:
        """Return the page of a person, logged in recently."""
        now = time.monotonic()
        if who not in self.pages:
            self.pages[who] = self.browser.new_context(reduced_motion="reduce").new_page()
        if now - self.begun_at.get(who, -math.inf) > CONFIRMED_SECONDS:
            begin(self.pages[who].context)
            self.begun_at[who] = now
        return self.pages[who]


@pytest.fixture(scope="session")
def logins(browser: BrowserThread) -> Iterator[Logins]:
    """The pages of all tests."""
    found = Logins(browser.browser)
    yield found
    browser.run(lambda: [page.context.close() for page in found.pages.values()])


@pytest.fixture
def visit(browser: BrowserThread, stack: Stack, logins: Logins) -> Visit:
    """Return a function to visit pages.

    `with visit(theme="dark", size=PHONE, person="vic") as vic: …`; an admin without a role, token
    or person. All visits of a person have one page with one login. `apart`: a page of its own, to
    which scripts may be added. `alone`: a login of its own, too, whose clock and cookies may be
    changed.
    """

    @contextmanager
    def visiting(
        *,
        theme: str = "light",
        size: tuple[int, int] = DESKTOP,
        role: str | None = None,
        token: str | None = None,
        person: str | None = None,
        apart: bool = False,
        alone: bool = False,
    ) -> Iterator[Visitor]:
        token = token or (stack.token if role is None else _token_of(stack, role))
        begin = (
            partial(log_in, url=stack.url, token=token)
            if person is None
            else partial(_log_in_with_password, stack=stack, name=person)
        )
        if alone:
            with opened(browser.browser, stack.url, begin, theme=theme, size=size) as found:
                yield found
            return
        page = logins.page(person or token, begin)
        given = None if apart else page
        with tab(page.context, stack.url, theme=theme, size=size, page=given) as found:
            yield found

    return visiting


def _log_in_with_password(context: BrowserContext, stack: Stack, name: str) -> None:
    add_person(stack, name)
    answer = context.request.post(
        f"{stack.url}/api/v1/auth/session",
        data={"username": name, "password": PASSWORD},
        headers={"Origin": stack.url},
    )
    assert answer.ok, answer.text()


def add_person(stack: Stack, name: str) -> None:
    """Add one of PEOPLE as a user, if it is not one yet."""
    body = {"name": name, "password": PASSWORD, "grants": [PEOPLE[name]]}
    made = stack.http.post("/users", json=body)
    assert made.status_code in (201, 409), made.text


def _token_of(stack: Stack, role: str) -> str:
    name = f"ada-{role}"
    answer = stack.http.post("/api-keys", json={"name": name, "role": role})
    if answer.status_code == 201:
        _TOKENS[name] = answer.json()["token"]
    return _TOKENS[name]


_TOKENS: dict[str, str] = {}


@pytest.hookimpl
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that visits pages on the browser's thread."""
    given = pyfuncitem.funcargs
    thread = given.get("browser")
    if not isinstance(thread, BrowserThread):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    thread.run(partial(pyfuncitem.obj, **{name: given[name] for name in names}))
    return True
