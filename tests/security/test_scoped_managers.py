"""Point 4: changes of machines that a manager within a scope may not make."""

from __future__ import annotations

from typing import Any

from api.kit import problem
from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.store.transaction import Database
from security.two_scopes import STAGING, principal_with, scoped_app

LOGIN = CredentialDraft(name="root-pw", type="password", username="root", password="s3cret-s3cret")


async def test_an_import_does_not_send_a_stored_login_another_way_without_the_right_to_use_it(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        await app.services.vault.create(LOGIN)
        mine = await app.target("stg-1", STAGING, credential="root-pw")
        behind = await app.target("stg-2", STAGING, jump="stg-1")
        stood = [(await app.http.get(f"/targets/{target}")).json() for target in (mine, behind)]
        scoped = app.admit(principal_with("ben", ("manager", "env=staging")))
        unscoped = app.admit(principal_with("eve", ("targets:manage", "")))
        ways: list[dict[str, Any]] = [
            {"host": "203.0.113.66"},
            {"port": 2222},
            {"hostKeyPolicy": "unchecked"},
            {
                "host_keys": [
                    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGVpbHZlZWlsdmVlaWx2ZWVpbHZlZWlsdmVlaWx2ZWVp"
                ]
            },
            {"zone": "elsewhere"},
            {"transport": "local"},
        ]
        for name in ("stg-1", "stg-2"):
            for headers, code in ((scoped, "out_of_reach"), (unscoped, "forbidden")):
                for way in ways:
                    body = {"targets": [{"name": name, **way}]}
                    item = (
                        await app.http.post("/targets/import", json=body, headers=headers)
                    ).json()["items"][0]
                    assert (item["outcome"], (item["error"] or {}).get("code")) == (
                        "refused",
                        code,
                    ), (name, way)
                    assert "credentials:use" in item["error"]["message"]
        for field, value in (
            ("credential", "root-pw"),
            ("Credential", "root-pw"),
            ("Jump", "stg-1"),
        ):
            body = {"targets": [{"name": "new", "host": "203.0.113.66", field: value}]}
            problem(
                await app.http.post("/targets/import", json=body, headers=unscoped),
                403,
                "forbidden",
            )
        assert [
            (await app.http.get(f"/targets/{target}")).json() for target in (mine, behind)
        ] == stood
        # Entries without a change of the login path, and a path without a login, are allowed within
        # the scope; with the permission, all of it is.
        for entry in (
            {"name": "stg-1", "slots": 3},
            {"name": "stg-2", "host": "10.0.0.7", "jump": None},
        ):
            answer = (
                await app.http.post("/targets/import", json={"targets": [entry]}, headers=scoped)
            ).json()
            assert answer["updated"] == 1, answer
        entitled = app.admit(
            principal_with("ada", ("manager", "env=staging"), ("credentials:use", ""))
        )
        moved = {"targets": [{"name": "stg-1", "host": "10.0.0.8"}]}
        assert (await app.http.post("/targets/import", json=moved, headers=entitled)).json()[
            "updated"
        ] == 1


async def test_a_machine_is_not_labelled_so_that_others_jobs_take_it(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        theirs = (
            await app.made(
                "/targets",
                {"name": "db-1", "host": "10.0.0.1", "labels": {"env": "prod", "role": "db"}},
            )
        )["id"]
        labels = {"env": "staging", "team": "web"}
        mine = (
            await app.made("/targets", {"name": "stg-1", "host": "10.0.0.2", "labels": labels})
        )["id"]
        ben = app.admit(principal_with("ben", ("manager", "env=staging"), ("credentials:use", "")))
        stolen: list[dict[str, str]] = [
            {**labels, "role": "db"},
            {**labels, "team": "db"},
            {**labels, "team": ""},
            {"env": "staging"},  # `team!=web` would match it
        ]
        for other in stolen:
            body = {"name": "stg-1", "host": "203.0.113.66", "labels": other}
            told = problem(
                await app.http.put(f"/targets/{mine}", json=body, headers=ben), 403, "out_of_reach"
            )
            assert told["errors"][0]["pointer"] == "/labels"
            assert "ask an administrator" in told["detail"]
            entry = {"targets": [body], "labels": "replace"}
            answer = (await app.http.post("/targets/import", json=entry, headers=ben)).json()
            assert answer["items"][0]["error"]["code"] == "out_of_reach"
        added = {"targets": [{"name": "stg-1", "labels": {"role": "db"}}]}
        answer = (await app.http.post("/targets/import", json=added, headers=ben)).json()
        assert answer["items"][0]["error"]["code"] == "out_of_reach"
        new = {"name": "stg-9", "host": "203.0.113.66", "labels": {"env": "staging", "role": "db"}}
        problem(await app.http.post("/targets", json=new, headers=ben), 403, "out_of_reach")
        assert (
            await app.http.post("/targets/import", json={"targets": [new]}, headers=ben)
        ).json()["refused"] == 1
        ids = (await app.http.get("/targets?selector=role=db")).json()["items"]
        assert [item["id"] for item in ids] == [theirs]
        same = {"name": "stg-1", "host": "10.0.0.3", "labels": labels}
        assert (await app.http.put(f"/targets/{mine}", json=same, headers=ben)).status_code == 200
        own = {"name": "stg-9", "host": "10.0.0.4", "labels": {"env": "staging"}}
        assert (await app.http.post("/targets", json=own, headers=ben)).status_code == 201
        # Several grants: each labels its own machines, and none those of another. A value that no
        # grant names cannot be chosen.
        eve = app.admit(
            principal_with(
                "eve",
                ("targets:manage", "env in (staging,dev)"),
                ("targets:manage", "role=db"),
                ("targets:manage", "canary"),
            )
        )
        cases: list[tuple[dict[str, str], int]] = [
            ({"env": "dev"}, 201),
            ({"role": "db"}, 201),
            ({"canary": ""}, 201),
            ({"canary": "yes"}, 403),
            ({"env": "dev", "role": "db"}, 403),
        ]
        for number, (new_labels, status) in enumerate(cases):
            body = {"name": f"eve-{number}", "host": "10.0.0.5", "labels": new_labels}
            assert (
                await app.http.post("/targets", json=body, headers=eve)
            ).status_code == status, new_labels
        dev = (await app.http.get("/targets?name=eve-0")).json()["items"][0]["id"]
        for new_labels, status in (({"env": "dev", "role": "db"}, 403), ({"env": "staging"}, 200)):
            body = {"name": "eve-0", "host": "10.0.0.5", "labels": new_labels}
            assert (
                await app.http.put(f"/targets/{dev}", json=body, headers=eve)
            ).status_code == status, new_labels
