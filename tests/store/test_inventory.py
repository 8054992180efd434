"""Targets: stored, selected, and the whole path of jump hosts to each."""

from __future__ import annotations

from typing import Any

import pytest

from opsjobs.model.errors import Conflict, Invalid, NotFound
from opsjobs.model.selection import SelectionDraft
from opsjobs.store.envelope import new_key
from opsjobs.store.inventory import StoredTarget, TargetInventory
from opsjobs.store.paging import PageRequest, natural_key
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from store.drafts import host_key, password, target


def inventory_on(database: Database) -> TargetInventory:
    return TargetInventory(database, Vault(database, [new_key()]))


async def stored(inventory: TargetInventory, name: str, **fields: Any) -> StoredTarget:
    made = await inventory.create(target(name, **fields))
    assert isinstance(made, StoredTarget)
    return made


async def names(inventory: TargetInventory, **selection: Any) -> list[str]:
    return [t.name for t in await inventory.resolve(SelectionDraft.model_validate(selection))]


async def fleet(inventory: TargetInventory) -> None:
    await stored(inventory, "web-1", groups=["web"], labels={"env": "prod", "role": "web"})
    await stored(inventory, "web-2", groups=["web"], labels={"env": "test", "role": "web"})
    await stored(inventory, "db-1", groups=["db"], labels={"env": "prod", "role": "db"})
    await stored(inventory, "spare")


async def test_a_target_reads_as_it_was_written(database: Database) -> None:
    inventory = inventory_on(database)
    key = host_key()
    made = await stored(
        inventory,
        "web-1",
        port=2222,
        labels={"env": "prod"},
        groups=["web", "web"],
        host_keys=[f"{key} root@web-1"],
    )
    read = await inventory.get(made.uuid)
    assert read == made
    assert (read.target.port, dict(read.target.labels), list(read.target.groups)) == (
        2222,
        {"env": "prod"},
        ["web"],
    )
    assert list(read.target.host_keys) == [key]


async def test_the_selection_is_ids_as_listed_then_groups_then_selector_each_target_once(
    database: Database,
) -> None:
    inventory = inventory_on(database)
    await fleet(inventory)
    assert await names(inventory, ids=["spare", "db-1"], groups=["web"], selector="env=prod") == [
        "spare",
        "db-1",
        "web-1",
        "web-2",
    ]
    assert await names(inventory, groups=["db", "web"]) == ["web-1", "web-2", "db-1"]


async def test_an_entry_of_ids_is_an_id_a_uuid_or_a_name_and_the_id_wins(
    database: Database,
) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "2")
    second = await stored(inventory, "web-2")
    assert await names(inventory, ids=["2"]) == ["web-2"]
    assert await names(inventory, ids=[2, second.uuid, "web-2"]) == ["web-2"]
    assert await names(inventory, ids=["1"]) == ["2"]


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("env=prod", ["web-1", "db-1"]),
        ("env==prod,role!=db", ["web-1"]),
        ("env in (prod, test)", ["web-1", "web-2", "db-1"]),
        ("env notin (prod)", ["web-2", "spare"]),
        ("role", ["web-1", "web-2", "db-1"]),
        ("!role", ["spare"]),
        ("env=prod'--", []),
    ],
)
async def test_a_selector_selects_by_its_conditions(
    database: Database, selector: str, found: list[str]
) -> None:
    inventory = inventory_on(database)
    await fleet(inventory)
    assert await names(inventory, selector=selector) == found


async def test_unknown_entries_are_all_reported_with_pointers(database: Database) -> None:
    inventory = inventory_on(database)
    await fleet(inventory)
    with pytest.raises(Invalid, match="web-9") as refused:
        await names(inventory, ids=["web-1", "web-9", "999999999999999999999"], groups=["nobody"])
    assert [e.pointer for e in refused.value.errors] == [
        "/targets/ids/1",
        "/targets/ids/2",
        "/targets/groups/0",
    ]
    assert refused.value.code == "unknown_target"


async def test_ten_thousand_ids_are_resolved_in_one_go(database: Database) -> None:
    inventory = inventory_on(database)
    await database.fetch(
        """insert into targets (uuid, name, host, port, transport, platform, host_key_policy, slots)
           select gen_random_uuid(), 'host-' || n, '10.0.0.5', 22, 'ssh', 'linux', 'pinned', 1
             from generate_series(1, 10000) n
           returning id"""
    )
    wanted = [f"host-{n}" for n in range(10_000, 0, -1)]
    assert await names(inventory, ids=wanted) == wanted


async def test_targets_are_sorted_by_the_numbers_in_their_names_and_hosts(
    database: Database,
) -> None:
    inventory = inventory_on(database)
    ordered = ["db", "web-2", "web-7-eu-10", "web-10", "web-20261129041500", f"x{'9' * 60}"]
    for name in reversed(ordered):
        await stored(inventory, name, host=f"{name}.example.org")
    for sort in ("name", "host"):
        page = await inventory.list(PageRequest(sort=sort))
        assert [each.target.name for each in page.items] == ordered
    row = await database.fetch_one(
        f"select count(*) as n from targets where name_order <> {natural_key('name')}"
        f" or host_order <> {natural_key('host')}"
    )
    assert row == {"n": 0}


async def test_an_endpoint_brings_credentials_and_the_way_nearest_hop_first(
    database: Database,
) -> None:
    vault = Vault(database, [new_key()])
    inventory = TargetInventory(database, vault)
    await vault.create(password("login"))
    await vault.create(password("gate"))
    await stored(inventory, "outer", credential="gate")
    await stored(inventory, "inner", credential="gate", jump="outer")
    web = await stored(inventory, "web-1", credential="login", jump="inner")
    db = await stored(inventory, "db-1")
    found = await inventory.endpoints([web.target.id, db.target.id, "77", "junk"])
    assert set(found) == {web.target.id, db.target.id}
    there = found[web.target.id]
    assert [hop.target.name for hop in there.jumps] == ["outer", "inner"]
    assert there.credential is not None
    assert there.credential.name == "login"
    assert [hop.credential.name if hop.credential else None for hop in there.jumps] == [
        "gate",
        "gate",
    ]
    assert (found[db.target.id].credential, found[db.target.id].jumps) == (None, ())


async def test_a_circle_of_jump_hosts_is_refused(database: Database) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "a")
    await stored(inventory, "b", jump="a")
    await stored(inventory, "c", jump="b")
    with pytest.raises(Invalid, match="circle") as refused:
        await inventory.replace("1", target("a", jump="c"))
    assert refused.value.errors[0].pointer == "/jump"


async def test_a_way_of_more_than_four_jump_hosts_is_refused_from_both_ends(
    database: Database,
) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "hop-0")
    for n in range(1, 5):
        await stored(inventory, f"hop-{n}", jump=f"hop-{n - 1}")
    with pytest.raises(Invalid, match="more than 4"):
        await stored(inventory, "hop-5", jump="hop-4")
    await stored(inventory, "gate")
    with pytest.raises(Invalid, match="more than 4"):
        await inventory.replace("1", target("hop-0", jump="gate"))


async def test_a_circle_that_stands_in_the_table_anyway_is_left_out(database: Database) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "a")
    await stored(inventory, "b", jump="a")
    await database.fetch("update targets set jump_id = 2 where id = 1 returning id")
    assert await inventory.endpoints(["1", "2"]) == {}


async def test_only_a_change_makes_a_version(database: Database) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "web-1")
    assert (await inventory.replace("1", target("web-1"))).target.version == 1
    assert (await inventory.replace("1", target("web-1", host="10.0.0.6"))).target.version == 2
    assert (
        await inventory.replace("1", target("web-1", host="10.0.0.6", host_keys=[host_key()]))
    ).target.version == 3


async def test_the_first_host_key_is_pinned_once_and_only_if_new_ones_are_accepted(
    database: Database,
) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "web-1", host_key_policy="accept_new")
    await stored(inventory, "web-2")
    first, second = host_key(), host_key()
    assert await inventory.remember_host_key("1", first)
    assert not await inventory.remember_host_key("1", second)
    assert not await inventory.remember_host_key("2", first)
    assert list((await inventory.get("1")).target.host_keys) == [first]


@pytest.mark.parametrize(
    "line", ["ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa of another type", "nonsense"]
)
async def test_a_host_key_that_is_none_is_refused(database: Database, line: str) -> None:
    line = line.replace("of another type", host_key().split()[1])
    with pytest.raises(Invalid) as refused:
        await stored(inventory_on(database), "web-1", host_keys=[host_key(), line])
    assert refused.value.errors[0].pointer == "/host_keys/1"


async def test_an_unknown_credential_or_jump_host_is_reported_with_its_field(
    database: Database,
) -> None:
    inventory = inventory_on(database)
    for field, code in (("credential", "unknown_credential"), ("jump", "unknown_target")):
        with pytest.raises(Invalid, match="'nobody'") as refused:
            await stored(inventory, "web-1", **{field: "nobody"})
        assert (refused.value.code, refused.value.errors[0].pointer) == (code, f"/{field}")


async def test_a_jump_host_in_use_is_not_deleted_and_its_users_are_named(
    database: Database,
) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "gate")
    for n in range(1, 8):
        await stored(inventory, f"web-{n}", jump="gate")
    with pytest.raises(Conflict, match=r"web-1, web-2, .* and 2 more") as refused:
        await inventory.delete("1")
    assert refused.value.code == "target_in_use"


async def test_a_taken_name_is_refused_with_the_name(database: Database) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "web-1")
    await stored(inventory, "web-2")
    for attempt in (inventory.create(target("web-1")), inventory.replace("2", target("web-1"))):
        with pytest.raises(Conflict, match="'web-1'"):
            await attempt


@pytest.mark.parametrize(
    "ref",
    [
        "0",
        "-1",
        "9",
        str(2**63),
        str(2**70),
        "x",
        "",
        "1 or 1=1",
        "²",
        "00000000-0000-0000-0000-000000000000",
    ],
)
async def test_what_names_no_target_is_not_found(database: Database, ref: str) -> None:
    inventory = inventory_on(database)
    await stored(inventory, "web-1")
    for verb in (inventory.get(ref), inventory.delete(ref), inventory.replace(ref, target("x"))):
        with pytest.raises(NotFound):
            await verb


async def test_a_list_is_narrowed_by_filters_and_a_selector(database: Database) -> None:
    inventory = inventory_on(database)
    await fleet(inventory)
    page = await inventory.list(PageRequest(filters={"groups": ["web"]}), "env=prod")
    assert [t.target.name for t in page.items] == ["web-1"]


async def test_how_durable_a_target_is_belongs_to_it(database: Database) -> None:
    inventory = inventory_on(database)
    assert (await stored(inventory, "web-1")).target.durable == "auto"
    made = await stored(inventory, "web-2", durable="required")
    assert made.data()["durable"] == made.target.durable == "required"
    off = await inventory.replace(made.target.id, target("web-2", durable="off"))
    assert (off.target.durable, off.target.version) == ("off", 2)
    assert (
        await inventory.replace(made.target.id, target("web-2", durable="off"))
    ).target.version == 2
    assert [t.durable for t in await inventory.resolve(SelectionDraft(ids=["web-1", "web-2"]))] == [
        "auto",
        "off",
    ]
    ways = await inventory.endpoints([made.target.id])
    assert ways[made.target.id].target.durable == "off"
    listed = await inventory.list(PageRequest(filters={"durable": ["off"]}))
    assert [t.target.name for t in listed.items] == ["web-2"]
    assert (await inventory.replace(made.target.id, target("web-2"))).target.durable == "auto"
    await inventory.delete(made.target.id)
    assert (await stored(inventory, "web-2")).target.durable == "auto"


async def test_revoked_keys_stay_marked_and_are_not_the_first_one_seen(database: Database) -> None:
    inventory = inventory_on(database)
    bad, good = host_key(), host_key()
    made = await stored(
        inventory, "web-1", host_key_policy="accept_new", host_keys=[f"@revoked {bad} lost in May"]
    )
    assert list(made.target.host_keys) == [f"@revoked {bad}"]
    assert await inventory.remember_host_key("1", good)
    assert not await inventory.remember_host_key("1", host_key())
    assert list((await inventory.get("1")).target.host_keys) == [f"@revoked {bad}", good]
    by_ca = await stored(inventory, "web-2", host_key_policy="ca", host_keys=[good])
    assert by_ca.data()["host_key_policy"] == "ca"
