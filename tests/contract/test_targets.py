"""One contract of targets: the built-in inventory, and the Target Service of each generation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from kit.platform_services import GENERATIONS, platform_services
from kit.target_mirror import inventory_of
from opsjobs.model.errors import Invalid, NotFound
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import TargetDraft
from opsjobs.store.envelope import new_key
from opsjobs.store.inventory import StoredTarget, TargetInventory
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault

BUILT_IN = "built-in"
FLEET: list[dict[str, Any]] = [
    {"name": "web-1", "groups": ["web"], "labels": {"env": "prod", "role": "web"}},
    {"name": "web-2", "groups": ["web"], "labels": {"env": "test", "role": "web"}},
    {"name": "db-1", "groups": ["db"], "labels": {"env": "prod", "role": "db"}},
]


@dataclass
class SampleInventory:
    """An inventory with the fleet, and the ids of its targets."""

    inventory: TargetInventory
    ids: dict[str, str]

    async def names(self, **selection: Any) -> list[str]:
        found = await self.inventory.resolve(SelectionDraft.model_validate(selection))
        return [target.name for target in found]


@asynccontextmanager
async def sample_inventory(where: str, database: Database) -> AsyncIterator[SampleInventory]:
    if where == BUILT_IN:
        inventory = TargetInventory(database, Vault(database, [new_key()]))
        ids = {}
        for position, fields in enumerate(FLEET):
            draft = TargetDraft(host="192.0.2.7", port=2200 + position, **fields)
            made = await inventory.create(draft)
            assert isinstance(made, StoredTarget)
            ids[draft.name] = made.target.id
        yield SampleInventory(inventory, ids)
        return
    with platform_services(where) as platform:
        ids = {}
        for position, fields in enumerate(FLEET):
            tags = [
                *fields["groups"],
                *(f"{key}={value}" for key, value in fields["labels"].items()),
            ]
            ids[fields["name"]] = str(41 + position)
            platform.add_target(
                str(41 + position), fields["name"], "192.0.2.7", 2200 + position, tags=tags
            )
        async with inventory_of(platform, database) as inventory:
            yield SampleInventory(inventory, ids)


everywhere = pytest.mark.parametrize("where", [BUILT_IN, *GENERATIONS])


@everywhere
async def test_an_entry_is_an_id_a_uuid_or_a_name(where: str, database: Database) -> None:
    async with sample_inventory(where, database) as fleet:
        uuid = (await fleet.inventory.get(fleet.ids["web-2"])).uuid
        assert await fleet.names(ids=[uuid, "web-1", fleet.ids["db-1"]]) == [
            "web-2",
            "web-1",
            "db-1",
        ]


@everywhere
async def test_ids_groups_and_a_selector_are_united_each_target_once(
    where: str, database: Database
) -> None:
    async with sample_inventory(where, database) as fleet:
        selection = {"ids": ["db-1"], "groups": ["web"], "selector": "env=prod"}
        assert await fleet.names(**selection) == ["db-1", "web-1", "web-2"]
        assert await fleet.names(selector="env=prod,role!=db") == ["web-1"]
        assert await fleet.names(groups=["db"]) == ["db-1"]


@everywhere
async def test_what_does_not_exist_is_refused_with_its_place(
    where: str, database: Database
) -> None:
    async with sample_inventory(where, database) as fleet:
        with pytest.raises(Invalid) as caught:
            await fleet.names(ids=["web-1", "web-9", "4711"], groups=["none"])
        assert caught.value.code == "unknown_target"
        assert [error.pointer for error in caught.value.errors] == [
            "/targets/ids/1",
            "/targets/ids/2",
            "/targets/groups/0",
        ]


@everywhere
async def test_an_endpoint_has_the_address_and_unknown_ids_have_none(
    where: str, database: Database
) -> None:
    async with sample_inventory(where, database) as fleet:
        await fleet.names(selector="env")
        found = await fleet.inventory.endpoints([*fleet.ids.values(), "4711"])
        assert {one.target.name: one.target.port for one in found.values()} == {
            "web-1": 2200,
            "web-2": 2201,
            "db-1": 2202,
        }


@everywhere
async def test_targets_are_read_by_id_listed_and_counted(where: str, database: Database) -> None:
    async with sample_inventory(where, database) as fleet:
        assert await fleet.inventory.count() == 3
        found = await fleet.inventory.get_many([fleet.ids["web-1"], "4711"])
        assert [target.name for target in found.values()] == ["web-1"]
        page = await fleet.inventory.list(PageRequest(), "role=web")
        assert [item.target.name for item in page.items] == ["web-1", "web-2"]
        with pytest.raises(NotFound):
            await fleet.inventory.get("4711")
