"""/webhooks over HTTP: the secret is shown once, and a scoped caller only sees its own."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem, stored
from opsjobs.model.access import Role
from opsjobs.store.transaction import Database

HOOK: dict[str, Any] = {
    "name": "tickets",
    "url": "https://tickets.example.org/hook",
    "events": ["execution.failed", "approval.*"],
}


async def made(ada: ApiClient, **fields: Any) -> dict[str, Any]:
    answer = await ada.http.post("/webhooks", json={**HOOK, **fields})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/webhooks/{body['id']}"
    return body


async def test_a_webhook_is_created_shown_changed_rotated_and_deleted(database: Database) -> None:
    async with api_client(database) as ada:
        hook = await made(ada, selector="env=prod")
        assert hook["secret"].startswith("whsec_")
        assert (hook["enabled"], hook["owner"], hook["failures"]) == (True, "ada", 0)
        path = f"/webhooks/{hook['uuid']}"
        shown = await ada.http.get(path)
        assert hook["secret"] not in shown.text
        assert stored(shown.json()) == {name: hook[name] for name in hook if name != "secret"}
        changed = await ada.http.patch(path, json={"events": ["*"], "selector": None})
        assert (changed.json()["events"], changed.json()["selector"]) == (["*"], None)
        same = await ada.http.put(path, json=changed.json())
        assert same.status_code == 200, same.text
        rotated = (await ada.http.post(f"{path}/rotate", json={"overlap": "1h"})).json()
        assert rotated["secret"] not in ("", hook["secret"])
        assert rotated["previous_secret_until"] is not None
        problem(await ada.http.post("/webhooks", json=HOOK), 409, "name_taken")
        assert (await ada.http.delete(path)).status_code == 204
        problem(await ada.http.get(path), 404, "webhook_not_found")
        rows = await database.fetch("select after::text as told from audit_log")
        assert not any("whsec_" in str(row["told"]) for row in rows)


async def test_the_secret_is_not_stored_readably_and_a_repeated_request_does_not_have_it(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        key = {"Idempotency-Key": "once"}
        first = await ada.http.post("/webhooks", json=HOOK, headers=key)
        again = await ada.http.post("/webhooks", json=HOOK, headers=key)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == {**first.json(), "secret": None}
        (row,) = await database.fetch("select w::text as all from webhooks w")
        assert first.json()["secret"].removeprefix("whsec_") not in row["all"]


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"url": "ftp://example.org/"}, "invalid", "/url"),
        ({"url": "https://ada:secret@example.org/"}, "invalid", "/url"),
        ({"url": "https://10.0.0.1/hook"}, "private_address", "/url"),
        ({"url": "https://[::ffff:169.254.169.254]/"}, "private_address", "/url"),
        ({"events": []}, "invalid", "/events"),
        ({"events": ["execution.done"]}, "invalid", "/events/0"),
        ({"selector": "env=="}, "invalid", "/selector"),
    ],
)
async def test_invalid_webhooks_are_refused_with_a_pointer(
    database: Database, fields: dict[str, Any], code: str, pointer: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/webhooks", json={**HOOK, **fields})
        assert answer.status_code == 422, answer.text
        if code != "invalid":
            problem(answer, 422, code)
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_caller_within_a_scope_sees_and_changes_its_own_webhooks_only(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        hook = await made(ada)
        issued = await ada.http.post(
            "/api-keys", json={"name": "ben", "role": Role.MANAGER.value, "scope": "env=staging"}
        )
        ben = {"Authorization": f"Bearer {issued.json()['token']}"}
        assert (await ada.http.get("/webhooks", headers=ben)).json()["items"] == []
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/deliveries"),
            ("POST", "/test"),
        ):
            answer = await ada.http.request(method, f"/webhooks/{hook['id']}{path}", headers=ben)
            problem(answer, 404, "webhook_not_found")
        own = await ada.http.post("/webhooks", json={**HOOK, "name": "bens"}, headers=ben)
        assert own.json()["owner"] == "ben"
        assert len((await ada.http.get("/webhooks", headers=ben)).json()["items"]) == 1
        assert len((await ada.http.get("/webhooks")).json()["items"]) == 2
        for change in ({"events": ["*"]}, {"enabled": False}, {"enabled": True}):
            changed = await ada.http.patch(f"/webhooks/{own.json()['id']}", json=change)
            assert changed.status_code == 200, changed.text
            assert changed.json()["owner"] == "ben", "what it gets is what ben may see"


async def test_a_name_stays_with_its_owner_after_the_webhook_is_gone(database: Database) -> None:
    async with api_client(database) as ada:
        issued = await ada.http.post(
            "/api-keys", json={"name": "ben", "role": Role.MANAGER.value, "scope": "env=staging"}
        )
        ben = {"Authorization": f"Bearer {issued.json()['token']}"}
        deleted, renamed = await made(ada, name="pager"), await made(ada, name="chat")
        await ada.http.delete(f"/webhooks/{deleted['id']}")
        await ada.http.patch(f"/webhooks/{renamed['id']}", json={"name": "talk"})
        own = await ada.http.post("/webhooks", json={**HOOK, "name": "bens"}, headers=ben)
        for name in ("pager", "chat"):
            body = {**HOOK, "name": name}
            found = problem(
                await ada.http.post("/webhooks", json=body, headers=ben), 409, "name_taken"
            )
            assert "belonged to a webhook of another owner" in found["detail"]
            path = f"/webhooks/{own.json()['id']}"
            answer = await ada.http.patch(path, json={"name": name}, headers=ben)
            problem(answer, 409, "name_taken")
        await made(ada, name="pager")
        assert (await ada.http.delete(f"/webhooks/{own.json()['id']}", headers=ben)).is_success
        again = await ada.http.post("/webhooks", json={**HOOK, "name": "bens"}, headers=ben)
        assert again.status_code == 201, "it is the owner's own name"


async def test_an_owner_has_so_many_names_and_those_of_deleted_webhooks_count(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.store.webhooks.NAMES_PER_OWNER_MAX", 2)
    async with api_client(database) as ada:
        one, two = [await made(ada, name=name) for name in ("one", "two")]
        assert (await ada.http.delete(f"/webhooks/{one['id']}")).status_code == 204
        full = await ada.http.post("/webhooks", json={**HOOK, "name": "three"})
        refused = problem(full, 409, "too_many_webhooks")
        assert "those of deleted webhooks count for 30 days" in refused["detail"]
        renamed = await ada.http.patch(f"/webhooks/{two['id']}", json={"name": "three"})
        problem(renamed, 409, "too_many_webhooks")
        await made(ada, name="one")
        rows = await database.fetch("select name from webhook_names where released_at is null")
        assert {row["name"] for row in rows} == {"one", "two"}
        ben = await ada.token_of("manager")
        own = await ada.http.post("/webhooks", json={**HOOK, "name": "bens"}, headers=ben)
        assert own.status_code == 201


async def test_deliveries_are_listed_and_ended_ones_are_delivered_again(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        hook = await made(ada)
        path = f"/webhooks/{hook['id']}"
        tested = await ada.http.post(f"{path}/test")
        assert tested.status_code == 202
        delivery = tested.json()
        assert (delivery["event"], delivery["status"]) == ("webhook.test", "pending")
        assert (await ada.http.get(tested.headers["location"])).json() == delivery
        again = f"{path}/deliveries/{delivery['id']}/redeliver"
        problem(await ada.http.post(again), 409, "delivery_pending")
        await ada.http.patch(path, json={"enabled": False})
        problem(await ada.http.post(f"{path}/test"), 409, "webhook_disabled")
        (cancelled,) = (await ada.http.get(f"{path}/deliveries")).json()["items"]
        assert (cancelled["status"], cancelled["error"]) == (
            "cancelled",
            "the webhook was disabled",
        )
        await ada.http.patch(path, json={"enabled": True})
        redelivered = (await ada.http.post(again)).json()
        assert redelivered["message_id"] == delivery["message_id"]
        assert redelivered["redelivery"] is True
        listed = await ada.http.get(f"{path}/deliveries?status=pending")
        assert [each["id"] for each in listed.json()["items"]] == [redelivered["id"]]
        problem(await ada.http.get(f"{path}/deliveries/999"), 404, "delivery_not_found")
        problem(await ada.http.get(f"{path}/deliveries/x"), 404, "delivery_not_found")
