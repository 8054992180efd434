"""Groups: stored, nested, selected, renamed and deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opsjobs.model.errors import Conflict, Invalid, NotFound
from opsjobs.model.selection import GroupDraft
from opsjobs.store.groups import Groups, StoredGroup
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.jobs import Jobs
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database
from store.drafts import job, target
from store.test_inventory import fleet, inventory_on, names


async def made(on: Groups, name: str, **fields: Any) -> StoredGroup:
    group = await on.create(GroupDraft(name=name, **fields))
    assert isinstance(group, StoredGroup)
    return group


async def count_by_group(groups: Groups) -> dict[str, int]:
    return {group.name: group.targets for group in (await groups.list(PageRequest())).items}


async def own_groups(inventory: TargetInventory) -> dict[str, list[str]]:
    found = (await inventory.list(PageRequest())).items
    return {stored.target.name: list(stored.target.groups) for stored in found}


async def test_a_target_makes_the_groups_that_it_names(database: Database) -> None:
    await fleet(inventory_on(database))
    assert await count_by_group(Groups(database)) == {"db": 1, "web": 2}


async def test_who_is_in_a_group_names_it_is_selected_or_is_in_one_that_it_holds(
    database: Database,
) -> None:
    inventory, groups = inventory_on(database), Groups(database)
    await fleet(inventory)
    await made(groups, "prod", selector="env=prod,role in (web,db)")
    await made(groups, "all", groups=["prod", "web"], targets=["spare"])
    assert await names(inventory, groups=["prod"]) == ["web-1", "db-1"]
    assert await names(inventory, groups=["all"]) == ["web-1", "web-2", "db-1", "spare"]
    assert await names(inventory, ids=["spare"], groups=["all"]) == [
        "spare",
        "web-1",
        "web-2",
        "db-1",
    ]
    assert await groups.members(
        str((await groups.list(PageRequest(filters={"name": ["all"]}))).items[0].id)
    ) == [1, 2, 3, 4]


async def test_an_empty_group_exists_and_one_that_was_never_made_does_not(
    database: Database,
) -> None:
    inventory, groups = inventory_on(database), Groups(database)
    await made(groups, "empty")
    assert await names(inventory, groups=["empty"]) == []
    with pytest.raises(Invalid, match="no group 'web'"):
        await names(inventory, groups=["empty", "web"])


async def test_the_targets_of_a_group_are_those_written_and_no_others(database: Database) -> None:
    inventory, groups = inventory_on(database), Groups(database)
    await fleet(inventory)
    (web,) = (await groups.list(PageRequest(filters={"name": ["web"]}))).items
    await groups.replace(
        str(web.id), GroupDraft(name="web", description="in front", targets=["web-2", "4"])
    )
    assert await names(inventory, groups=["web"]) == ["web-2", "spare"]
    await groups.replace(web.uuid, GroupDraft(name="web"))
    assert await names(inventory, groups=["web"]) == ["web-2", "spare"]
    with pytest.raises(Invalid, match="web-9") as unknown:
        await groups.replace(web.uuid, GroupDraft(name="web", targets=["web-1", "web-9"]))
    assert unknown.value.errors[0].pointer == "/targets/1"


async def test_two_changes_at_once_cannot_close_a_circle(database: Database) -> None:
    groups = Groups(database)
    one, two = await made(groups, "one"), await made(groups, "two")
    changes = [
        groups.replace(one.uuid, GroupDraft(name="one", groups=["two"])),
        groups.replace(two.uuid, GroupDraft(name="two", groups=["one"])),
    ]
    ends = await asyncio.gather(*changes, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["Invalid", "StoredGroup"]


async def test_a_renamed_group_is_renamed_in_targets_and_groups_unless_a_job_names_it(
    database: Database,
) -> None:
    inventory, groups = inventory_on(database), Groups(database)
    await fleet(inventory)
    (web,) = (await groups.list(PageRequest(filters={"name": ["web"]}))).items
    await made(groups, "all", groups=["web"])
    await groups.replace(web.uuid, GroupDraft(name="front"))
    assert (await own_groups(inventory))["web-1"] == ["front"]
    assert await names(inventory, groups=["all"]) == ["web-1", "web-2"]
    await Jobs(database).create(job("restart", targets={"groups": ["front"]}), by="ada")
    with pytest.raises(Conflict, match="restart"):
        await groups.replace(web.uuid, GroupDraft(name="web"))
    with pytest.raises(Conflict, match="already a group named 'all'"):
        await made(groups, "all")


async def test_a_group_in_use_is_not_dropped_and_a_dropped_one_is_named_no_more(
    database: Database,
) -> None:
    inventory, groups = inventory_on(database), Groups(database)
    await fleet(inventory)
    everything = await made(groups, "all", groups=["web"])
    (web,) = (await groups.list(PageRequest(filters={"name": ["web"]}))).items
    with pytest.raises(Conflict, match="all"):
        await groups.delete(str(web.id))
    await groups.delete(everything.uuid)
    await groups.delete(str(web.id))
    assert (await own_groups(inventory))["web-1"] == []
    with pytest.raises(NotFound):
        await groups.get(web.uuid)


async def test_groups_of_the_release_before_are_groups(database: Database) -> None:
    inventory = inventory_on(database)
    await inventory.create(target("web-1"))
    await database.fetch("update targets set groups = array['old'] returning id")
    assert await names(inventory, groups=["old"]) == ["web-1"]
