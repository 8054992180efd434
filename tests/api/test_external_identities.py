"""People of the platform without a row here keep the rights of their last token.

Their schedules and workflows continue with these rights.
"""

from __future__ import annotations

import asyncio
import ipaddress
from datetime import UTC, datetime

import httpx2
import pytest
from argon2 import PasswordHasher

from api.kit import ApiClient, api_client, app_on, job, problem
from kit.token_issuer import SECRET, good, signed
from opsjobs.api.rate_limits import ClientAddresses
from opsjobs.clock import TurnedClock
from opsjobs.identity.passwords import WAITING_MAX, Passwords
from opsjobs.model.identity import Identity
from opsjobs.model.secret import Secret
from opsjobs.settings import IdentitySettings
from opsjobs.store.transaction import Database

NOW = datetime(2026, 11, 27, tzinfo=UTC)
SHARED = IdentitySettings(jwt_secret_key=Secret(SECRET))


def bearer(clock: TurnedClock, **claims: object) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed(good(clock.now().timestamp(), **claims))}"}


async def test_an_external_identity_is_stored_when_it_changes_something_and_not_when_it_reads(
    database: Database,
) -> None:
    clock = TurnedClock(NOW)
    async with api_client(database, identity=SHARED, clock=clock) as ada:
        people = ada.services.identities
        assert (
            await ada.http.get("/jobs", headers=bearer(clock, roles=["developer"]))
        ).status_code == 200
        assert await people.current_principal(Identity("external", "ada")) is None
        body = job(targets={"groups": []}, tags=["env=staging"])
        made = await ada.http.post(
            "/jobs",
            json=body,
            headers=bearer(clock, roles=["developer"], scope_labels="env=staging"),
        )
        assert made.status_code == 201, made.text
        known = await people.current_principal(Identity("external", "ada"))
        assert known is not None
        assert known.reach("jobs:create").holds({"env": "staging"})
        assert not known.reach("jobs:create").everywhere
        # Ada's new token only grants reading: from now on that is all she may do.
        await ada.http.get("/jobs", headers=bearer(clock, roles=["viewer"]))
        known = await people.current_principal(Identity("external", "ada"))
        assert known is not None
        assert not known.has_permission("jobs:create")
        assert await people.current_principal(Identity("external", "ben")) is None


async def test_a_login_with_an_unknown_name_costs_the_same_work(database: Database) -> None:
    class CountingHasher(PasswordHasher):
        verified = 0

        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
            CountingHasher.verified += 1
            return super().verify(hash, password)  # type: ignore[return-value]

    async with api_client(database) as ada:
        ada.services.authentication.logins._passwords = Passwords(CountingHasher(1, 64, 1))
        await ada.http.post(
            "/users",
            json={
                "name": "off",
                "password": "correct horse battery",
                "grants": [{"role": "viewer"}],
                "disabled": True,
            },
        )
        for number, name in enumerate(("nobody", "off", "nobody"), start=1):
            answer = await ada.http.post(
                "/auth/login",
                json={"username": name, "password": "x"},
                headers={"Authorization": ""},
            )
            assert answer.status_code == 401
            assert CountingHasher.verified == number


async def test_concurrent_password_checks_are_bounded(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        passwords = ada.services.authentication.passwords
        async with passwords._slots, passwords._slots:  # two expensive checks are running
            waiting = [asyncio.create_task(passwords.verify(None, "x")) for _ in range(WAITING_MAX)]
            await asyncio.sleep(0)
            answer = await ada.http.post(
                "/auth/login",
                json={"username": "ada", "password": "x"},
                headers={"Authorization": ""},
            )
            problem(answer, 429, "busy")
            assert answer.headers["retry-after"] == "1"
        assert await asyncio.gather(*waiting) == [False] * WAITING_MAX


PROXIES = ClientAddresses([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")])


@pytest.mark.parametrize(
    ("client", "told", "address"),
    [
        (
            "192.0.2.9",
            "203.0.113.7",
            "192.0.2.9",
        ),  # not a trusted proxy: its header is ignored
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        (
            "10.0.0.1",
            "198.51.100.1, 203.0.113.7",
            "203.0.113.7",
        ),  # the first address is the caller's own claim
        ("10.0.0.1", "198.51.100.1, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "junk", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, junk, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "1.1.1.1," * 1_000 + "203.0.113.7", "203.0.113.7"),
    ],
)
def test_the_client_address_is_accepted_from_trusted_proxies_only(
    client: str, told: str, address: str
) -> None:
    scope = {
        "type": "http",
        "client": (client, 4711),
        "headers": [(b"x-forwarded-for", told.encode())],
    }
    assert PROXIES.address(scope) == address
    assert ClientAddresses().address(scope) == client


async def test_a_login_is_throttled_by_the_forwarded_client_address(database: Database) -> None:
    async with api_client(database, trusted_proxies=PROXIES._trusted) as ada:
        await tried(ada, "10.0.0.1", "203.0.113.7")
        rows = await database.fetch("select key from login_attempts where key like 'address%'")
        assert [row["key"] for row in rows] == ["address 203.0.113.7"]
        row = await database.fetch_one("select address, actor, actor_kind from audit_log")
        assert row == {"address": "203.0.113.7", "actor": "unauthenticated", "actor_kind": "system"}


async def tried(ada: ApiClient, client: str, forwarded: str) -> None:
    transport = httpx2.ASGITransport(app=app_on(ada.services), client=(client, 4711))
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://opsjobs", headers={"X-Forwarded-For": forwarded}
    ) as http:
        answer = await http.post("/auth/login", json={"username": "ada", "password": "x"})
        assert answer.status_code == 401
