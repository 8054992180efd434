"""The response of POST /jobs/validate does not depend on objects that the caller cannot see."""

from __future__ import annotations

from typing import Any

from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.store.transaction import Database
from security.two_scopes import STAGING, principal_with, scoped_app


def become(credential: str) -> dict[str, Any]:
    action = {
        "command": "id",
        "become": {"user": "root", "method": "sudo", "credential": credential},
    }
    return {"name": "probe", "actions": [action], "targets": {"groups": []}}


def secret(credential: str) -> dict[str, Any]:
    parameter = {"name": "token", "type": "secret", "from_credential": credential}
    return {
        "name": "probe",
        "actions": [{"command": "id"}],
        "targets": {"groups": []},
        "parameters": [parameter],
    }


def upload(file: str, target: str) -> dict[str, Any]:
    action = {
        "type": "file_transfer",
        "direction": "upload",
        "source": file,
        "destination": "/tmp/x",
    }
    return {
        "name": "probe",
        "tags": ["env=staging"],
        "actions": [action],
        "targets": {"ids": [target]},
    }


async def test_a_caller_without_credentials_use_does_not_learn_which_credentials_there_are(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        await app.services.vault.create(
            CredentialDraft(name="real", type="password", username="root", password="s3cret-s3cret")
        )
        viewer = app.admit(principal_with("eve", ("viewer", "")))
        for body in (become, secret):
            told = []
            for name in ("real", "none"):
                answer = (
                    await app.http.post("/jobs/validate", json=body(name), headers=viewer)
                ).json()
                told.append(str(answer).replace(name, "NAME"))
                assert "not_looked_up" in str(answer["warnings"])
            assert told[0] == told[1], body
            assert "unknown_credential" in str(
                (await app.http.post("/jobs/validate", json=body("none"))).json()
            ), "as an administrator"


async def test_a_caller_with_a_scope_does_not_learn_which_files_others_have(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        headers = {"Content-Type": "application/octet-stream"}
        mine = app.things["target", STAGING]
        others = (await app.http.post("/files?name=x", content=b"x", headers=headers)).json()
        ben = app.admit(principal_with("ben", ("developer", "env=staging")))
        own = (
            await app.http.post("/files?name=y", content=b"y", headers={**ben, **headers})
        ).json()
        told = []
        for ref in (str(others["id"]), "999999"):
            answer = (
                await app.http.post("/jobs/validate", json=upload(ref, mine), headers=ben)
            ).json()
            assert "unknown_file" in str(answer["errors"])
            told.append(str(answer).replace(ref, "REF"))
        assert told[0] == told[1]
        answer = (
            await app.http.post("/jobs/validate", json=upload(str(own["id"]), mine), headers=ben)
        ).json()
        assert "unknown_file" not in str(answer)
