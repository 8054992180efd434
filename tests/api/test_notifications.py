"""/notifications: default rules, tests of channels, and valid references of saved rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.kit import ApiClient, api_client, job, problem
from kit.ended_delivery import ended_delivery
from kit.mail_server import MailServer, mail_server
from kit.webhook_receiver import receiver
from opsjobs.model.delivery import RESPONSE_CHARACTERS_MAX
from opsjobs.model.secret import Secret
from opsjobs.model.selection import GroupDraft
from opsjobs.settings import MailSettings, PlatformSettings
from opsjobs.settings.services import AuditServiceSettings
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.system_status import SystemStatus
from opsjobs.store.transaction import Database

RULE = {"channel": "email", "to": ["ada@example.org"]}
MAIL = MailSettings(host="127.0.0.1", port=9, sender="opsjobs@example.org", timeout=2)


def mail_to(server: MailServer) -> MailSettings:
    return MailSettings(
        host="localhost",
        port=server.port,
        username="opsjobs",
        password=Secret("correct horse"),
        sender="opsjobs@example.org",
        ca_file=server.ca_file,
    )


async def secret(ada: ApiClient, name: str = "chat-url", **fields: Any) -> None:
    body = {"name": name, "type": "secret", "value": "json://127.0.0.1:9/hook", **fields}
    assert (await ada.http.post("/credentials", json=body)).status_code == 201


async def test_the_default_is_shown_replaced_and_patched(database: Database) -> None:
    async with api_client(database, mail=MAIL) as ada:
        shown = (await ada.http.get("/notifications/default")).json()
        assert shown["notify"] == []
        answer = await ada.http.put("/notifications/default", json={"notify": [RULE]})
        assert answer.json()["notify"][0]["on"] == ["failed", "recovered"]
        body = (await ada.http.get("/notifications/default")).json()
        assert (await ada.http.put("/notifications/default", json=body)).json() == body
        patched = await ada.http.patch("/notifications/default", json={"notify": []})
        assert patched.json()["notify"] == []
        rows = await database.fetch("select action from audit_log where thing like 'notif%'")
        assert len(rows) == 2, "a PUT that changes nothing leaves no row"


async def test_only_an_administrator_changes_the_default(database: Database) -> None:
    async with api_client(database, mail=MAIL) as ada:
        manager = await ada.token_of("manager")
        assert (await ada.http.get("/notifications/default", headers=manager)).status_code == 200
        refused = await ada.http.put("/notifications/default", json={"notify": []}, headers=manager)
        problem(refused, 403, "forbidden")


@pytest.mark.parametrize(
    ("rule", "code", "pointer"),
    [
        ({"channel": "service", "to": ["17"]}, "channel_unavailable", "/channel"),
        ({"channel": "webhook", "to": ["pager"]}, "unknown_webhook", "/to/0"),
        ({"channel": "apprise", "to": ["chat-url", "gone"]}, "unknown_credential", "/to/1"),
        ({"channel": "apprise", "to": ["web-key"]}, "not_a_secret", "/to/0"),
    ],
)
async def test_a_rule_names_what_is_there_wherever_it_is_saved(
    database: Database, rule: dict[str, Any], code: str, pointer: str
) -> None:
    async with api_client(database, mail=MAIL) as ada:
        await secret(ada)
        login = {"name": "web-key", "type": "password", "username": "root", "password": "x" * 12}
        assert (await ada.http.post("/credentials", json=login)).status_code == 201
        made = (await ada.http.post("/jobs", json=job())).json()
        nightly = {"type": "cron", "cron": "30 2 * * *", "notify": [RULE, rule]}
        with_rule = job(policy={"notify": [RULE, rule]})
        for path, body, place in (
            ("/jobs", with_rule, "/policy/notify/1"),
            ("/jobs/apply", {"jobs": [job("other"), with_rule]}, "/jobs/1/policy/notify/1"),
            (f"/jobs/{made['id']}/schedules", nightly, "/notify/1"),
            ("/notifications/test", rule, ""),
        ):
            found = problem(await ada.http.post(path, json=body), 422, code)
            assert found["errors"][0]["pointer"] == place + pointer
        found = problem(
            await ada.http.put("/notifications/default", json={"notify": [rule]}), 422, code
        )
        assert found["errors"][0]["pointer"] == f"/notify/0{pointer}"
        report = (await ada.http.post("/jobs/validate", json=with_rule)).json()
        assert [e["pointer"] for e in report["errors"] if e["code"] == code] == [
            f"/policy/notify/1{pointer}"
        ]


async def test_without_a_mail_server_no_rule_by_email_is_saved(database: Database) -> None:
    async with api_client(database) as ada:
        found = problem(
            await ada.http.post("/jobs", json=job(policy={"notify": [RULE]})),
            422,
            "channel_unavailable",
        )
    assert "OPSJOBS_SMTP_HOST" in found["detail"]


async def test_naming_a_credential_needs_the_right_to_use_it(database: Database) -> None:
    async with api_client(database, mail=MAIL) as ada:
        await secret(ada)
        grants = [{"permissions": ["jobs:create", "jobs:update"]}]
        key = (await ada.http.post("/api-keys", json={"name": "ben", "grants": grants})).json()
        headers = {"Authorization": f"Bearer {key['token']}"}
        rule = {"channel": "apprise", "to": ["chat-url"]}
        for path, body in (
            ("/jobs", job(policy={"notify": [rule]})),
            ("/notifications/test", rule),
        ):
            problem(await ada.http.post(path, json=body, headers=headers), 403, "forbidden")
        saved = await ada.http.post("/jobs", json=job(policy={"notify": [rule]}))
        assert saved.status_code == 201
        assert saved.json()["policy"]["notify"][0]["to"] == ["chat-url"]


async def test_a_rule_names_webhooks_of_others_only_if_the_caller_manages_all(
    database: Database,
) -> None:
    async with receiver() as server, api_client(database) as ada:
        server.reply = lambda _: (200, {}, b"internal " * 1_000)
        hook = {"name": "pager", "url": server.url(), "events": ["execution.failed"]}
        assert (await ada.http.post("/webhooks", json=hook)).status_code == 201
        tokens = {}
        for name, grants in {
            "ben": [{"permissions": ["jobs:create", "jobs:update", "jobs:read"]}],
            "eve": [{"role": "manager", "scope": "env=staging"}],
        }.items():
            key = (await ada.http.post("/api-keys", json={"name": name, "grants": grants})).json()
            tokens[name] = {"Authorization": f"Bearer {key['token']}"}
        rule = {"channel": "webhook", "to": ["pager"]}
        for headers in tokens.values():
            answer = await ada.http.post("/notifications/test", json=rule, headers=headers)
            problem(answer, 422, "unknown_webhook")
        ben, with_rule = tokens["ben"], job(policy={"notify": [rule]})
        problem(await ada.http.post("/jobs", json=with_rule, headers=ben), 422, "unknown_webhook")
        report = await ada.http.post("/jobs/validate", json=with_rule, headers=ben)
        assert "unknown_webhook" in [each["code"] for each in report.json()["errors"]]
        assert server.received == []
        own = {**hook, "name": "eves"}
        made = await ada.http.post("/webhooks", json=own, headers=tokens["eve"])
        assert made.status_code == 201
        for name, headers in (("eves", tokens["eve"]), ("pager", {})):
            body = {**rule, "to": [name]}
            answer = await ada.http.post("/notifications/test", json=body, headers=headers)
            (item,) = answer.json()["items"]
            assert (item["delivered"], len(item["response"])) == (True, RESPONSE_CHARACTERS_MAX)
        assert len(server.received) == 2


async def test_a_channel_is_tried_now_and_says_what_came_of_it(
    database: Database, tmp_path: Path
) -> None:
    async with mail_server(tmp_path) as server, api_client(database, mail=mail_to(server)) as ada:
        server.replies["ben@example.org"] = "550 no such mailbox"
        rule = {**RULE, "to": ["ada@example.org", "ben@example.org"], "subject": "try: ${summary}"}
        answer = await ada.http.post("/notifications/test", json=rule)
        sent, refused = answer.json()["items"]
        assert sent == {
            "to": "ada@example.org",
            "delivered": True,
            "code": None,
            "response": "OK kept",
            "error": None,
        }
        assert (refused["delivered"], refused["code"]) == (False, 550)
        assert "no such mailbox" in refused["error"]
        assert len(server.received) == 1
        assert b"Subject: try: " in server.received[0].content
        dry = await ada.http.post("/notifications/test?dry_run=true", json=rule)
        assert (dry.json(), len(server.received)) == ({"items": []}, 1)
        wrong = await ada.http.post(
            "/notifications/test?dry_run=true", json={**rule, "text": "${nobody}"}
        )
        assert [one["pointer"] for one in problem(wrong, 422, "unknown_name")["errors"]] == [
            "/text"
        ]
        (row,) = await database.fetch("select after from audit_log where thing = 'notification'")
        assert row["after"]["to"] == ["ada@example.org", "ben@example.org"]


async def test_a_channel_that_is_down_is_said_and_not_tried_again(database: Database) -> None:
    async with api_client(database, mail=MAIL) as ada:
        (item,) = (await ada.http.post("/notifications/test", json=RULE)).json()["items"]
    assert item["delivered"] is False
    assert "127.0.0.1:9 cannot be used" in item["error"]


async def test_a_schedule_shows_and_keeps_its_rules(database: Database) -> None:
    async with api_client(database, mail=MAIL) as ada:
        made = (await ada.http.post("/jobs", json=job())).json()
        body = {"type": "cron", "cron": "30 2 * * *", "notify": [RULE]}
        schedule = (await ada.http.post(f"/jobs/{made['id']}/schedules", json=body)).json()
        assert schedule["notify"][0]["channel"] == "email"
        changed = await ada.http.patch(
            f"/schedules/{schedule['id']}", json={"notify": None}, headers={"If-Match": "*"}
        )
        assert changed.json()["notify"] is None


async def test_deliveries_are_listed_and_those_that_failed_are_sent_again(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        failed = await ended_delivery(database)
        await ended_delivery(database, to="ben@example.org", status="delivered", name="m-2")
        page = (await ada.http.get("/deliveries", params={"status": "failed"})).json()
        (item,) = page["items"]
        assert (item["id"], item["destination"], item["to"]) == (failed, "email", "ada@example.org")
        assert (item["title"], item["error"]) == ("[opsjobs] backup failed", "it answers 550")
        made = await ada.http.post(f"/deliveries/{failed}/redeliver")
        assert made.status_code == 202
        again = made.json()
        assert (again["status"], again["redelivery"]) == ("pending", True)
        assert again["message_id"] == item["message_id"]
        assert (await ada.http.get(f"/deliveries/{again['id']}")).json() == again
        problem(
            await ada.http.post(f"/deliveries/{again['id']}/redeliver"), 409, "delivery_pending"
        )
        problem(await ada.http.get("/deliveries/999"), 404, "delivery_not_found")
        viewer = await ada.token_of("viewer")
        assert (await ada.http.get("/deliveries", headers=viewer)).status_code == 200
        refused = await ada.http.post(f"/deliveries/{failed}/redeliver", headers=viewer)
        problem(refused, 403, "forbidden")


async def test_the_status_says_what_the_audit_service_has_not_got(database: Database) -> None:
    platform = PlatformSettings(audit=AuditServiceSettings(url="http://127.0.0.1:9"))
    async with api_client(database, platform=platform) as ada:
        ada.services.system_status = SystemStatus(database)
        await Deliveries(database).start_source("audit_service", 0)
        await ada.services.groups.create(GroupDraft(name="web"))
        await ada.services.seals.seal()
        (shown,) = (await ada.http.get("/status")).json()["integrations"]
    assert (shown["name"], shown["waiting"]) == ("audit", 1)
