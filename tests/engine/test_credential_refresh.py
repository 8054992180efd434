"""Credentials that are rotated while a command runs: a reconnect uses the new secret."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from engine.harness import Harness, InMemoryTargets, harness, until
from engine.test_durable_commands import check_complete, half_done, stored
from kit.fake_remote import FakeSessions
from opsjobs.clock import SystemClock
from opsjobs.engine.mirrored_inventory import _withhold
from opsjobs.engine.runs.run_connection import refresh_credentials
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.credential_draft import RotationDraft
from opsjobs.model.errors import Unavailable
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.remote.session import Session
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.transaction import Database
from store.drafts import password, target

WEB, GATE = (
    Target(i, name, "10.0.0.1", 22, Transport.SSH) for i, name in (("1", "web-1"), ("2", "gate"))
)


class RecordingSessions(FakeSessions):
    """Records the version of the credential of each session."""

    def __init__(self, on: Harness) -> None:
        super().__init__(on.clock)
        self.machines = on.sessions.machines
        self.vault = on.vault
        self.versions: list[int] = []

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Open a session as usual."""
        assert endpoint.credential is not None
        self.versions.append(endpoint.credential.version)
        async with super().session(endpoint) as session:
            yield session


async def test_a_run_that_reconnects_after_a_rotation_logs_in_with_the_new_secret(
    database: Database,
) -> None:
    async with harness(database) as on:
        web, gate, execution = await half_done(on)
        inventory, sessions = TargetInventory(database, on.vault), RecordingSessions(on)
        await on.vault.create(password("login", password="canary-old"))
        await inventory.create(target("web-1", credential="login"))
        on.targets = inventory  # type: ignore[assignment]  # the real one in its place
        async with on.worker(sessions=sessions):
            await stored(on, execution, b"one\n")
            assert set(sessions.versions) == {1}
            await on.vault.rotate("1", RotationDraft.model_validate({"password": "canary-new"}))
            web.cut()
            web.mend()
            gate.event.set()
            await check_complete(on, web, execution)
        assert sessions.versions[-1] == 2


class UnavailableInventory(InMemoryTargets):
    """The inventory of a Target Service that is down: `login` is None until it is back."""

    login: Credential | None = None
    asked = 0

    async def endpoints(self, target_ids: object) -> dict[str, Endpoint]:
        """Return the machine, with its login or with a withheld one."""
        self.asked += 1
        credential = self.login or _withhold(login(2), "42", "it answers 503")
        return {"1": Endpoint(WEB, credential)}


class FetchingSessions(RecordingSessions):
    """Fetches the secrets of a login before it connects, as the pool does."""

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Open a session, if the login is available."""
        assert endpoint.credential is not None
        await ExternalSecrets(self.vault, None, SystemClock()).fetch(endpoint.credential, "test")
        async with super().session(endpoint) as session:
            yield session


async def test_a_successor_whose_login_is_withheld_takes_it_once_the_service_is_back(
    database: Database,
) -> None:
    """It waited with the login of its claim, which has no secrets, until its run was lost."""
    async with harness(database) as on:
        web, gate, execution = await half_done(on)
        async with on.worker():
            await stored(on, execution, b"one\n")
        withheld, sessions = UnavailableInventory(), FetchingSessions(on)
        on.targets = withheld
        async with on.worker("worker-2", sessions=sessions):
            await until(lambda: withheld.asked >= 3)
            assert sessions.versions == [], "it has not logged in without secrets"
            withheld.login = login(2)
            gate.event.set()
            await check_complete(on, web, execution)
        assert set(sessions.versions) == {2}


def login(version: int, **fields: str) -> Credential:
    secret = None if "fault" in fields else Secret(f"pw-{version}")
    return replace(
        Credential("1", version, "login", CredentialType.PASSWORD, "deploy", secret), **fields
    )


class ChangedInventory(InMemoryTargets):
    """An inventory that has changed since the claim."""

    def __init__(self, way: Endpoint | None) -> None:
        super().__init__()
        self.way = way

    async def endpoints(self, target_ids: object) -> dict[str, Endpoint]:
        """Return this endpoint, or none; or raise Unavailable."""
        if self.away:
            raise Unavailable("away (as scripted)")
        return {"1": self.way} if self.way is not None else {}


async def test_only_newer_versions_of_the_same_logins_are_used() -> None:
    way = Endpoint(WEB, login(1), (Endpoint(GATE, login(1)),), insist=True).for_("execution 1")
    moved = replace(WEB, host="10.0.0.9")
    now = Endpoint(moved, login(2), (Endpoint(GATE, login(3)),))
    new = await refresh_credentials(ChangedInventory(now), way)
    assert [c.version for c in new.logins] == [2, 3]
    # The run stays on the machine on which it began, whatever the inventory has now.
    assert (new.target, new.insist, new.purpose, new.jumps[0].purpose) == (
        WEB,
        True,
        "execution 1",
        "execution 1",
    )
    for other in (
        None,
        Endpoint(WEB, None),
        Endpoint(WEB, replace(login(2), id="7")),
        Endpoint(WEB, replace(login(2), username="root")),
        Endpoint(WEB, login(2, fault="it is gone")),
    ):
        assert await refresh_credentials(ChangedInventory(other), way) == way
    away = ChangedInventory(now)
    away.away = True
    assert await refresh_credentials(away, way) == way
