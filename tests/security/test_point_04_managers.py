"""Point 4: what a manager within a scope can not turn his machines into."""

from __future__ import annotations

from typing import Any

from api.kit import problem
from opsjobs.model.credential import CredentialDraft
from opsjobs.store.transaction import Database
from security.world import STAGING, badge, world

LOGIN = CredentialDraft(name="root-pw", type="password", username="root", password="s3cret-s3cret")


async def test_point_04_an_import_does_not_send_a_stored_login_another_way_without_the_right_to_use_it(
    database: Database,
) -> None:
    async with world(database) as all_:
        await all_.parts.vault.create(LOGIN)
        mine = await all_.target("stg-1", STAGING, credential="root-pw")
        behind = await all_.target("stg-2", STAGING, jump="stg-1")
        stood = [(await all_.http.get(f"/targets/{target}")).json() for target in (mine, behind)]
        scoped = all_.admit(badge("ben", ("manager", "env=staging")))
        unscoped = all_.admit(badge("eve", ("targets:manage", "")))
        ways: list[dict[str, Any]] = [
            {"host": "203.0.113.66"},
            {"port": 2222},
            {"hostKeyPolicy": "unchecked"},
            {"host_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGVpbHZlZWlsdmVlaWx2ZWVpbHZlZWlsdmVlaWx2ZWVp"]},
            {"zone": "elsewhere"},
            {"transport": "local"},
        ]
        for name in ("stg-1", "stg-2"):
            for headers, code in ((scoped, "out_of_reach"), (unscoped, "forbidden")):
                for way in ways:
                    body = {"targets": [{"name": name, **way}]}
                    item = (await all_.http.post("/targets/import", json=body, headers=headers)).json()["items"][0]
                    assert (item["outcome"], (item["error"] or {}).get("code")) == ("refused", code), (name, way)
                    assert "credentials:use" in item["error"]["message"]
        for field, value in (("credential", "root-pw"), ("Credential", "root-pw"), ("Jump", "stg-1")):
            body = {"targets": [{"name": "new", "host": "203.0.113.66", field: value}]}
            problem(await all_.http.post("/targets/import", json=body, headers=unscoped), 403, "forbidden")
        assert [(await all_.http.get(f"/targets/{target}")).json() for target in (mine, behind)] == stood
        # What leaves the way as it is, and a way without the login, are his to say; so is all of it with the right.
        for entry in ({"name": "stg-1", "slots": 3}, {"name": "stg-2", "host": "10.0.0.7", "jump": None}):
            answer = (await all_.http.post("/targets/import", json={"targets": [entry]}, headers=scoped)).json()
            assert answer["updated"] == 1, answer
        entitled = all_.admit(badge("ada", ("manager", "env=staging"), ("credentials:use", "")))
        moved = {"targets": [{"name": "stg-1", "host": "10.0.0.8"}]}
        assert (await all_.http.post("/targets/import", json=moved, headers=entitled)).json()["updated"] == 1
