"""PUT accepts the result of GET, and PATCH merges into it, for every noun."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from api.kit import ApiClient, api_client, job, problem, stored
from opsjobs.api.resource import merge_patch
from opsjobs.store.transaction import Database
from security.test_audited_routes import NIGHTLY, PASSWORD, PUBLIC, XMAS

ANY = {"If-Match": "*"}
GRANTS = [{"role": "viewer", "scope": "env=prod"}]


@dataclass(frozen=True)
class Noun:
    """A noun: how to create one, a field that may change, and its read-only fields.

    PUT refuses read-only fields with other values than GET shows.
    """

    path: str
    body: Mapping[str, Any]
    change: Mapping[str, Any]
    made_at: str = ""
    read_only: str = "uuid"
    put_lacks: Mapping[str, Any] | None = None
    """Fields that GET never shows and PUT requires."""


NOUNS = [
    Noun(
        "/targets",
        {
            "name": "web-1",
            "host": "10.0.0.1",
            "labels": {"env": "prod", "rack": "r1"},
            "groups": ["web"],
            "slots": 3,
        },
        {"port": 2222, "labels": {"rack": None, "team": "a"}},
        read_only="version",
    ),
    Noun(
        "/target-groups",
        {"name": "prod", "selector": "env=prod", "description": "all"},
        {"selector": None},
    ),
    Noun(
        "/jobs", job(description="x", tags=["env=prod"]), {"description": "y"}, read_only="version"
    ),
    Noun(
        "/schedules",
        NIGHTLY,
        {"cron": "31 2 * * *"},
        made_at="/jobs/{job}/schedules",
        read_only="owner",
    ),
    Noun("/calendars", XMAS, {"description": "quiet"}, read_only="created_at"),
    Noun(
        "/users",
        {"name": "ben", "password": "an old word of-the-canary", "grants": GRANTS},
        {"disabled": True},
        read_only="id",
    ),
    Noun(
        "/services",
        {"name": "robot", "public_key": PUBLIC, "grants": GRANTS},
        {"disabled": True},
        read_only="updated_at",
    ),
    Noun(
        "/credentials",
        PASSWORD,
        {"username": "toor"},
        put_lacks={"password": "s3cret-of-the-canary"},
    ),
    Noun(
        "/webhooks",
        {"name": "chat", "url": "https://chat.example.org/hook", "events": ["approval.*"]},
        {"selector": "env=prod"},
        read_only="updated_at",
    ),
    Noun(
        "/triggers",
        {"name": "from-git"},
        {"enabled": False},
        made_at="/jobs/{job}/triggers",
        read_only="updated_at",
    ),
]
CREDENTIAL = next(noun for noun in NOUNS if noun.path == "/credentials")


async def create(ada: ApiClient, noun: Noun) -> str:
    """Return the path of a new object."""
    where = noun.made_at or noun.path
    if "{job}" in where:
        where = where.format(job=(await ada.http.post("/jobs", json=job("other"))).json()["id"])
    answer = await ada.http.post(where, json=noun.body)
    assert answer.status_code == 201, answer.text
    return f"{noun.path}/{answer.json()['id']}"


def still(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a change without effect leaves unchanged."""
    return {
        name: value for name, value in stored(body).items() if name not in ("updated_at", "version")
    }


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.path)
async def test_put_takes_the_body_of_get_and_changes_nothing(
    database: Database, noun: Noun
) -> None:
    async with api_client(database) as ada:
        path = await create(ada, noun)
        shown = (await ada.http.get(path)).json()
        answer = await ada.http.put(path, json={**shown, **(noun.put_lacks or {})}, headers=ANY)
        assert answer.status_code == 200, answer.text
        assert still(answer.json()) == still(shown)


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.path)
async def test_a_changed_read_only_field_is_422_and_named(database: Database, noun: Noun) -> None:
    async with api_client(database) as ada:
        path = await create(ada, noun)
        shown = (await ada.http.get(path)).json()
        for method in ("PUT", "PATCH"):
            body = {
                **(shown if method == "PUT" else {}),
                **(noun.put_lacks or {}),
                noun.read_only: "another",
            }
            told = problem(
                await ada.http.request(method, path, json=body, headers=ANY), 422, "read_only"
            )
            assert [error["pointer"] for error in told["errors"]] == [f"/{noun.read_only}"]
            assert f"{noun.read_only} is read-only" in told["detail"]
        assert (await ada.http.get(path)).json() == shown


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.path)
async def test_a_patch_changes_what_it_names_and_nothing_else(
    database: Database, noun: Noun
) -> None:
    async with api_client(database) as ada:
        path = await create(ada, noun)
        shown = (await ada.http.get(path)).json()
        for type_ in ("application/merge-patch+json", "application/json"):
            answer = await ada.http.patch(
                path, json=noun.change, headers={**ANY, "Content-Type": type_}
            )
            assert answer.status_code == 200, answer.text
        wished = merge_patch(shown, noun.change)
        ours = {name for name in noun.body if name in shown}
        now = (await ada.http.get(path)).json()
        assert {name: now.get(name) for name in ours} == {name: wished.get(name) for name in ours}
        assert now["created_at"] == shown["created_at"]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.path)
async def test_an_invalid_patch_is_422_like_put_and_a_missing_object_404(
    database: Database, noun: Noun
) -> None:
    async with api_client(database) as ada:
        path = await create(ada, noun)
        shown = (await ada.http.get(path)).json()
        told = problem(
            await ada.http.patch(path, json={"no_such_field": 1}, headers=ANY), 422, "invalid"
        )
        assert told["errors"][0]["pointer"] == "/no_such_field"
        problem(await ada.http.patch(path, json=[1], headers=ANY), 422, "invalid")
        problem(
            await ada.http.patch(
                path, content=b"{", headers={**ANY, "Content-Type": "application/json"}
            ),
            422,
            "malformed_json",
        )
        assert (
            await ada.http.patch(f"{noun.path}/987654321", json={}, headers=ANY)
        ).status_code == 404
        assert (await ada.http.get(path)).json() == shown


async def test_camel_case_is_accepted_in_a_patch(database: Database) -> None:
    async with api_client(database) as ada:
        path = await create(ada, NOUNS[0])
        answer = await ada.http.patch(path, json={"hostKeyPolicy": "unchecked"})
        assert answer.json()["host_key_policy"] == "unchecked"
        told = problem(
            await ada.http.patch(path, json={"hostKeyPolicy": "ca", "host_key_policy": "pinned"}),
            422,
            "invalid",
        )
        assert "two spellings" in told["detail"]


async def test_a_patch_requires_if_match_if_put_does(database: Database) -> None:
    async with api_client(database) as ada:
        path = await create(ada, NOUNS[2])
        problem(await ada.http.patch(path, json={"description": "y"}), 428, "if_match_missing")
        problem(
            await ada.http.patch(path, json={"description": "y"}, headers={"If-Match": '"7"'}),
            412,
            "stale_version",
        )
        assert (
            await ada.http.patch(path, json={"description": "y"}, headers={"If-Match": '"1"'})
        ).json()["version"] == 2


async def test_a_patch_of_the_actions_changes_the_job_type(database: Database) -> None:
    async with api_client(database) as ada:
        path = await create(ada, NOUNS[2])
        script = {"type": "script", "script": "echo hi"}
        answer = await ada.http.patch(path, json={"actions": [script]}, headers=ANY)
        assert (answer.status_code, answer.json()["job_type"]) == (200, "script"), answer.text


async def test_a_paused_job_stays_paused_after_put_and_patch(database: Database) -> None:
    async with api_client(database) as ada:
        path = await create(ada, NOUNS[2])
        shown = (await ada.http.post(f"{path}/pause")).json()
        assert shown["state"] == "paused"
        for answer in (
            await ada.http.put(
                path, json={**(await ada.http.get(path)).json(), "description": "a"}, headers=ANY
            ),
            await ada.http.patch(path, json={"description": "b"}, headers=ANY),
        ):
            assert (answer.status_code, answer.json()["state"]) == (200, "paused"), answer.text


async def test_a_patched_credential_keeps_its_other_secrets(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        path = await create(ada, CREDENTIAL)
        assert (await ada.http.patch(path, json={"name": "admin"})).json()["name"] == "admin"
        opened = await ada.services.vault.open_named("admin")
        assert opened is not None
        assert opened.password is not None
        assert opened.password.reveal() == "s3cret-of-the-canary"
        assert "s3cret" not in (await ada.http.get(path)).text
        told = problem(await ada.http.patch(path, json={"type": "ssh_key"}), 422, "invalid")
        assert "needs private_key" in told["detail"]


async def test_concurrent_updates_are_both_kept_or_refused(database: Database) -> None:
    async with api_client(database) as ada:
        path = await create(ada, NOUNS[0])
        labels = [f"n{number}" for number in range(8)]
        answers = await asyncio.gather(
            *(ada.http.patch(path, json={"labels": {label: ""}}) for label in labels)
        )
        assert {answer.status_code for answer in answers} <= {200, 412}
        kept = {
            label
            for label, answer in zip(labels, answers, strict=True)
            if answer.status_code == 200
        }
        assert set((await ada.http.get(path)).json()["labels"]) == {"env", "rack", *kept}


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.path)
async def test_a_put_with_the_state_that_it_has_read_undoes_no_other_change(
    database: Database, noun: Noun
) -> None:
    async with api_client(database) as ada:
        path = await create(ada, noun)
        shown = (await ada.http.get(path)).json()
        state = "version" if "version" in shown else "updated_at"
        answer = await ada.http.patch(path, json=noun.change, headers=ANY)
        assert answer.status_code == 200, answer.text
        body = {**shown, **(noun.put_lacks or {})}
        told = problem(await ada.http.put(path, json=body, headers=ANY), 422, "read_only")
        wrong = {error["pointer"][1:] for error in told["errors"]}
        assert state in wrong
        stateless = {name: value for name, value in body.items() if name not in wrong}
        assert (await ada.http.put(path, json=stateless, headers=ANY)).status_code == 200


async def test_of_puts_of_one_state_at_the_same_moment_one_is_made(database: Database) -> None:
    async with api_client(database) as ada:
        for noun, field in ((NOUNS[0], "host"), (NOUNS[1], "description")):
            path = await create(ada, noun)
            shown = (await ada.http.get(path)).json()
            answers = await asyncio.gather(
                *(ada.http.put(path, json={**shown, field: f"n{n}"}) for n in range(8))
            )
            made_it = [answer for answer in answers if answer.status_code == 200]
            assert len(made_it) == 1, [answer.text for answer in answers]
            assert {answer.status_code for answer in answers} <= {200, 412, 422}
            assert (await ada.http.get(path)).json()[field] == made_it[0].json()[field]


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_follows_rfc_7396(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged
