"""Targets of the Target Service: requests, the mirror, and the effect of faults."""

from __future__ import annotations

from typing import Any

import pytest

from kit.platform_services import FAULTS, MS, NG, V3, PlatformServices, platform_services
from kit.target_mirror import age, inventory_of
from opsjobs.clock import SystemClock
from opsjobs.engine.runs.run_connection import refresh_credentials
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.model.credential import TargetServiceSource
from opsjobs.model.errors import Conflict, Invalid, RemoteFailure, Unavailable
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import PlatformTarget, TargetDraft
from opsjobs.model.target_import import ImportDraft, Imported
from opsjobs.store.envelope import new_key
from opsjobs.store.inventory import StoredTarget, TargetInventory
from opsjobs.store.paging import PageRequest
from opsjobs.store.target_import import Imports
from opsjobs.store.target_mirror import GONE_DAYS, TargetMirror
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.rows import StoredCredential
from store.drafts import host_key, password


async def names(inventory: TargetInventory, **selection: Any) -> list[str]:
    return [t.name for t in await inventory.resolve(SelectionDraft.model_validate(selection))]


def add(platform: PlatformServices, *found: str, tags: tuple[str, ...] = ()) -> None:
    """Add targets, each written `id:name`."""
    for one in found:
        id_, _, name = one.partition(":")
        platform.add_target(id_, name, "192.0.2.7", 22, tags=[*tags])


# Requests.


async def test_a_thousand_targets_are_one_request(database: Database) -> None:
    with platform_services(V3) as platform:
        add(platform, *(f"{n}:web-{n}" for n in range(1, 1_002)))
        async with inventory_of(platform, database) as inventory:
            assert len(await names(inventory, ids=[str(n) for n in range(1, 1_001)])) == 1_000
            (call,) = platform.asked("target")
            assert (call.path, len(call.body["target_ids"])) == ("/api/v3/targets/batch", 1_000)
            assert len(await names(inventory, ids=[str(n) for n in range(1, 1_001)])) == 1_000
            assert len(platform.calls) == 1, "what is young enough is not asked for again"


@pytest.mark.parametrize("generation", [V3, MS, NG])
async def test_without_a_batch_a_few_are_asked_for_each_and_many_in_pages(
    generation: str, database: Database
) -> None:
    with platform_services(generation) as platform:
        platform.has_batch = False
        add(platform, *(f"{n}:web-{n}" for n in range(1, 1_202)))
        async with inventory_of(platform, database) as inventory:
            assert await names(inventory, ids=["3", "2"]) == ["web-3", "web-2"]
            gets = [call for call in platform.calls if call.method == "GET"]
            assert len(gets) == 2
            await age(database, 60)
            assert len(await names(inventory, ids=[str(n) for n in range(1, 301)])) == 300
            pages = [call for call in platform.calls if "skip" in call.query]
            assert [int(call.query["skip"]) for call in pages] == [0, 1_000, 1_201]


async def test_a_service_that_knows_no_skip_is_not_asked_for_ever(database: Database) -> None:
    with platform_services(V3) as platform:
        add(platform, "1:web-1", "2:web-2")
        platform.ignores_skip = True
        async with inventory_of(platform, database) as inventory:
            assert await inventory.count() == 2
        assert len(platform.calls) == 2


async def test_ids_may_be_uuids(database: Database) -> None:
    uuid = "0190b2f0-7c00-7000-8000-00000000000a"
    with platform_services(V3) as platform:
        add(platform, f"{uuid}:web-1")
        async with inventory_of(platform, database) as inventory:
            assert await names(inventory, ids=[uuid]) == ["web-1"]
            stored = await inventory.get(uuid)
            assert (stored.uuid, stored.external_id) == (uuid, uuid)


# The mirror of a target.


async def test_the_primary_active_method_counts_then_the_lowest_priority(
    database: Database,
) -> None:
    def method(kind: str, host: str, **more: Any) -> dict[str, Any]:
        return {"method_type": kind, "config": {"host": host, "port": 2222}, **more}

    with platform_services(V3) as platform:
        for id_, methods in {
            "1": [
                method("ssh", "192.0.2.1", is_active=False, is_primary=True),
                method("ssh", "192.0.2.2", is_active=True, priority=5),
                method("ssh", "192.0.2.3", is_active=True, priority=1),
            ],
            "2": [
                method("snmp", "192.0.2.4", is_active=True, is_primary=True),
                method("ssh", "192.0.2.5", is_active=True, is_primary=True, priority=9),
                method("ssh", "192.0.2.6", is_active=True, priority=1),
            ],
            "3": [method("local", "127.0.0.1", is_active=True, is_primary=True)],
        }.items():
            platform.targets[id_] = {
                "id": int(id_),
                "name": f"web-{id_}",
                "ip_address": "192.0.2.9",
                "communication_methods": methods,
            }
        platform.targets["5"] = {
            "id": 5,
            "name": "win-1",
            "communication_methods": [
                method("winrm", "192.0.2.5", is_active=True, is_primary=True)
            ],
        }
        platform.targets["4"] = {"id": 4, "name": "web-4", "ip_address": "192.0.2.9"}
        async with inventory_of(platform, database) as inventory:
            found = (await inventory.list(PageRequest())).items
        assert {one.target.name: (one.target.host, one.target.port) for one in found} == {
            "web-1": ("192.0.2.3", 2222),
            "web-2": ("192.0.2.5", 2222),
            "web-4": ("192.0.2.9", 22),
            "win-1": ("192.0.2.5", 2222),
        }, "never by transport local, whatever the service says"
        windows = next(one.target for one in found if one.target.name == "win-1")
        assert (windows.transport, windows.platform) == ("winrm", "windows")
        assert windows.winrm is not None
        assert windows.winrm.scheme == "https"


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "-1"},
        {"id": "../x"},
        {"id": True},
        {"name": "a,b"},
        {"ip_address": "-oProxyCommand=x"},
        {"port": 70_000},
        {"service_type": "local"},
        {"is_active": False},
        {"status": "deleted"},
    ],
)
async def test_a_target_that_cannot_be_used_is_left_out_and_holds_up_no_other(
    fields: dict[str, Any], database: Database
) -> None:
    with platform_services(NG) as platform:
        add(platform, "1:web-1", "2:web-2")
        platform.targets["2"] |= fields
        async with inventory_of(platform, database) as inventory:
            assert [one.target.name for one in (await inventory.list(PageRequest())).items] == [
                "web-1"
            ]


async def test_what_opsjobs_keeps_of_a_target_stays_and_what_the_service_keeps_follows(
    database: Database,
) -> None:
    key = host_key()
    with platform_services(V3) as platform:
        add(platform, "1:web-1")
        async with inventory_of(platform, database) as inventory:
            stored = await inventory.get("1")
            draft = TargetDraft.model_validate(
                {**{name: stored.data()[name] for name in TargetDraft.model_fields}, "slots": 3}
            ).model_copy(update={"host_keys": [key]})
            await inventory.replace("1", draft)
            with pytest.raises(Conflict) as caught:
                await inventory.replace("1", draft.model_copy(update={"host": "192.0.2.66"}))
            assert caught.value.code == "targets_are_remote"
            assert "change host of web-1 there" in str(caught.value)
            for refused in (inventory.create(draft), inventory.delete("1")):
                with pytest.raises(Conflict):
                    await refused
            add(platform, "1:web-one", tags=("env=prod", "web", "zone=dmz"))
            await age(database, 60)
            target = (await inventory.get("1")).target
        assert (target.name, dict(target.labels), target.zone) == (
            "web-one",
            {"env": "prod", "zone": "dmz"},
            "dmz",
        )
        assert (list(target.host_keys), target.slots, list(target.groups)) == ([key], 3, ["web"])
        assert target.version == stored.target.version + 2


async def test_names_may_be_swapped_and_a_name_of_two_names_neither(database: Database) -> None:
    with platform_services(V3) as platform:
        add(platform, "1:web-1", "2:web-2")
        async with inventory_of(platform, database) as inventory:
            assert await names(inventory, ids=["web-1", "web-2"]) == ["web-1", "web-2"]
            add(platform, "1:web-2", "2:web-1")
            await age(database, 60)
            found = await inventory.resolve(SelectionDraft(ids=["web-1", "web-2"]))
            assert [target.id for target in found] == ["2", "1"]
            add(platform, "1:web-1")
            await age(database, 60)
            page = await inventory.list(PageRequest())
            assert [one.target.name for one in page.items] == ["web-1 (1)", "web-1 (2)"]


async def test_a_target_that_is_gone_is_selected_no_more_and_may_come_back(
    database: Database,
) -> None:
    with platform_services(V3) as platform:
        add(platform, "1:web-1", "2:web-2", tags=("web",))
        async with inventory_of(platform, database) as inventory:
            assert await names(inventory, groups=["web"]) == ["web-1", "web-2"]
            gone = platform.targets.pop("1")
            await age(database, 60)
            assert await names(inventory, groups=["web"]) == ["web-2"]
            assert await inventory.endpoints(["1"]) == {}
            add(platform, "3:web-1", tags=("web",))
            await age(database, 60)
            assert await names(inventory, groups=["web"]) == ["web-2", "web-1"]
            platform.targets["1"] = {**gone, "name": "web-0"}
            assert await names(inventory, ids=["1"]) == ["web-0"]


async def test_beside_targets_that_are_kept_here_the_service_is_not_used(
    database: Database,
) -> None:
    local = TargetInventory(database, Vault(database, [new_key()]))
    await local.create(TargetDraft(name="web-1", host="192.0.2.1"))
    with platform_services(V3) as platform:
        add(platform, "1:web-9")
        async with inventory_of(platform, database) as inventory:
            with pytest.raises(Conflict) as caught:
                await names(inventory, selector="env=prod")
        assert caught.value.code == "local_targets_exist"
        assert "web-1 are kept here" in str(caught.value)


async def test_a_target_that_is_kept_here_is_never_taken_for_one_of_the_service(
    database: Database,
) -> None:
    local = TargetInventory(database, Vault(database, [new_key()]))
    kept = await local.create(TargetDraft(name="web-1", host="192.0.2.1"))
    assert isinstance(kept, StoredTarget)
    with platform_services(V3) as platform:
        add(platform, f"{kept.target.id}:web-9")
        async with inventory_of(platform, database) as inventory:
            for entry in (kept.target.id, kept.uuid, "web-1"):
                with pytest.raises(Conflict) as caught:
                    await names(inventory, ids=[entry])
                assert caught.value.code == "local_targets_exist"
            assert await inventory.endpoints([kept.target.id]) == {}
            assert await inventory.get_many([kept.target.id]) == {}


async def test_without_the_service_none_of_its_targets_is_used(database: Database) -> None:
    with platform_services(V3) as platform:
        add(platform, "7:web-7", tags=("web", "env=prod"))
        async with inventory_of(platform, database) as inventory:
            assert await names(inventory, groups=["web"]) == ["web-7"]
    local = TargetInventory(database, Vault(database, [new_key()]))
    for entry in ("7", "web-7"):
        with pytest.raises(Invalid) as caught:
            await names(local, ids=[entry])
        assert caught.value.code == "unknown_target"
    assert await names(local, selector="env=prod") == []
    assert await names(local, groups=["web"]) == []
    assert (await local.endpoints(["7"]), await local.get_many(["7"])) == ({}, {})
    assert (await local.count(), (await local.list(PageRequest())).items) == (0, [])


async def test_without_the_service_a_target_kept_here_may_take_a_name_at_once(
    database: Database,
) -> None:
    with platform_services(V3) as platform:
        add(platform, "7:web-7", "8:web-8", "9:web-9")
        async with inventory_of(platform, database) as inventory:
            await names(inventory, ids=["7", "8", "9"])
    local = TargetInventory(database, Vault(database, [new_key()]))
    made = await local.create(TargetDraft(name="web-7", host="192.0.2.70"))
    assert isinstance(made, StoredTarget)
    assert await names(local, ids=["web-7"]) == ["web-7"]
    imported = await Imports(database).take_in(
        ImportDraft(targets=[{"name": "web-8", "host": "192.0.2.80"}])
    )
    assert isinstance(imported, Imported)
    assert [one.outcome for one in imported.outcomes] == ["created"]
    await local.replace(made.uuid, TargetDraft(name="web-9", host="192.0.2.70"))
    listed = (await local.list(PageRequest())).items
    assert [one.target.name for one in listed] == ["web-8", "web-9"]
    rows = await database.fetch("select name from targets where external_id is not null")
    assert {row["name"] for row in rows} == {"web-7 (7)", "web-8 (8)", "web-9 (9)"}


async def test_without_the_service_its_targets_are_deleted_after_their_time(
    database: Database,
) -> None:
    with platform_services(V3) as platform:
        add(platform, "7:web-7", "8:bastion", "9:web-9")
        async with inventory_of(platform, database) as inventory:
            await names(inventory, ids=["7", "8", "9"])
    local = TargetInventory(database, Vault(database, [new_key()]))
    kept = await local.create(TargetDraft(name="mine", host="192.0.2.70"))
    assert isinstance(kept, StoredTarget)
    async with database.transaction() as connection:
        await connection.execute("update targets set jump_id = 8 where id = 7")
    mirror = TargetMirror(database)
    await age(database, (GONE_DAYS - 1) * 86_400)
    assert await mirror.delete_abandoned() == 0
    await age(database, 2 * 86_400)
    # A jump host is removed after the targets behind it.
    assert [await mirror.delete_abandoned() for _ in range(3)] == [2, 1, 0]
    assert [row["name"] for row in await database.fetch("select name from targets")] == ["mine"]


# Credentials.


async def test_a_login_of_ours_comes_first_then_the_label_then_the_service(
    database: Database,
) -> None:
    vault = Vault(database, [new_key()])
    await vault.create(password("web-key"))
    with platform_services(V3) as platform:
        add(platform, "1:web-1")
        add(platform, "2:web-2", tags=("credential=web-key",))
        async with inventory_of(platform, database, vault=vault) as inventory:
            await names(inventory, ids=["1", "2"])
            found = await inventory.endpoints(["1", "2"])
        first, second = found["1"].credential, found["2"].credential
        assert first is not None
        assert first.source == TargetServiceSource(target="1")
        assert second is not None
        assert (second.name, second.source) == ("web-key", None)
        assert platform.asked("target")[-1].path == "/api/v3/targets/batch", (
            "credentials are fetched at the login, not before"
        )


async def test_a_label_neither_replaces_a_login_of_ours_nor_outlives_itself(
    database: Database,
) -> None:
    vault = Vault(database, [new_key()])
    await vault.create(password("ours"))
    label = await vault.create(password("web-key"))
    assert isinstance(label, StoredCredential)
    with platform_services(MS) as platform:
        add(platform, "1:web-1", "2:web-2", tags=("credential=web-key",))
        async with inventory_of(platform, database, vault=vault) as inventory:
            await names(inventory, ids=["1", "2"])
            stored = await inventory.get("1")
            draft = {name: stored.data()[name] for name in TargetDraft.model_fields}
            await inventory.replace(
                "1", TargetDraft.model_validate({**draft, "credential": "ours"})
            )
            await age(database, 60)
            assert await logins(inventory, "1", "2") == ["ours", "web-key"]
            with pytest.raises(Conflict) as caught:
                await vault.delete(str(label.id))
            assert caught.value.code == "credential_in_use"
            add(platform, "1:web-1", "2:web-2")
            await age(database, 60)
            assert await logins(inventory, "1", "2") == ["ours", None]
            await vault.delete(str(label.id))


async def logins(inventory: TargetInventory, *ids: str) -> list[str | None]:
    found = await inventory.endpoints(ids)
    return [one.name if (one := found[id_].credential) is not None else None for id_ in ids]


async def test_a_generation_without_credentials_uses_those_of_opsjobs_only(
    database: Database,
) -> None:
    with platform_services(MS) as platform:
        add(platform, "1:web-1")
        async with inventory_of(platform, database) as inventory:
            await names(inventory, ids=["1"])
            assert (await inventory.endpoints(["1"]))["1"].credential is None


# Faults.


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_the_service_fails_only_what_is_young_enough_is_used(
    fault: str, database: Database
) -> None:
    with platform_services(V3) as platform:
        add(platform, "1:web-1", tags=("web",))
        more = {"OPSJOBS_SERVICE_TIMEOUT": "0.5"} if fault == "slow" else {}
        async with inventory_of(platform, database) as inventory:
            assert await names(inventory, groups=["web"]) == ["web-1"]
        platform.faults["target"] = fault
        async with inventory_of(platform, database, **more) as inventory:
            assert await names(inventory, groups=["web"], ids=["1"]) == ["web-1"]
            await age(database, 31)
            for selection in ({"groups": ["web"]}, {"ids": ["1"]}, {"ids": ["web-9"]}):
                with pytest.raises(Unavailable) as caught:
                    await names(inventory, **selection)
                assert "The Target Service does not answer" in caught.value.detail
            login = (await inventory.endpoints(["1"]))["1"].credential
            assert login is not None
            assert isinstance(login.source, TargetServiceSource)
            assert "too old (OPSJOBS_TARGET_STALE)" in str(login.source.withheld)
            assert [one.target.name for one in (await inventory.list(PageRequest())).items] == [
                "web-1"
            ], "it is shown all the same"


async def test_older_data_is_used_as_long_as_the_setting_allows(database: Database) -> None:
    with platform_services(V3) as platform:
        add(platform, "1:web-1")
        async with inventory_of(platform, database, OPSJOBS_TARGET_STALE="10m") as inventory:
            await names(inventory, selector="!none")
            platform.faults["target"] = "500"
            await age(database, 600)
            assert await names(inventory, ids=["1"]) == ["web-1"]
            credential = (await inventory.endpoints(["1"]))["1"].credential
            assert credential is not None
            assert credential.fault is None
            await age(database, 60)
            with pytest.raises(Unavailable):
                await names(inventory, ids=["1"])


async def test_a_run_that_waits_takes_its_login_once_the_service_is_back(
    database: Database,
) -> None:
    vault = Vault(database, [new_key()])
    await vault.create(password("web-key"))
    secrets = ExternalSecrets(vault, None, SystemClock())
    with platform_services(V3) as platform:
        add(platform, "1:web-1")
        add(platform, "2:web-2", tags=("credential=web-key",))
        async with inventory_of(platform, database, vault=vault) as inventory:
            await names(inventory, ids=["1", "2"])
            before = await inventory.endpoints(["1", "2"])
            platform.faults["target"] = "500"
            await age(database, 60)
            during = await inventory.endpoints(["1", "2"])
            for endpoint in during.values():
                assert endpoint.credential is not None
                assert endpoint.credential.secrets == []
                with pytest.raises(RemoteFailure) as caught:
                    await secrets.fetch(endpoint.credential, "test")
                assert (caught.value.code, caught.value.offline) == ("credential_missing", True)
            platform.faults.clear()
            after = {id_: await refresh_credentials(inventory, one) for id_, one in during.items()}
            assert after == before


async def test_a_retry_takes_only_what_is_young_enough(database: Database) -> None:
    with platform_services(V3) as platform:
        add(platform, "1:web-1")
        async with inventory_of(platform, database) as inventory:
            await names(inventory, ids=["1"])
            platform.faults["target"] = "500"
            assert [*await inventory.get_many(["1"], strict=True)] == ["1"]
            await age(database, 31)
            with pytest.raises(Unavailable):
                await inventory.get_many(["1"], strict=True)
            assert [*await inventory.get_many(["1"])] == ["1"], "it is shown all the same"


async def test_what_was_read_earlier_never_replaces_what_was_read_later(
    database: Database,
) -> None:
    def named(name: str, id_: str) -> PlatformTarget:
        return PlatformTarget(id_, TargetDraft(name=name, host="192.0.2.7"))

    mirror, vault = TargetMirror(database), Vault(database, [new_key()])
    inventory = TargetInventory(database, vault)
    inventory.remote = True
    first = await mirror.moment()
    second = await mirror.moment()
    await mirror.write([named("web-1", "1"), named("web-2", "2")], read_at=second)
    third = await mirror.moment()
    await mirror.write([], gone=["2"], read_at=third)
    late = [named("web-2", "1"), named("web-1", "2"), named("web-3", "3")]
    written = await mirror.write(late, read_at=first, complete=True)
    assert (written["changed"], written["made"]) == (0, 1)
    assert await names(inventory, ids=["1", "3"]) == ["web-1", "web-3"]
    await mirror.write([], read_at=first, complete=True)
    assert await names(inventory, ids=["1"]) == ["web-1"]
    assert await inventory.get_many(["2"]) == {}
    row = await database.fetch_one("select synced_at from mirrors")
    assert row is not None
    assert row["synced_at"] == first, "it is as old as its first request"
