"""Triggers: their routes, and calls of their URLs in the form of GitHub, GitLab and others."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from api.kit import ApiClient, api_client, job, problem, stored
from opsjobs.clock import TurnedClock
from opsjobs.engine.launching.trigger_calls import RefusalSummary
from opsjobs.model.target import TargetDraft
from opsjobs.store.transaction import Database
from opsjobs.store.triggers import CALLS_KEPT, Hook

PARAMETERS = [
    {"name": "branch", "required": True, "pattern": "[a-z/-]+"},
    {"name": "by", "default": "nobody"},
    {"name": "token", "type": "secret"},
]
PUSH: dict[str, Any] = {
    "ref": "refs/heads/main",
    "after": "9fceb02",
    "pusher": {"name": "ben"},
    "commits": [{"id": "9fceb02", "modified": ["a/b.conf"]}],
}
GITHUB = {
    "name": "push",
    "verify": "github",
    "parameters": {"branch": {"pointer": "/ref"}, "by": {"pointer": "/pusher/name"}},
    "when": [
        {"pointer": "/ref", "any_of": ["refs/heads/main"]},
        {"header": "X-GitHub-Event", "equals": "push"},
    ],
}
NOBODY = {"Authorization": ""}


class TriggerSender:
    """A sender that knows the secret of one trigger, and no token."""

    def __init__(self, ada: ApiClient, trigger: Mapping[str, Any]) -> None:
        self.http = ada.http
        self.path = trigger["path"]
        self.secret = trigger["secret"]

    async def send(self, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        """Send a body with these headers."""
        sent = {**NOBODY, "Content-Type": "application/json", **headers}
        return await self.http.post(self.path, content=body, headers=sent)

    async def push(
        self, body: Any = PUSH, *, event: str = "push", delivery: str | None = None, **changed: Any
    ) -> httpx2.Response:
        """Call as GitHub does."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        signature = hmac.new(self.secret.encode(), raw, "sha256").hexdigest()
        headers = {"X-GitHub-Event": event, "X-Hub-Signature-256": f"sha256={signature}"}
        if delivery is not None:
            headers["X-GitHub-Delivery"] = delivery
        return await self.send(raw, {**headers, **changed})

    async def bearer(self, body: Any = None, **headers: str) -> httpx2.Response:
        """Call with the secret itself."""
        raw = b"" if body is None else json.dumps(body).encode()
        return await self.send(raw, {"Authorization": f"Bearer {self.secret}", **headers})


async def create_trigger(ada: ApiClient, **fields: Any) -> dict[str, Any]:
    """Create a trigger of a job with parameters on one target."""
    if not (await ada.http.get("/targets")).json()["items"]:
        await ada.services.inventory.create(
            TargetDraft(name="web-1", host="10.0.0.1", groups=["web"])
        )
    body = job(name=f"deploy-{fields.get('name', 'push')}", parameters=PARAMETERS)
    stored = await ada.http.post("/jobs", json=body)
    assert stored.status_code == 201, stored.text
    answer = await ada.http.post(f"/jobs/{stored.json()['id']}/triggers", json={**GITHUB, **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/triggers/{answer.json()['id']}"
    found: dict[str, Any] = answer.json()
    return found


async def calls(ada: ApiClient, trigger: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the last calls of the trigger, the newest first."""
    found: list[dict[str, Any]] = (await ada.http.get(f"/triggers/{trigger['id']}/calls")).json()[
        "items"
    ]
    return found


async def executions(ada: ApiClient) -> list[dict[str, Any]]:
    """Return all executions, the newest first."""
    found: list[dict[str, Any]] = (await ada.http.get("/executions")).json()["items"]
    return found


async def audited(ada: ApiClient, action: str) -> list[dict[str, Any]]:
    """Return the rows of the audit log with this action, the newest first."""
    found: list[dict[str, Any]] = (await ada.http.get(f"/audit?action={action}")).json()["items"]
    return found


async def test_a_push_launches_the_job_once_with_its_parameters_in_the_owners_name(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada)
        sender = TriggerSender(ada, trigger)
        first = await sender.push(delivery="7d1f")
        assert first.status_code == 202, first.text
        again = await sender.push(delivery="7d1f")
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["Idempotency-Replayed"] == "true"
        (execution,) = await executions(ada)
        assert execution["id"] == first.json()["execution"]["id"]
        assert execution["triggered_by"] == "webhook"
        assert execution["requested_by"] == "ada"
        assert execution["reason"] == "trigger push"
        assert execution["parameters"] == {"branch": "refs/heads/main", "by": "ben", "token": None}
        repeated, launched = await calls(ada, trigger)
        assert (repeated["outcome"], launched["outcome"]) == ("repeated", "launched")
        assert repeated["execution_id"] == launched["execution_id"] == execution["id"]
        assert launched["delivery"] == "7d1f"
        (row,) = await audited(ada, "execution.launched")
        assert (row["actor"], row["reason"]) == ("ada", "trigger push")
        shown = (await ada.http.get(f"/triggers/{trigger['id']}")).json()
        assert (shown["calls"], shown["last_call"]["outcome"]) == (2, "repeated")
        assert trigger["secret"] not in json.dumps(shown)


async def test_other_events_and_branches_launch_nothing_and_a_ping_is_answered(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada)
        sender = TriggerSender(ada, trigger)
        for body, event, reason in (
            (PUSH, "release", "not met: the header X-GitHub-Event is push"),
            ({**PUSH, "ref": "refs/heads/dev"}, "push", "not met: /ref is one of refs/heads/main"),
        ):
            answer = await sender.push(body, event=event)
            assert answer.status_code == 200
            assert answer.json() == {"outcome": "ignored", "reason": reason, "execution": None}
        answer = await sender.push({"zen": "Keep it logically awesome."}, event="ping")
        assert (answer.status_code, answer.json()["outcome"]) == (200, "ping")
        assert [call["outcome"] for call in await calls(ada, trigger)] == [
            "ping",
            "ignored",
            "ignored",
        ]
        assert await executions(ada) == []


async def test_a_wrong_secret_and_no_trigger_at_all_are_one_answer(database: Database) -> None:
    async with api_client(database) as ada:
        trigger, off = (
            await create_trigger(ada),
            await create_trigger(ada, name="off", enabled=False),
        )
        good = TriggerSender(ada, trigger)
        wrong = TriggerSender(ada, {**trigger, "secret": off["secret"]})
        nowhere = {**trigger, "path": "/hooks/01934c3b-7e8d-7abc-8def-0123456789ab"}
        answers = [
            await wrong.push(),
            await good.push(**{"X-Hub-Signature-256": "sha256=\xe9".encode("latin-1")}),
            await good.push(**{"X-Hub-Signature-256": ""}),
            await good.bearer(PUSH),
            await TriggerSender(ada, nowhere).push(),
            await TriggerSender(ada, {**nowhere, "path": "/hooks/1"}).push(),
            await TriggerSender(ada, off).push(),
            await wrong.push(b"{not json"),
        ]
        told = [problem(answer, 404, "hook_not_found") for answer in answers]
        assert len({body["detail"] for body in told}) == 1
        assert await executions(ada) == []
        (refused,) = await calls(ada, trigger)
        assert (refused["outcome"], refused["code"]) == ("refused", "hook_not_found")
        assert refused["reason"].startswith("X-Hub-Signature-256 does not fit")
        assert [call["reason"] for call in await calls(ada, off)] == ["the trigger is disabled"]


async def test_a_flood_of_wrong_secrets_leaves_a_row_a_minute(database: Database) -> None:
    clock = TurnedClock()
    async with api_client(database, clock=clock) as ada:
        trigger = await create_trigger(ada)
        wrong = TriggerSender(ada, {**trigger, "secret": "whsec_d3Jvbmc="})
        for _ in range(5):
            await wrong.push()
        assert [row["after"]["calls"] for row in await audited(ada, "trigger.refused")] == [1]
        clock.turn(61)
        await wrong.push()
        rows = await audited(ada, "trigger.refused")
        assert [row["after"]["calls"] for row in rows] == [5, 1]
        assert rows[0]["thing_name"] == "push"
        assert rows[0]["actor"] == "unauthenticated"
        assert [call["times"] for call in await calls(ada, trigger)] == [5, 1]


async def test_calls_of_made_up_triggers_are_one_row_a_minute_and_hide_no_others(
    database: Database,
) -> None:
    clock = TurnedClock()
    async with api_client(database, clock=clock) as ada:
        trigger = await create_trigger(ada)
        for _ in range(RefusalSummary.ROWS_A_MINUTE + 5):
            await TriggerSender(ada, {**trigger, "path": f"/hooks/{uuid4()}"}).push()
        await TriggerSender(ada, {**trigger, "secret": "whsec_d3Jvbmc="}).push()
        real, made_up = await audited(ada, "trigger.refused")
        assert (real["thing_name"], made_up["thing_name"]) == ("push", None)
        assert [call["times"] for call in await calls(ada, trigger)] == [1]
        clock.turn(61)
        await TriggerSender(ada, {**trigger, "path": f"/hooks/{uuid4()}"}).push()
        newest = (await audited(ada, "trigger.refused"))[0]
        assert newest["after"]["calls"] == RefusalSummary.ROWS_A_MINUTE + 5


async def test_the_owners_rights_are_asked_for_at_each_call(database: Database) -> None:
    async with api_client(database) as ada:
        dev = await ada.token_of("developer")
        await create_trigger(ada)
        body = {**GITHUB, "name": "bens"}
        mine = (await ada.http.post("/jobs/1/triggers", json=body, headers=dev)).json()
        sender = TriggerSender(ada, mine)
        assert (await sender.push()).status_code == 202
        keys = (await ada.http.get("/api-keys")).json()["items"]
        gone = next(key["id"] for key in keys if key["name"] == "ben-developer")
        assert (await ada.http.delete(f"/api-keys/{gone}")).status_code == 204
        told = problem(await sender.push(), 403, "out_of_reach")
        assert "ben" not in told["detail"]
        refused = (await calls(ada, mine))[0]
        assert "ben-developer (an API key) is gone" in refused["reason"]
        (row,) = await audited(ada, "trigger.refused")
        assert (row["thing_name"], row["after"]["code"]) == ("bens", "out_of_reach")
        # The user who enables it again becomes its owner.
        enabled = await ada.http.post(f"/triggers/{mine['id']}/enable")
        assert enabled.json()["owner"] == "ada"
        assert (await sender.push()).status_code == 202


async def test_a_body_that_the_job_refuses_is_refused_with_the_reason(database: Database) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada, when=[])
        sender = TriggerSender(ada, trigger)
        told = problem(await sender.push({**PUSH, "ref": "MAIN;"}), 422, "invalid_parameters")
        assert told["errors"][0]["pointer"] == "/parameters/branch"
        problem(await sender.push({"ref": {"name": "main"}}), 422, "invalid_parameters")
        problem(await sender.push({}), 422, "invalid_parameters")
        problem(await sender.push(b'{"ref": 1, "ref": 2}'), 422, "duplicate_key")
        problem(await sender.push(b"[" * 40 + b"]" * 40), 422, "too_deep")
        problem(await sender.push(b"{"), 422, "malformed_json")
        problem(await sender.push(PUSH, delivery="x" * 300), 422, "invalid_header")
        problem(await sender.push(b" " * (1 << 20) + b"{}"), 413, "body_too_large")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        problem(await sender.push(PUSH, **form), 415, "unsupported_media_type")
        await ada.http.post(f"/jobs/{trigger['job_id']}/pause")
        told = problem(await sender.push(), 409, "job_is_paused")
        assert "deploy" not in told["detail"]
        assert "deploy-push is paused" in (await calls(ada, trigger))[0]["reason"]
        # Refused calls count, too, so that a sender of nonsense is slowed down.
        shown = (await ada.http.get(f"/triggers/{trigger['id']}")).json()
        assert shown["calls"] == 8
        await ada.http.patch(f"/triggers/{trigger['id']}", json={"max_calls_per_minute": 8})
        problem(await sender.push(), 429, "too_many_requests")
        assert await executions(ada) == []


async def test_a_secret_parameter_comes_from_the_call_and_is_sealed(database: Database) -> None:
    async with api_client(database) as ada:
        sources = {"branch": {"value": "main"}, "token": {"header": "X-Deploy-Token"}}
        trigger = await create_trigger(ada, verify="bearer", parameters=sources, when=[])
        sender = TriggerSender(ada, trigger)
        answer = await sender.bearer(**{"X-Deploy-Token": "of-the-canary"})
        assert answer.status_code == 202, answer.text
        (execution,) = await executions(ada)
        assert execution["parameters"] == {"branch": "main", "by": "nobody", "token": "***"}
        rows = await database.fetch("select parameters::text as text from execution_specs")
        assert "of-the-canary" not in rows[0]["text"]


async def test_standard_webhooks_are_verified_with_their_time(database: Database) -> None:
    clock = TurnedClock()
    async with api_client(database, clock=clock) as ada:
        trigger = await create_trigger(ada, verify="standard_webhooks", when=[])
        sender = TriggerSender(ada, trigger)

        async def send(at: int, message: str = "msg_1") -> httpx2.Response:
            raw = json.dumps(PUSH).encode()
            key = base64.b64decode(sender.secret.removeprefix("whsec_"))
            signed = f"{message}.{at}.".encode() + raw
            signature = base64.b64encode(hmac.new(key, signed, "sha256").digest()).decode()
            headers = {"webhook-id": message, "webhook-timestamp": str(at)}
            return await sender.send(raw, {**headers, "webhook-signature": f"v1a,x v1,{signature}"})

        now = int(clock.now().timestamp())
        first = await send(now)
        assert first.status_code == 202, first.text
        assert (await send(now + 299)).json() == first.json()
        problem(await send(now - 301, "msg_2"), 404, "hook_not_found")
        problem(await send(now + 301, "msg_2"), 404, "hook_not_found")
        assert len(await executions(ada)) == 1
        assert (await calls(ada, trigger))[0]["reason"].startswith("webhook-timestamp is more than")


async def test_a_delivery_that_comes_twice_at_once_launches_once(database: Database) -> None:
    async with api_client(database) as ada:
        sender = TriggerSender(ada, await create_trigger(ada))
        answers = await asyncio.gather(*(sender.push(delivery="7d1f") for _ in range(4)))
        # A call during the launch of the first one may be asked to come again.
        assert {answer.status_code for answer in answers} <= {202, 409}
        launched = {answer.json()["execution"]["id"] for answer in answers if answer.is_success}
        assert {execution["id"] for execution in await executions(ada)} == launched
        assert len(launched) == 1
        assert (await sender.push(delivery="7d1f")).json()["execution"]["id"] in launched


async def test_a_flood_of_calls_is_refused_before_anything_is_looked_up_and_hinders_no_login(
    database: Database,
) -> None:
    clock = TurnedClock()
    async with api_client(database, clock=clock, unauthenticated_a_second=5) as ada:
        trigger = await create_trigger(ada)
        wrong = TriggerSender(ada, {**trigger, "secret": "whsec_d3Jvbmc="})
        told = [(await wrong.push()).status_code for _ in range(25)]
        assert told == [404] * 20 + [429] * 5
        asked = 0

        async def hook(uuid: object) -> None:
            nonlocal asked
            asked += 1

        ada.services.job_triggers.hook = hook
        problem(await wrong.push(), 429, "too_many_requests")
        assert asked == 0
        guess = {"username": "ada", "password": "guess"}
        login = await ada.http.post("/auth/login", json=guess, headers=NOBODY)
        problem(login, 401, "login_failed")


async def test_gitlab_sends_the_secret_in_its_own_header(database: Database) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(
            ada, verify="gitlab", when=[{"pointer": "/ref", "exists": True}]
        )
        sender = TriggerSender(ada, trigger)
        headers = {"X-Gitlab-Token": sender.secret, "X-Gitlab-Event-UUID": "13792a34"}
        raw = json.dumps(PUSH).encode()
        assert (await sender.send(raw, headers)).status_code == 202
        assert (await sender.send(raw, headers)).headers["Idempotency-Replayed"] == "true"
        problem(await sender.send(raw, {"X-Gitlab-Token": "guess"}), 404, "hook_not_found")


async def test_calls_beyond_the_limit_are_429_until_the_minute_is_over(database: Database) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada, max_calls_per_minute=2)
        sender = TriggerSender(ada, trigger)
        assert [(await sender.push(delivery=str(n))).status_code for n in range(3)] == [
            202,
            202,
            429,
        ]
        # A repeated delivery gets its response, whatever the limit.
        assert (await sender.push(delivery="1")).status_code == 202
        refused = await sender.push(delivery="3")
        assert "2 calls a minute" in problem(refused, 429, "too_many_requests")["detail"]
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        async with database.connection() as connection:
            await connection.execute(
                "update job_triggers set window_began_at = window_began_at - interval '1 minute'"
            )
        assert (await sender.push(delivery="3")).status_code == 202
        assert len(await executions(ada)) == 3


@pytest.mark.parametrize(
    ("body", "status"), [(PUSH, 202), ({**PUSH, "ref": "MAIN;"}, 422), (b"{", 422)]
)
async def test_calls_at_the_same_moment_do_not_pass_the_limit_together(
    database: Database, body: Any, status: int
) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada, max_calls_per_minute=2, when=[])
        sender = TriggerSender(ada, trigger)
        found, read = ada.services.job_triggers.hook, asyncio.Barrier(6)

        async def hook(uuid: UUID) -> Hook | None:
            seen = await found(uuid)
            await read.wait()  # all of them see that none was counted yet
            return seen

        ada.services.job_triggers.hook = hook  # type: ignore[method-assign]
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(sender.push(body) for _ in range(6)))
        assert sorted(answer.status_code for answer in answers) == [status] * 2 + [429] * 4
        assert (await ada.http.get(f"/triggers/{trigger['id']}")).json()["calls"] == 2


async def test_ignored_and_repeated_calls_use_up_none_of_the_calls_of_a_minute(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada, max_calls_per_minute=2)
        sender = TriggerSender(ada, trigger)
        for _ in range(5):
            assert (await sender.push(event="release")).status_code == 200
            assert (await sender.push(event="ping")).status_code == 200
        for _ in range(5):
            assert (await sender.push(delivery="1")).status_code == 202
        assert (await sender.push(delivery="2")).status_code == 202
        problem(await sender.push(delivery="3"), 429, "too_many_requests")
        assert (await ada.http.get(f"/triggers/{trigger['id']}")).json()["calls"] == 16


async def test_an_expired_trigger_is_gone_and_a_rotated_secret_is_the_only_one(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada)
        sender = TriggerSender(ada, trigger)
        rotated = (await ada.http.post(f"/triggers/{trigger['id']}/rotate")).json()
        assert rotated["secret"] != trigger["secret"]
        problem(await sender.push(), 404, "hook_not_found")
        sender.secret = rotated["secret"]
        assert (await sender.push()).status_code == 202
        async with database.connection() as connection:
            await connection.execute("update job_triggers set expires_at = opsjobs_now()")
        problem(await sender.push(), 404, "hook_not_found")


async def test_the_calls_that_are_kept_are_bounded(database: Database) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada)
        other = await create_trigger(ada, name="other")
        sender = TriggerSender(ada, trigger)
        await TriggerSender(ada, other).push()
        async with database.connection() as connection:
            await connection.execute(
                """insert into trigger_calls (trigger_id, outcome)
                select %s, 'ping' from generate_series(1, %s)""",
                [trigger["id"], CALLS_KEPT + 20],
            )
        await sender.push(event="release")
        kept = await calls(ada, trigger)
        assert (len(kept), kept[0]["outcome"]) == (CALLS_KEPT, "ignored")
        rows = await database.fetch("select count(*) as n from trigger_calls")
        assert rows[0]["n"] == CALLS_KEPT + 1


async def test_a_trigger_is_listed_changed_switched_and_deleted(database: Database) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada)
        path = f"/triggers/{trigger['id']}"
        for listed in ("/triggers", f"/jobs/{trigger['job_id']}/triggers", "/triggers?name=push"):
            (item,) = (await ada.http.get(listed)).json()["items"]
            assert item == {name: trigger[name] for name in trigger if name != "secret"}
        shown = (await ada.http.get(path)).json()
        assert (await ada.http.put(path, json=shown)).json() == stored(shown)
        changed = await ada.http.patch(path, json={"max_calls_per_minute": 5, "when": []})
        assert (changed.json()["max_calls_per_minute"], changed.json()["when"]) == (5, [])
        assert changed.json()["parameters"] == trigger["parameters"]
        assert not (await ada.http.post(f"{path}/disable")).json()["enabled"]
        problem(await TriggerSender(ada, trigger).push(), 404, "hook_not_found")
        assert (await ada.http.patch(path, json={"enabled": True})).json()["enabled"]
        assert (await TriggerSender(ada, trigger).push()).status_code == 202
        again = await ada.http.post(f"/jobs/{trigger['job_id']}/triggers", json=GITHUB)
        assert "`opsjobs triggers set`" in problem(again, 409, "name_taken")["detail"]
        assert (await ada.http.delete(path)).status_code == 204
        problem(await ada.http.get(path), 404, "trigger_not_found")
        problem(await TriggerSender(ada, trigger).push(), 404, "hook_not_found")


async def test_a_deleted_job_takes_its_triggers_with_it(database: Database) -> None:
    async with api_client(database) as ada:
        trigger = await create_trigger(ada)
        assert (await ada.http.delete(f"/jobs/{trigger['job_id']}")).status_code == 204
        problem(await TriggerSender(ada, trigger).push(), 404, "hook_not_found")
        problem(await ada.http.get(f"/triggers/{trigger['id']}"), 404, "trigger_not_found")


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"parameters": {}}, "invalid_parameters", "/parameters/branch"),
        ({"parameters": {"brunch": {"value": "x"}}}, "invalid_parameters", "/parameters/brunch"),
        ({"parameters": {"branch": {"value": "MAIN"}}}, "invalid_parameters", "/parameters/branch"),
        ({"parameters": {"branch": {}}}, "parameter_source", "/parameters/branch"),
        (
            {"parameters": {"branch": {"pointer": "ref"}}},
            "invalid",
            "/parameters/branch/pointer",
        ),
        (
            {"parameters": {"branch": {"value": "x"}, "token": {"value": "secret"}}},
            "invalid_parameters",
            "/parameters/token",
        ),
        ({"when": [{"pointer": "/ref"}]}, "condition", "/when/0"),
        ({"when": [{"equals": 1}]}, "condition", "/when/0"),
        ({"when": [{"pointer": "/a", "matches": "("}]}, "invalid", "/when/0/matches"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "already_expired", "/expires_at"),
        ({"max_calls_per_minute": 0}, "invalid", "/max_calls_per_minute"),
    ],
)
async def test_a_trigger_that_no_call_could_use_is_refused(
    database: Database, fields: dict[str, Any], code: str, pointer: str
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job(parameters=PARAMETERS))
        answer = await ada.http.post("/jobs/1/triggers", json={**GITHUB, **fields})
        assert problem(answer, 422, code)["errors"][0]["pointer"] == pointer


async def test_who_may_manage_triggers_but_not_launch_the_job_makes_none(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await create_trigger(ada)
        operator = await ada.token_of("operator")
        problem(
            await ada.http.post("/jobs/1/triggers", json=GITHUB, headers=operator), 403, "forbidden"
        )
        grant = {"name": "clerk", "permissions": ["triggers:manage", "triggers:read", "jobs:read"]}
        token = (await ada.http.post("/api-keys", json=grant)).json()["token"]
        clerk = {"Authorization": f"Bearer {token}"}
        for path, body in (
            ("/jobs/1/triggers", {**GITHUB, "name": "mine"}),
            ("/triggers/1/rotate", None),
            ("/triggers/1/enable", None),
        ):
            told = problem(await ada.http.post(path, json=body, headers=clerk), 403, "forbidden")
            assert "jobs:execute" in told["detail"]
        assert (await ada.http.post("/triggers/1/disable", headers=clerk)).status_code == 200


async def test_a_repeated_request_to_create_one_gets_no_secret(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job(parameters=PARAMETERS))
        key = {"Idempotency-Key": "one"}
        first = await ada.http.post("/jobs/1/triggers", json=GITHUB, headers=key)
        again = await ada.http.post("/jobs/1/triggers", json=GITHUB, headers=key)
        assert again.json() == {**first.json(), "secret": None}
        digest = hashlib.sha256(first.json()["secret"].encode()).hexdigest()
        dump = await database.fetch("select answer::text as text from idempotency_keys")
        assert first.json()["secret"] not in dump[0]["text"]
        assert digest not in dump[0]["text"]
