"""Credentials: sealed at rest, bound to their row, refused if they could not work."""

from __future__ import annotations

from uuid import UUID

import pytest

from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.errors import Conflict, Invalid, NotFound
from opsjobs.model.secret import Secret, key_id
from opsjobs.store.envelope import KeyRing, SealPlace, Tampered, new_key
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.rows import StoredCredential
from store.drafts import password, private_key, target


async def stored(vault: Vault, draft: CredentialDraft) -> StoredCredential:
    credential = await vault.create(draft)
    assert isinstance(credential, StoredCredential)
    return credential


async def test_a_credential_opens_to_its_stored_secrets(database: Database) -> None:
    vault = Vault(database, [new_key()])
    key = private_key()
    draft = CredentialDraft.model_validate(
        {"name": "web-key", "type": "ssh_key", "username": "deploy", "private_key": key}
    )
    credential = await stored(vault, draft)
    opened = (await vault.open_many([str(credential.id)]))[str(credential.id)]
    assert opened.private_key == Secret(key)
    assert (opened.username, opened.version, opened.password) == ("deploy", 1, None)


async def test_what_lies_in_the_database_is_not_the_secret(database: Database) -> None:
    await stored(Vault(database, [new_key()]), password("web", password="canary-7f3a"))
    row = await database.fetch_one(
        "select credentials::text as everything, sealed, wrapped_key from credentials"
    )
    assert row is not None
    assert "canary-7f3a" not in row["everything"]
    assert b"canary-7f3a" not in row["sealed"] + row["wrapped_key"]


async def test_two_rows_that_were_swapped_do_not_open(database: Database) -> None:
    vault = Vault(database, [new_key()])
    ada, ben = await stored(vault, password("ada")), await stored(vault, password("ben"))
    await database.fetch(
        """update credentials c set sealed = o.sealed, wrapped_key = o.wrapped_key,
        key_id = o.key_id
           from credentials o where o.id <> c.id returning c.id"""
    )
    opened = await vault.open_many([str(ada.id), str(ben.id)])
    assert [
        (c.password, "was changed outside opsjobs" in (c.fault or "")) for c in opened.values()
    ] == [(None, True)] * 2


async def test_an_older_version_put_back_does_not_open(database: Database) -> None:
    vault = Vault(database, [new_key()])
    ada = await stored(vault, password("ada"))
    before = await database.fetch_one("select sealed, wrapped_key from credentials")
    assert before is not None
    await vault.replace(str(ada.id), password("ada", password="newer"))
    await database.fetch(
        "update credentials set sealed = %s, wrapped_key = %s returning id",
        [before["sealed"], before["wrapped_key"]],
    )
    opened = (await vault.open_many([str(ada.id)]))[str(ada.id)]
    assert opened.password is None
    assert "was changed outside opsjobs" in (opened.fault or "")


async def test_a_replaced_credential_has_the_next_version_and_the_new_secret(
    database: Database,
) -> None:
    vault = Vault(database, [new_key()])
    ada = await stored(vault, password("ada"))
    assert (await vault.replace(ada.uuid, password("ada", password="newer"))).version == 2
    opened = await vault.open_many([str(ada.id)])
    assert opened[str(ada.id)].password == Secret("newer")


async def test_an_old_key_still_opens_and_the_current_one_seals(database: Database) -> None:
    old, new = new_key(), new_key()
    ada = await stored(Vault(database, [old]), password("ada"))
    both = Vault(database, [new, old])
    assert (await both.open_many([str(ada.id)]))[str(ada.id)].password is not None
    ben = await stored(both, password("ben"))
    opened = await Vault(database, [new]).open_many([str(ada.id), str(ben.id)])
    assert "not in ENCRYPTION_KEYS" in (opened[str(ada.id)].fault or "")
    assert opened[str(ben.id)].password is not None


async def test_ids_that_are_none_open_nothing(database: Database) -> None:
    assert await Vault(database, [new_key()]).open_many(["7", "x", "-1", str(2**70)]) == {}


async def test_a_taken_name_is_refused_with_the_name(database: Database) -> None:
    vault = Vault(database, [new_key()])
    await stored(vault, password("ada"))
    with pytest.raises(Conflict, match="'ada'") as refused:
        await vault.create(password("ada"))
    assert refused.value.code == "name_taken"


async def test_a_credential_in_use_is_not_deleted_and_its_users_are_named(
    database: Database,
) -> None:
    vault = Vault(database, [new_key()])
    ada = await stored(vault, password("ada"))
    inventory = TargetInventory(database, vault)
    await inventory.create(target("web-1", credential="ada"))
    with pytest.raises(Conflict, match="web-1") as refused:
        await vault.delete(str(ada.id))
    assert refused.value.code == "credential_in_use"
    await inventory.delete("1")
    await vault.delete(str(ada.id))
    with pytest.raises(NotFound):
        await vault.get(str(ada.id))


async def test_the_list_shows_no_secret(database: Database) -> None:
    vault = Vault(database, [new_key()])
    await stored(vault, password("ada", password="canary-7f3a"))
    page = await vault.list(PageRequest(filters={"type": ["password"]}))
    assert [c.name for c in page.items] == ["ada"]
    assert "canary" not in repr(page.items[0].data()) + repr(page.items[0])


@pytest.mark.parametrize(
    ("key", "passphrase", "field"),
    [
        ("not a key", None, "private_key"),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
            None,
            "private_key",
        ),
        (private_key()[:200], None, "private_key"),
        (private_key(passphrase="right"), "wrong", "passphrase"),
        (private_key(passphrase="right"), None, "passphrase"),
        (private_key(), "needless", "passphrase"),
    ],
    ids=[
        "no key",
        "empty",
        "cut short",
        "wrong passphrase",
        "no passphrase",
        "needless passphrase",
    ],
)
async def test_a_key_that_cannot_work_is_refused_when_stored(
    database: Database, key: str, passphrase: str | None, field: str
) -> None:
    body = {
        "name": "k",
        "type": "ssh_key",
        "username": "deploy",
        "private_key": key,
        "passphrase": passphrase,
    }
    with pytest.raises(Invalid) as refused:
        await Vault(database, [new_key()]).create(CredentialDraft.model_validate(body))
    assert refused.value.errors[0].pointer == f"/{field}"
    assert "right" not in str(refused.value)


async def test_a_key_pasted_with_windows_line_ends_is_stored_tidily(database: Database) -> None:
    vault = Vault(database, [new_key()])
    key = private_key()
    body = {
        "name": "k",
        "type": "ssh_key",
        "username": "deploy",
        "private_key": key.strip().replace("\n", "\r\n"),
    }
    credential = await stored(vault, CredentialDraft.model_validate(body))
    assert (await vault.open_many([str(credential.id)]))[str(credential.id)].private_key == Secret(
        key
    )


async def test_a_passphrase_that_opens_its_key_is_taken(database: Database) -> None:
    body = {
        "name": "k",
        "type": "ssh_key",
        "username": "deploy",
        "private_key": private_key(passphrase="right"),
        "passphrase": "right",
    }
    credential = await stored(Vault(database, [new_key()]), CredentialDraft.model_validate(body))
    assert credential.name == "k"


@pytest.mark.parametrize("keys", [[], [Secret("short")], [Secret("!" * 43)]])
def test_a_key_that_is_not_32_bytes_is_refused_without_being_shown(keys: list[Secret]) -> None:
    with pytest.raises(ValueError, match="ENCRYPTION_KEYS") as refused:
        KeyRing(keys)
    assert "short" not in str(refused.value)


def test_a_sealed_secret_opens_in_its_own_place_alone() -> None:
    ring = KeyRing([new_key()])
    home = SealPlace("credentials", UUID(int=1), 1)
    sealed = ring.seal(b"secret", home)
    assert ring.open(sealed, home) == b"secret"
    for other in (
        SealPlace("webhooks", UUID(int=1), 1),
        SealPlace("credentials", UUID(int=2), 1),
        SealPlace("credentials", UUID(int=1), 2),
    ):
        with pytest.raises(Tampered):
            ring.open(sealed, other)


def test_two_keys_have_two_ids_of_eight_digits() -> None:
    assert len(key_id(b"a" * 32)) == 8
    assert key_id(b"a" * 32) != key_id(b"b" * 32)
