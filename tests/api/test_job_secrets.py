"""Job secrets over HTTP: credentials of type secret in parameters, and who may use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from api.kit import api_client, job, problem
from api.live import live_api
from kit.secret_canaries import Canary, find_canaries
from opsjobs.model.access import Role
from opsjobs.model.secret import decode_key, key_id
from opsjobs.model.target import TargetDraft
from opsjobs.store.envelope import new_key
from opsjobs.store.transaction import Database
from opsjobs.store.vault.keys import KeyRotation

DB = {"name": "db-prod", "type": "secret", "value": "canary-of-db-prod"}
LOGIN = {"name": "root", "type": "password", "username": "root", "password": "pw"}
DUMP = 'PGPASSWORD=$(cat "$OPSJOBS_SECRETS/password") pg_dump shop'


def nightly(name: str = "dump", credential: str = "db-prod", **fields: Any) -> dict[str, Any]:
    """Return a job with the secret as a parameter."""
    declared = [{"name": "password", "type": "secret", "from_credential": credential}]
    body = {"actions": [{"command": DUMP}], "parameters": declared, "targets": {"ids": ["web-1"]}}
    return job(name, **{**body, **fields})


async def audited(services: Any, action: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = await services.database.fetch(
        "select * from audit_log where action = %s order by id", [action]
    )
    return rows


async def test_a_job_secret_is_stored_encrypted_and_shown_without_its_value(
    database: Database,
) -> None:
    canary = Canary("db")
    async with api_client(database) as ada:
        made = await ada.http.post("/credentials", json={**DB, "value": canary.text})
        assert (made.status_code, made.json()["type"], made.json()["username"]) == (
            201,
            "secret",
            None,
        )
        shown = [
            made,
            await ada.http.get("/credentials"),
            await ada.http.get("/credentials/1"),
            await ada.http.get("/audit"),
        ]
        rotated = await ada.http.post("/credentials/1/rotate", json={"value": canary.text + "2"})
        assert (rotated.status_code, rotated.json()["version"]) == (200, 2)
        tried = (await ada.http.post("/credentials/1/test", json={})).json()
        assert (tried["ok"], [step["name"] for step in tried["steps"]]) == (True, ["open"])
        assert not find_canaries(b"".join(answer.content for answer in [*shown, rotated]), [canary])


@pytest.mark.parametrize(
    "fields",
    [
        {"username": "deploy"},
        {"value": None},
        {"value": ""},
        {"value": "x" * 32_769},
        {"password": "pw"},
        {"value": None, "username": "deploy", "source": {"backend": "vault", "path": "db"}},
        {"value": None, "source": {"backend": "ssh_ca", "authority": "ca"}},
        {"value": None, "source": {"backend": "vault", "path": "db", "fields": {"password": "p"}}},
    ],
)
async def test_an_invalid_job_secret_is_refused(database: Database, fields: dict[str, Any]) -> None:
    async with api_client(database) as ada:
        body = {name: value for name, value in {**DB, **fields}.items() if value is not None}
        assert (await ada.http.post("/credentials", json=body)).status_code == 422


async def test_a_job_secret_may_be_in_vault(database: Database) -> None:
    source = {"backend": "vault", "path": "db", "fields": {"value": "password"}}
    async with api_client(database) as ada:
        made = await ada.http.post(
            "/credentials", json={"name": "db", "type": "secret", "source": source}
        )
        assert (made.status_code, made.json()["source"]["fields"]) == (201, {"value": "password"})


async def test_a_job_secret_cannot_be_used_as_a_login(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=DB)
        body = {"name": "web-1", "host": "10.0.0.1", "credential": "db-prod"}
        problem(await ada.http.post("/targets", json=body), 422, "wrong_credential_type")
        await ada.http.post("/target-groups", json={"name": "web"})
        await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.1"})
        acts = [{"command": "id", "become": {"credential": "db-prod"}}]
        problem(
            await ada.http.post("/run", json={"actions": acts, "targets": {"ids": ["web-1"]}}),
            422,
            "not_a_password",
        )


@pytest.mark.parametrize(
    ("declared", "pointer"),
    [
        ({"type": "string"}, "/parameters/0/type"),
        ({"required": True}, "/parameters/0/required"),
        ({"pattern": "^x$"}, "/parameters/0/pattern"),
        ({"min_length": 8}, "/parameters/0/min_length"),
        ({"default": "x"}, "/parameters/0/default"),
        ({"from_credential": "a\nb"}, "/parameters/0/from_credential"),
    ],
)
async def test_a_parameter_from_a_credential_has_no_other_rules(
    database: Database, declared: dict[str, Any], pointer: str
) -> None:
    async with api_client(database) as ada:
        body = nightly(
            parameters=[
                {"name": "password", "type": "secret", "from_credential": "db-prod", **declared}
            ]
        )
        told = (
            await ada.http.post("/jobs", json={**body, "actions": [{"command": "true"}]})
        ).json()
        assert (told["status"], [e["pointer"] for e in told["errors"]]) == (422, [pointer])


async def test_a_launch_cannot_set_a_parameter_from_a_credential(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await ada.http.post("/credentials", json=DB)
        await ada.http.post("/jobs", json=nightly())
        told = problem(
            await ada.http.post("/jobs/1/execute", json={"parameters": {"password": "x"}}),
            422,
            "invalid_parameters",
        )
        assert [(e["pointer"], e["code"]) for e in told["errors"]] == [
            ("/parameters/password", "from_credential")
        ]
        launched = (await ada.http.post("/jobs/1/execute", json={})).json()
        assert launched["parameters"] == {"password": "***"}
        looked = (await ada.http.post("/jobs/1/execute", json={"dry_run": True})).json()
        assert looked["parameters"] == {"password": "***"}
        [used] = await audited(ada.services, "credential.used")
        assert (used["actor"], used["thing"], used["thing_name"]) == (
            "ada",
            "credential",
            "db-prod",
        )
        assert used["after"] == {
            "execution": launched["id"],
            "job": "dump",
            "parameter": "password",
        }


@pytest.mark.parametrize(
    ("credential", "code"), [("nothing", "unknown_credential"), ("root", "not_a_secret")]
)
async def test_a_credential_of_another_type_is_refused_as_a_job_secret(
    database: Database, credential: str, code: str
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        judged = (await ada.http.post("/jobs/validate", json=nightly(credential=credential))).json()
        assert [(e["pointer"], e["code"]) for e in judged["errors"]] == [
            ("/parameters/0/from_credential", "unknown_credential")
        ]
        await ada.http.post("/jobs", json=nightly(credential=credential))
        if credential == "root":
            await ada.http.post("/credentials", json=LOGIN)
            saved = await ada.http.put(
                "/jobs/1", json=nightly("other", credential), headers={"if-match": "*"}
            )
            assert (
                problem(saved, 422, code)["errors"][0]["pointer"] == "/parameters/0/from_credential"
            )
        told = problem(await ada.http.post("/jobs/1/execute", json={}), 422, code)
        assert told["errors"][0]["pointer"] == "/parameters/password"


async def test_a_binding_is_checked_when_a_job_is_saved_and_launched(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1", "web-2")
        await ada.http.post("/jobs", json=job("other"))
        await ada.http.post("/credentials", json={**DB, "bound_to": {"jobs": ["other"]}})
        told = problem(await ada.http.post("/jobs", json=nightly()), 422, "credential_bound")
        assert told["errors"][0]["pointer"] == "/parameters/0/from_credential"
        await ada.http.put("/credentials/1/bound-to", json={"targets": ["web-1"]})
        made = await ada.http.post("/jobs", json=nightly())
        dump = f"/jobs/{made.json()['id']}"
        assert (await ada.http.post(f"{dump}/execute", json={})).status_code == 202
        await ada.http.put(
            dump, json=nightly(targets={"ids": ["web-1", "web-2"]}), headers={"if-match": "*"}
        )
        told = problem(await ada.http.post(f"{dump}/execute", json={}), 422, "credential_bound")
        assert "web-2" in told["detail"]
        problem(
            await ada.http.post(f"{dump}/execute", json={"dry_run": True}), 422, "credential_bound"
        )
        told = problem(
            await ada.http.put("/credentials/1/bound-to", json={"jobs": ["other"]}),
            409,
            "credential_in_use",
        )
        assert "job dump" in told["detail"]


async def test_a_credential_used_as_job_secret_is_not_renamed_or_deleted(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=DB)
        await ada.http.post("/jobs", json=nightly())
        usage = (await ada.http.get("/credentials/1/usage")).json()
        assert usage["jobs"] == [
            {"id": 1, "name": "dump", "actions": [], "parameters": ["password"]}
        ]
        problem(await ada.http.delete("/credentials/1"), 409, "credential_in_use")
        problem(
            await ada.http.put("/credentials/1", json={**DB, "name": "other"}),
            409,
            "credential_in_use",
        )
        problem(
            await ada.http.put("/credentials/1", json={**LOGIN, "name": "db-prod"}),
            409,
            "credential_in_use",
        )
        assert (await ada.http.put("/credentials/1", json={**DB, "value": "new"})).json()[
            "version"
        ] == 2


MAY_NAME = {
    Role.VIEWER: 403,
    Role.OPERATOR: 403,
    Role.DEVELOPER: 201,
    Role.MANAGER: 201,
    Role.ADMIN: 201,
}


@pytest.mark.parametrize("role", list(Role))
async def test_permissions_to_store_reference_and_launch_job_secrets(
    database: Database, role: Role
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await ada.http.post("/credentials", json=DB)
        await ada.http.post("/jobs", json=nightly("ours"))
        headers = await ada.as_role(role.value)
        stored = await ada.http.post("/credentials", json={**DB, "name": "mine"}, headers=headers)
        assert stored.status_code == (201 if role is Role.ADMIN else 403)
        assert (
            await ada.http.post("/jobs", json=nightly(), headers=headers)
        ).status_code == MAY_NAME[role]
        applied = await ada.http.post(
            "/jobs/apply", json={"jobs": [nightly("applied")]}, headers=headers
        )
        assert applied.status_code == {201: 200}.get(MAY_NAME[role], 403)
        launched = await ada.http.post("/jobs/1/execute", json={}, headers=headers)
        assert launched.status_code == (403 if role is Role.VIEWER else 202)


async def test_referencing_a_credential_requires_unscoped_credentials_use(
    database: Database,
) -> None:
    grants = [{"role": "developer", "scope": "env=dev"}]
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=DB)
        await ada.services.inventory.create(
            TargetDraft(name="web-1", host="10.0.0.1", labels={"env": "dev"})
        )
        made = (await ada.http.post("/api-keys", json={"name": "ben", "grants": grants})).json()
        headers = {"Authorization": f"Bearer {made['token']}"}
        plain = job("plain", tags=["env=dev"], targets={"ids": ["web-1"]})
        assert (await ada.http.post("/jobs", json=plain, headers=headers)).status_code == 201
        told = problem(
            await ada.http.post("/jobs", json=nightly(tags=["env=dev"]), headers=headers),
            403,
            "out_of_reach",
        )
        assert "credentials:use" in told["detail"]


async def test_a_job_whose_author_lost_credentials_use_is_not_launched_until_saved_again(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await ada.http.post("/credentials", json=DB)
        ben = await ada.as_role("developer")
        assert (await ada.http.post("/jobs", json=nightly(), headers=ben)).status_code == 201
        first = (await ada.http.post("/jobs/1/execute", json={})).json()
        keys = (await ada.http.get("/api-keys", params={"name": "ben-developer"})).json()["items"]
        assert (await ada.http.delete(f"/api-keys/{keys[0]['id']}")).status_code == 204
        told = problem(await ada.http.post("/jobs/1/execute", json={}), 409, "author_not_allowed")
        assert "ben-developer" in told["detail"]
        problem(
            await ada.http.post("/jobs/1/execute", json={"dry_run": True}),
            409,
            "author_not_allowed",
        )
        await ada.http.post(f"/executions/{first['id']}/cancel", json={})
        retried = await ada.http.post(
            f"/executions/{first['id']}/retry", json={"which": "unsuccessful"}
        )
        problem(retried, 409, "author_not_allowed")
        again = await ada.http.put("/jobs/1", json=nightly(), headers={"if-match": "*"})
        assert (again.status_code, again.json()["version"]) == (200, 2)
        assert (await ada.http.post("/jobs/1/execute", json={})).status_code == 202
        same = await ada.http.put("/jobs/1", json=nightly(), headers={"if-match": "*"})
        assert same.json()["version"] == 2
        applied = (await ada.http.post("/jobs/apply", json={"jobs": [nightly()]})).json()
        assert [one["change"] for one in applied["items"]] == ["unchanged"]


async def test_a_schedule_refuses_a_secret_and_accepts_from_credential(database: Database) -> None:
    hourly = {"name": "hourly", "type": "recurring", "every": "hours", "timezone": "UTC"}
    async with api_client(database) as ada:
        declared = [{"name": "password", "type": "secret"}]
        await ada.http.post("/jobs", json=nightly(parameters=declared))
        answer = await ada.http.post(
            "/jobs/1/schedules", json={**hourly, "parameters": {"password": "x"}}
        )
        told = problem(answer, 422, "secret_in_schedule")
        assert "opsjobs credentials add NAME --type secret" in told["detail"]
        assert "from_credential: NAME" in told["detail"]
        await ada.http.post("/credentials", json=DB)
        await ada.http.put("/jobs/1", json=nightly(), headers={"if-match": "*"})
        assert (await ada.http.post("/jobs/1/schedules", json=hourly)).status_code == 201


async def test_a_key_rotation_does_not_touch_parameters_from_credentials(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await ada.http.post("/credentials", json=DB)
        declared = [*nightly()["parameters"], {"name": "token", "type": "secret"}]
        await ada.http.post("/jobs", json=nightly(parameters=declared))
        await ada.http.post("/jobs/1/execute", json={"parameters": {"token": "t"}})
        keys = [new_key(), *ada.services.settings.security.encryption_keys]
        rotated = await KeyRotation(database, keys).rotate(10.0)
        assert (rotated.rewrapped, rotated.left, rotated.broken) == (2, 0, [])
        assert [key.id for key in rotated.keys][:2] == [
            key_id(decode_key(key.reveal())) for key in keys
        ]
        assert all(isinstance(key.id, str) for key in rotated.keys)
