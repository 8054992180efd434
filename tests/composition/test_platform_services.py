"""All services of a platform at once, of each generation: create, launch, notify, audit; then each of them broken in turn.

The service runs whole in one event loop (kit/platform_stack.py), on a real PostgreSQL, with a real worker that logs in to a real
OpenSSH server. `down` is a connection that is reset, the other faults are those of the stand-in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.kit import problem
from engine.harness import until
from kit.platform_services import (
    MS,
    NG,
    OWN,
    OWN_PROFILE,
    UNANSWERED,
    V3,
    platform_services,
)
from kit.platform_stack import SERVICES, PlatformStack, platform_stack
from kit.sshd import Sshd, sshd
from kit.token_issuer import SECRET, good, signed
from opsjobs.store.transaction import Database

FAULTS = ("slow", "down", "500", "garbage", "redirect")
WORDS = {
    "slow": "did not answer within",
    "down": "does not answer",
    "500": "it answers 500",
    "garbage": "something that is not JSON",
    "redirect": "sends us on to",
}
HOLDING = ("notification", "audit")
REFUSING = ("target", "user", "auth")


@pytest.fixture(scope="module")
def machine() -> Iterator[Sshd]:
    with sshd(host_key_types=("ed25519",)) as running:
        yield running


def settings_of(generation: str, folder: Path) -> dict[str, str]:
    """Return the settings for a platform of this generation; a missing service has an empty URL."""
    profile = generation
    if generation == OWN:
        (folder / "own.yaml").write_text(OWN_PROFILE)
        profile = str(folder / "own.yaml")
    found = {f"{name.upper()}_SERVICE_PROFILE": profile for name in SERVICES}
    if generation == NG:
        found |= {f"{name}_SERVICE_URL": "" for name in ("USER", "AUTH", "AUDIT")}
        found["JWT_SECRET_KEY"] = SECRET
    return found


class PlatformCaller:
    """A caller of the platform, and the job that it launches."""

    def __init__(self, stack: PlatformStack, machine: Sshd) -> None:
        self.stack = stack
        self.platform = stack.platform
        self.machine = machine
        self.callers = 0
        self.job = 0
        self.launched: list[int] = []

    @property
    def has_users(self) -> bool:
        return self.platform.generation != NG

    def new_caller(self) -> dict[str, str]:
        """Return the headers of a user who is in no cache yet."""
        self.callers += 1
        name = f"ada-{self.callers}"
        if not self.has_users:
            return {"Authorization": f"Bearer {signed(good(iss=None, aud=None, sub=name))}"}
        self.platform.add_user(name, "operator")
        return {"Authorization": f"Bearer {name}"}

    async def prepare(self) -> None:
        """Create the machine in the Target Service, and a job for `prod` with notifications."""
        machine, platform = self.machine, self.platform
        login = {"username": machine.user, "private_key": machine.private_key}
        tags = ["env=prod"]
        # it has no credentials: those of opsjobs are used, named by a tag
        if platform.generation == MS:
            body = {"name": "fleet", "type": "ssh_key", **login}
            assert (await self.stack.http.post("/credentials", json=body)).status_code == 201
            tags.append("credential=fleet")
        platform.add_target("42", "web-1", machine.host, machine.port, tags=tags)
        platform.credentials["42"] = login
        rule: dict[str, Any] = {"on": ["completed"], "channel": "service", "to": ["ada"]}
        if platform.generation == NG:
            rule["channel_id"] = "ops"
        body = {
            "name": "who-is-there",
            "targets": {"selector": "env=prod"},
            "actions": [{"type": "command", "command": "id -un"}],
            "policy": {"notify": [rule]},
        }
        made = await self.stack.http.post("/jobs", json=body)
        assert made.status_code == 201, made.text
        self.job = made.json()["id"]

    async def launch(self, headers: dict[str, str]) -> None:
        """Launch the job, and check its output."""
        answer = await self.stack.http.post(
            f"/jobs/{self.job}/execute", json={}, headers={**headers, "Prefer": "wait=60"}
        )
        assert (answer.status_code, answer.json().get("status")) == (200, "completed"), answer.text
        self.launched.append(answer.json()["id"])
        results = await self.stack.http.get(f"/executions/{self.launched[-1]}/results")
        (result,) = results.json()["items"]
        assert result["stdout"] == f"{self.machine.user}\n"

    async def all_published(self) -> None:
        """Wait until the platform has a notification of each execution, and every audit row."""
        await until(self._is_told)

    async def _is_told(self) -> bool:
        await self.stack.hurry()
        if len(set(self.platform.notification_ids())) < len(self.launched):
            return False
        if not self.has_users:
            return True
        rows = await self.stack.database.fetch("select max(seal) as last from audit_log")
        return rows[0]["last"] in self.platform.audit_numbers()

    async def arrived_in_order(self) -> None:
        """Check the order of notifications and audit rows; repetitions have the same id."""
        told = list(dict.fromkeys(self.platform.notification_ids()))
        rows = await self.stack.database.fetch(
            "select m.message_id from deliveries d join delivery_messages m on m.id = d.message_id "
            "where m.source = 'notifications' order by d.id"
        )
        assert told == [row["message_id"] for row in rows]
        assert len(told) == len(self.launched)
        if self.has_users:
            numbers = list(dict.fromkeys(self.platform.audit_numbers()))
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

    async def count(self) -> int:
        rows = await self.stack.database.fetch("select count(*) as n from job_executions")
        return int(rows[0]["n"])

    async def is_shown(self, service: str, words: str) -> None:
        """Check that /status names the service, its fault, and the process that reports it."""

        async def shown() -> bool:
            found = (await self.stack.integrations())[service]
            return found["state"] in ("failing", "open") and words in (found["last_error"] or "")

        await until(shown)
        found = (await self.stack.integrations())[service]
        process = "scheduler " if service in HOLDING else "api "
        failing = [each for each in found["processes"] if each["state"] in ("failing", "open")]
        assert any(each["process"].startswith(process) for each in failing), found
        others = {
            name: each["state"]
            for name, each in (await self.stack.integrations()).items()
            if name != service
        }
        assert not {"failing", "open"} & {*others.values()}, others


async def broken_and_mended(journey: PlatformCaller, service: str, fault: str) -> None:
    """One service with one fault: its allowed effect, its /status, and the recovery."""
    stack = journey.stack
    caller, before = journey.new_caller(), await journey.count()
    stack.fail(service, fault)
    if service in REFUSING:
        refused = await stack.http.post(f"/jobs/{journey.job}/execute", json={}, headers=caller)
        told = problem(refused, 503, "unavailable")
        assert f"The {service.title()} Service does not answer" in told["detail"]
        assert await journey.count() == before, "nothing is launched"
    else:
        await journey.launch(caller)
    await journey.is_shown(service, WORDS[fault])
    if service in HOLDING:
        assert (await stack.integrations())[service]["waiting"] >= 1
    stack.mend()
    if service in REFUSING:
        await journey.launch(caller)
    await journey.all_published()

    async def is_well() -> bool:
        return (await stack.integrations())[service]["state"] == "ok"

    await until(is_well)


@pytest.mark.parametrize("generation", [V3, MS, NG, OWN])
async def test_a_job_goes_all_the_way_and_each_service_may_fail(
    generation: str,
    database: Database,
    database_url: str,
    redis_url: str,
    machine: Sshd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with platform_services(generation) as platform:
        async with platform_stack(
            database,
            (database_url, redis_url),
            platform,
            monkeypatch,
            **settings_of(generation, tmp_path),
        ) as stack:
            journey = PlatformCaller(stack, machine)
            await journey.prepare()
            await journey.launch(journey.new_caller())
            await journey.all_published()
            connected = await stack.integrations()
            assert set(connected) == (
                {"target", "notification"} if generation == NG else set(SERVICES)
            )
            # The faults are those of one client for all profiles: V3 covers each of them.
            for service in connected:
                for fault in FAULTS if generation == V3 else ("500",):
                    await broken_and_mended(journey, service, fault)
            await answers_are_lost(journey, [name for name in HOLDING if name in connected])
            await journey.arrived_in_order()


async def answers_are_lost(journey: PlatformCaller, services: list[str]) -> None:
    """Services accept what they are sent, and their responses are lost:

    it is sent again, with the same id.
    """
    platform = journey.platform
    sent = {"notification": platform.notification_ids, "audit": platform.audit_numbers}
    known = {service: set(sent[service]()) for service in services}

    async def each_is_repeated() -> bool:
        await journey.stack.hurry()
        counts = {service: Counter(sent[service]()) for service in services}
        return all(
            any(n >= 2 for id_, n in counts[service].items() if id_ not in known[service])
            for service in services
        )

    for service in services:
        journey.stack.fail(service, UNANSWERED)
    await journey.launch(journey.new_caller())
    await until(each_is_repeated)
    journey.stack.mend()
    await journey.all_published()
