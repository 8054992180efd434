"""A bound credential is only used where it is bound.

This is checked when something is saved, at the launch, and just before the session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem
from engine.harness import harness
from opsjobs.clock import SystemClock
from opsjobs.model.access import Grant, Principal
from opsjobs.model.action_base import BecomeDraft
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.credential_draft import BoundTo
from opsjobs.model.errors import Invalid
from opsjobs.model.execution import ExecutionStatus, TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import CommandAction, LaunchOrder, Policy
from opsjobs.model.run_views import Execution
from opsjobs.model.secret import Secret
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.pool import _key
from opsjobs.store.envelope import new_key
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.rows import NOTED_SECONDS
from security.credential_samples import login
from store.drafts import job, password, target

BECOME = {"key": "then", "type": "command", "command": "id", "become": {"credential": "root-pw"}}


async def stocked(ada: ApiClient) -> None:
    """Create credentials, targets and a job.

    These are root-pw and web-pw; web-1 in the group web, db-1 in db, which `all` holds; a job
    nightly.
    """
    for name in ("root-pw", "web-pw"):
        await ada.http.post("/credentials", json=login("password", name=name))
    for name, group in (("web-1", "web"), ("db-1", "db")):
        await ada.http.post("/targets", json={"name": name, "host": "10.0.0.5", "groups": [group]})
    await ada.http.post("/target-groups", json={"name": "all", "groups": ["db"]})
    await ada.http.post(
        "/jobs",
        json={
            "name": "nightly",
            "actions": [{"type": "command", "command": "id"}],
            "targets": {"ids": ["db-1"]},
        },
    )


def named(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "host": "10.0.0.5", "credential": "web-pw", **fields}


async def test_a_target_outside_may_not_name_it_and_one_inside_may(database: Database) -> None:
    async with api_client(database) as ada:
        await stocked(ada)
        bound = {"targets": ["web-1"], "groups": ["all", "new"], "jobs": []}
        refused = problem(
            await ada.http.put("/credentials/2/bound-to", json=bound), 422, "unknown_binding"
        )
        assert refused["errors"][0]["pointer"] == "/bound_to/groups/1"
        bound["groups"] = ["all"]
        assert (await ada.http.put("/credentials/2/bound-to", json=bound)).json()[
            "bound_to"
        ] == bound
        assert (await ada.http.get("/credentials?name=web-pw")).json()["items"][0][
            "bound_to"
        ] == bound
        assert (await ada.http.put("/targets/1", json=named("web-1"))).status_code == 200
        # through a group that the bound group holds
        assert (
            await ada.http.put("/targets/2", json=named("db-1", groups=["db"]))
        ).status_code == 200
        out = problem(await ada.http.post("/targets", json=named("web-9")), 422, "credential_bound")
        assert (out["errors"][0]["pointer"], "web-9 is none of them" in out["detail"]) == (
            "/credential",
            True,
        )
        # The change would take it out of the group with the credential.
        problem(
            await ada.http.put("/targets/2", json=named("db-1", groups=["web"])),
            422,
            "credential_bound",
        )
        imported = await ada.http.post(
            "/targets/import", json={"targets": [named("web-8"), named("db-8", groups=["db"])]}
        )
        assert "credential_bound" in imported.text
        # A new target of the same name is another one.
        await ada.http.delete("/targets/1")
        problem(await ada.http.post("/targets", json=named("web-1")), 422, "credential_bound")
        assert (await ada.http.get("/credentials/2")).json()["bound_to"]["targets"] == [
            "1 (deleted)"
        ]


async def test_a_job_outside_may_not_name_it(database: Database) -> None:
    async with api_client(database) as ada:
        await stocked(ada)
        assert (
            await ada.http.put("/credentials/1/bound-to", json={"jobs": ["nightly"]})
        ).status_code == 200
        body = {"name": "nightly", "actions": [BECOME], "targets": {"ids": ["db-1"]}}
        assert (
            await ada.http.put("/jobs/1", json=body, headers={"If-Match": "*"})
        ).status_code == 200
        other = problem(
            await ada.http.post("/jobs", json={**body, "name": "other"}), 422, "credential_bound"
        )
        assert (other["errors"][0]["pointer"], "'other'" in other["detail"]) == (
            "/actions/0/become/credential",
            True,
        )
        gate = {"gate": {"check": {**BECOME, "key": None}}, "waves": [1, "100%"]}
        gated = {
            "name": "gated",
            "actions": [{"type": "command", "command": "id"}],
            "targets": {"ids": ["db-1"]},
            "policy": gate,
        }
        refused = problem(await ada.http.post("/jobs", json=gated), 422, "credential_bound")
        assert refused["errors"][0]["pointer"] == "/policy/gate/check/become/credential"
        problem(
            await ada.http.post("/run", json={"actions": [BECOME], "targets": {"ids": ["db-1"]}}),
            422,
            "credential_bound",
        )
        judged = (await ada.http.post("/jobs/1/validate")).json()
        assert judged["valid"], judged


async def test_who_uses_it_outside_keeps_it_from_being_bound_deleted_or_renamed(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await stocked(ada)
        await ada.http.put("/targets/1", json=named("web-1"))
        await ada.http.post(
            "/jobs",
            json={
                "name": "careful",
                "actions": [BECOME, {**BECOME, "key": "last"}],
                "targets": {"ids": ["web-1"]},
            },
        )
        usage = [(await ada.http.get(f"/credentials/{n}/usage")).json() for n in (1, 2)]
        assert usage == [
            {
                "targets": [],
                "jobs": [
                    {"id": 2, "name": "careful", "actions": ["last", "then"], "parameters": []}
                ],
                "total": {"targets": 0, "jobs": 1},
            },
            {
                "targets": [{"id": "1", "name": "web-1"}],
                "jobs": [],
                "total": {"targets": 1, "jobs": 0},
            },
        ]
        for number, words, bound in (
            (1, "job careful", {"jobs": ["nightly"]}),
            (2, "target web-1", {"groups": ["db"]}),
        ):
            assert (
                words
                in problem(
                    await ada.http.put(f"/credentials/{number}/bound-to", json=bound),
                    409,
                    "credential_in_use",
                )["detail"]
            )
        assert (
            "careful"
            in problem(await ada.http.delete("/credentials/1"), 409, "credential_in_use")["detail"]
        )
        problem(
            await ada.http.put("/credentials/1", json=login("password", name="other")),
            409,
            "credential_in_use",
        )
        # A credential may be replaced as a whole; a binding that the request does not mention
        # stays.
        await ada.http.put("/credentials/1/bound-to", json={"jobs": ["careful"]})
        assert (
            await ada.http.put("/credentials/1", json=login("password", name="root-pw"))
        ).json()["bound_to"]["jobs"] == ["careful"]
        await ada.http.delete("/jobs/2")
        assert (await ada.http.delete("/credentials/1")).status_code == 204


@pytest.mark.parametrize("type_", ["kerberos", "client_certificate"])
async def test_a_target_does_not_take_a_login_that_its_transport_has_not(
    database: Database, type_: str
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=login(type_, name="web-pw"))
        problem(await ada.http.post("/targets", json=named("web-1")), 422, "wrong_credential_type")
        ada.services.inventory = TargetInventory(database, ada.services.vault, local=True)
        assert (
            await ada.http.post("/targets", json=named("here", transport="local"))
        ).status_code == 201


async def test_a_launch_asks_of_the_jump_hosts_login_too(database: Database) -> None:
    async with api_client(database) as ada:
        await stocked(ada)
        for name, fields in (("gate", {"credential": "web-pw"}), ("inner", {"jump": "gate"})):
            made = await ada.http.post(
                "/targets", json={"name": name, "host": "10.0.0.6", "labels": {"a": "b"}, **fields}
            )
            assert made.status_code == 201, made.text
        body = {
            "actions": [{"type": "command", "command": "id"}],
            "targets": {"ids": ["inner", "gate"]},
        }
        assert (await ada.http.post("/run", json=body)).status_code == 202
        bound = {"targets": ["gate"], "groups": [], "jobs": ["nightly"]}
        assert (await ada.http.put("/credentials/2/bound-to", json=bound)).status_code == 200
        problem(
            await ada.http.post("/run", json={**body, "targets": {"ids": ["inner"]}}),
            422,
            "credential_bound",
        )


async def test_a_jump_host_is_named_by_who_may_use_credentials(database: Database) -> None:
    async with api_client(database) as ada:
        await stocked(ada)
        only = Principal("ben", "api_key", (Grant(frozenset({"targets:manage", "targets:read"})),))
        ada.services.identities.by_token = any_principal(only)
        body = {"name": "web-2", "host": "10.0.0.6"}
        assert (await ada.http.post("/targets", json=body)).status_code == 201
        for naming in ({"jump": "web-1"}, {"credential": "web-pw"}):
            problem(
                await ada.http.post("/targets", json={**body, "name": "web-3", **naming}),
                403,
                "forbidden",
            )
            problem(await ada.http.put("/targets/3", json={**body, **naming}), 403, "forbidden")
            problem(
                await ada.http.post("/targets/import", json={"targets": [{**body, **naming}]}),
                403,
                "forbidden",
            )


def any_principal(principal: Principal) -> Callable[[str], Awaitable[Principal]]:
    async def by_token(_: str) -> Principal:
        return principal

    return by_token


async def test_launch_and_worker_ask_again_since_groups_and_bindings_change(
    database: Database,
) -> None:
    async with harness(database) as on:
        inventory = TargetInventory(database, on.vault)
        on.targets = inventory  # type: ignore[assignment]  # the real one in its place
        on.launcher._targets = inventory
        await database.fetch("insert into target_groups (name) values ('web') returning id")
        for name in ("login", "root-pw"):
            await on.vault.create(password(name))
        machines = [on.sessions.machine(f"web-{n}").reply([RemoteExit(0)]) for n in (1, 2)]
        for n in (1, 2):
            await inventory.create(target(f"web-{n}", groups=["web"], credential="login"))

        async def launched(name: str, *, become: bool = False) -> Execution:
            action = CommandAction(
                key="a",
                command="true",
                become=BecomeDraft(credential="root-pw") if become else None,
            )
            order = LaunchOrder([action], SelectionDraft(ids=[name]), Policy(), "ad-hoc")
            made = await on.launcher.launch(
                order, triggered_by=TriggeredBy.API, requested_by=Identity("api_key", "ada")
            )
            assert made.execution is not None
            return made.execution

        async def why(execution: Execution) -> str:
            row = await on.row(execution)
            assert (await on.ended(execution)).status == ExecutionStatus.FAILED
            return f"{row['error_code']}: {row['error_message']}"

        await on.vault.bind("1", BoundTo(groups=["web"]))
        waiting, becoming, good = (
            await launched("web-1"),
            await launched("web-2", become=True),
            await launched("web-2"),
        )
        await database.fetch("update targets set groups = '{db}' where name = 'web-1' returning id")
        await on.vault.bind("2", BoundTo(targets=["web-1"]))
        for name, become, words in (
            ("web-1", False, "'login' is bound"),
            ("web-2", True, "'root-pw' is bound"),
        ):
            with pytest.raises(Invalid, match=words) as refused:
                await launched(name, become=become)
            assert refused.value.code == "credential_bound"
        async with on.worker():
            assert (await on.ended(good)).status == ExecutionStatus.COMPLETED
            for execution in (waiting, becoming):
                await on.ended(execution)
        assert "credential_missing" in await why(waiting)
        assert "web-1 is none of them" in await why(waiting)
        assert "web-2 is none of them" in await why(becoming)
        # Bound to a job only: a run without this job is refused, although it was launched before.
        await on.vault.bind("1", BoundTo())
        late = await launched("web-1")
        await on.jobs.create(job("nightly"), "ada")
        await on.vault.bind("1", BoundTo(jobs=["nightly"]))
        async with on.worker("worker-2"):
            await on.ended(late)
        assert "this is no stored job" in await why(late)
        assert [len(m.starts) for m in machines] == [0, 1]


async def test_a_closed_credential_has_no_part_in_the_connections_of_others() -> None:
    open_ = Credential("1", 1, "web-pw", CredentialType.PASSWORD, "deploy", Secret("x"))
    web = Target("1", "web-1", "10.0.0.5", 22, Transport.SSH)
    keys = {
        _key(Endpoint(web, credential))
        for credential in (open_, open_.closed("it is bound elsewhere"))
    }
    assert len(keys) == 2
    assert open_.closed("so").password is None


async def test_when_a_credential_was_opened_is_noted_once_a_minute_and_waits_for_nobody(
    database: Database,
) -> None:
    clock = TurnedClock()
    vault = Vault(database, [new_key()], clock)
    await vault.create(password("login"))

    async def used() -> object:
        return (await vault.get("1")).last_used_at

    async with database.transaction() as other:
        await other.execute("select 1 from credentials for update")
        await vault.open_many(["1"])
    assert await used() is None
    clock.seconds += NOTED_SECONDS
    await vault.open_many(["1"])
    first = await used()
    assert first is not None
    await database.fetch(
        "update credentials set last_used_at = now() - interval '1 hour' returning id"
    )
    await vault.open_many(["1"])
    assert await used() != first, "within a minute nothing is written"
    clock.seconds += NOTED_SECONDS
    await vault.open_many(["1"])
    assert await used() > first  # type: ignore[operator]


class TurnedClock(SystemClock):
    """A clock that only runs when a test turns it."""

    seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds
