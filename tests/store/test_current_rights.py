"""Current rights of an identity by its name, as schedules and others without a token need them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from opsjobs.model.access import Grant, Principal, Scope, permissions_of
from opsjobs.model.grants import kept_of
from opsjobs.model.identity import Identity
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.api_keys import NewKey, role_grant
from opsjobs.store.transaction import Database

STAGING = {"role": "operator", "permissions": [], "scope": "env=staging"}
ADA = Principal.of_role(
    "ada", "operator", "external", scope=Scope.parse("env=staging"), person="ada"
)


async def test_a_key_stands_until_it_expires_or_is_deleted(database: Database) -> None:
    people = IdentityStore(database)
    await people.create_key("ada", "operator")
    await people.create_key("old", "operator", expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert await people.current_principal(Identity("api_key", "ada")) == Principal.of_role(
        "ada", "operator", "api_key"
    )
    assert await people.current_principal(Identity("api_key", "old")) is None
    await people.delete_key("1")
    assert await people.current_principal(Identity("api_key", "ada")) is None
    assert await people.current_principal(Identity("api_key", "nobody")) is None


async def test_a_user_stands_until_he_is_disabled_and_his_keys_with_him(database: Database) -> None:
    people = IdentityStore(database)
    await people.users.create("ada", "hash", [STAGING])
    ada = await people.current_principal(Identity("user", "ada"))
    assert ada == Principal.of_role(
        "ada", "operator", "user", scope=Scope.parse("env=staging"), person="ada"
    )
    issued = await people.issue_key(NewKey("ada-bot", [STAGING]), None, ada)
    assert isinstance(issued, tuple)
    bot = await people.by_token(issued[1])
    assert bot is not None
    assert (bot.person, bot.is_same_person(ada)) == ("ada", True)
    again = await people.issue_key(
        NewKey("ada-bot-2", [STAGING]), None, bot
    )  # a key that was made with her key is hers, too
    assert isinstance(again, tuple)
    await people.users.change("1", "user.disabled", disabled=True)
    for name, kind in (("ada", "user"), ("ada-bot", "api_key"), ("ada-bot-2", "api_key")):
        assert await people.current_principal(Identity(kind, name)) is None  # type: ignore[arg-type]
    assert await people.by_token(issued[1]) is None
    await people.users.change("1", "user.enabled", disabled=False)
    assert await people.by_token(again[1]) is not None
    await people.users.delete("1")
    assert await people.by_token(issued[1]) is None


async def test_a_key_is_found_by_the_hash_of_its_token_and_has_its_scope_and_makers(
    database: Database,
) -> None:
    people = IdentityStore(database)
    admin = Principal.of_role("root", "admin", "api_key")
    narrow = await people.issue_key(NewKey("narrow", [STAGING]), None, admin)
    whole = await people.issue_key(NewKey("whole", [role_grant("operator")]), None, admin)
    assert isinstance(narrow, tuple)
    assert isinstance(whole, tuple)
    stored = "select name, role from api_keys where token_sha256 = %s"
    for token, row in (
        (narrow[1], {"name": "narrow", "role": None}),
        (whole[1], {"name": "whole", "role": "operator"}),
    ):
        assert await database.fetch(stored, [hashlib.sha256(token.encode()).digest()]) == [row]
    found = Principal.of_role("narrow", "operator", "api_key", scope=Scope.parse("env=staging"))
    assert await people.by_token(narrow[1]) == replace(found, makers=("root",))


async def test_an_external_identity_has_the_rights_of_its_last_token_while_it_owns_something(
    database: Database,
) -> None:
    people = IdentityStore(database, external_kept_seconds=3600)
    assert await people.current_principal(Identity("external", "ada")) is None
    await people.external_people.refresh(ADA)
    assert await people.current_principal(Identity("external", "ada")) is None, (
        "who left nothing is not kept"
    )
    await people.remember(None, ADA)
    kept = await people.current_principal(Identity("external", "ada"))
    assert kept is not None
    assert kept == ADA
    less = Principal.of_role("ada", "viewer", "external", person="ada")
    await people.external_people.refresh(less)
    assert await people.current_principal(Identity("external", "ada")) == less
    await database.fetch(
        "update external_people set seen_at = seen_at - interval '2 hours' returning name"
    )
    assert await people.current_principal(Identity("external", "ada")) is None


async def test_what_is_remembered_is_undone_with_its_transaction_and_is_nothing_for_others(
    database: Database,
) -> None:
    people = IdentityStore(database)

    async def broken() -> None:
        async with database.transaction() as connection:
            await people.remember(connection, ADA)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await broken()
    await people.remember(None, Principal.of_role("ben", "admin", "api_key"))
    assert await database.fetch("select name from external_people") == []


async def test_a_service_acting_for_a_user_has_the_rights_that_both_have(
    database: Database,
) -> None:
    people = IdentityStore(database)
    await people.services.create(
        "portal",
        "pem",
        [{"role": None, "permissions": ["jobs:read", "jobs:execute"], "scope": "team=web"}],
    )
    await people.users.create(
        "ada", "hash", [STAGING, {"role": None, "permissions": ["audit:read"], "scope": ""}]
    )
    await people.users.create("root", "hash", [role_grant("admin")])
    alone, ada, root = [
        await people.current_principal(Identity("service", name))
        for name in ("portal", "portal/user/ada", "portal/user/root")
    ]
    assert alone is not None
    assert ada is not None
    assert root is not None
    assert (ada.name, ada.kind, ada.person, alone.person) == (
        "portal/user/ada",
        "service",
        "ada",
        None,
    )
    assert [(sorted(g.permissions), g.scope) for g in ada.grants] == [
        (["jobs:execute", "jobs:read"], Scope.parse("team=web,env=staging"))
    ]
    assert root.grants == alone.grants
    for gone in (
        "portal/user/ben",
        "portal/external/ada",
        "portal/service/portal",
        "portal/user",
        "other",
        "other/user/ada",
    ):
        assert await people.current_principal(Identity("service", gone)) is None
    await people.users.change("1", "user.disabled", disabled=True)
    assert await people.current_principal(Identity("service", "portal/user/ada")) is None


def test_grants_are_kept_as_they_are_read() -> None:
    grant = Grant(permissions_of("viewer"), Scope.parse("env in (dev,test),web,team=a"))
    assert kept_of([grant]) == [
        {
            "role": None,
            "permissions": sorted(permissions_of("viewer")),
            "scope": "env in (dev,test),web,team=a",
        }
    ]
