"""API keys: identified by a hash, valid until they expire or are deleted."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from opsjobs.model.access import Principal
from opsjobs.model.errors import Conflict, Invalid, NotFound
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.api_keys import NewKey, role_grant
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database


async def test_a_token_authenticates_its_key(database: Database) -> None:
    people = IdentityStore(database)
    token = await people.create_key("ada", "operator")
    assert token.startswith("opsc_")
    assert await people.by_token(token) == Principal.of_role("ada", "operator", "api_key")


async def test_the_token_is_stored_nowhere(database: Database) -> None:
    token = await IdentityStore(database).create_key("ada", "admin")
    row = await database.fetch_one("select api_keys::text as everything from api_keys")
    assert row is not None
    assert token not in row["everything"]
    assert token.removeprefix("opsc_") not in row["everything"]


@pytest.mark.parametrize("token", ["", "opsc_", "opsc_unknown", "x" * 100_000, "nul\x00", "\udcff"])
async def test_an_unknown_token_is_refused(database: Database, token: str) -> None:
    people = IdentityStore(database)
    await people.create_key("ada", "admin")
    assert await people.by_token(token) is None


async def test_expired_and_deleted_keys_are_refused(database: Database) -> None:
    people = IdentityStore(database)
    expired = await people.create_key("ada", "admin", expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert await people.by_token(expired) is None
    token = await people.create_key("ben", "viewer")
    key = next(k for k in (await people.list_keys(PageRequest())).items if k.name == "ben")
    await people.delete_key(key.uuid)
    assert await people.by_token(token) is None
    with pytest.raises(NotFound):
        await people.delete_key(key.uuid)


async def test_use_is_noted(database: Database) -> None:
    people = IdentityStore(database)
    token = await people.create_key("ada", "admin")
    assert (await people.get_key("1")).last_used_at is None
    await people.by_token(token)
    assert (await people.get_key("1")).last_used_at is not None


async def test_a_key_of_the_same_name_a_strange_role_and_a_weak_token_are_refused(
    database: Database,
) -> None:
    people = IdentityStore(database)
    await people.create_key("ada", "admin")
    with pytest.raises(Conflict, match="'ada'"):
        await people.create_key("ada", "viewer")
    with pytest.raises(Invalid, match="emperor"):
        await people.create_key("ben", "emperor")
    with pytest.raises(Invalid, match="16"):
        await people.create_key("ben", "viewer", token="short")


async def test_the_admin_key_can_be_made_sure_of_again_and_again_and_changes_with_its_token(
    database: Database,
) -> None:
    people = IdentityStore(database)
    first, second = "opsc_" + "a" * 40, "opsc_" + "b" * 40
    for token in (first, first, second):
        await people.ensure_key("admin", "admin", token)
    assert await people.by_token(first) is None
    assert await people.by_token(second) == Principal.of_role("admin", "admin", "api_key")
    told = await database.fetch("select action, actor, thing_name from audit_log")
    assert (
        told == [{"action": "api_key.ensured", "actor": "opsjobs", "thing_name": "admin"}] * 2
    )  # not if nothing changed


async def test_an_admin_token_that_another_key_has_already_stays_with_that_key(
    database: Database,
) -> None:
    people = IdentityStore(database)
    token = await people.create_key("admin-host-1", "viewer")
    await people.ensure_key("admin", "admin", token)
    assert await people.by_token(token) == Principal.of_role("admin-host-1", "admin", "api_key")


async def test_a_repeated_request_for_a_key_returns_all_but_the_token(database: Database) -> None:
    people = IdentityStore(database)
    ada = Principal.of_role("ada", "admin", "user", person="ada")
    asked = IdempotentRequest("ada", "POST /api-keys", "k", b"\0" * 32)
    issued = await people.issue_key(NewKey("ben", [role_grant("viewer")]), asked, ada)
    assert not isinstance(issued, Answer)
    again = await people.issue_key(NewKey("ben", [role_grant("viewer")]), asked, ada)
    assert isinstance(again, Answer)
    assert (again.body["name"], again.body["token"]) == ("ben", None)
    row = await database.fetch_one("select answer::text as answer from idempotency_keys")
    assert row is not None
    assert issued[1] not in row["answer"]
