"""Many targets at once: each is created, changed, left unchanged or refused by itself."""

from __future__ import annotations

from typing import Any

from opsjobs.clock import SystemClock
from opsjobs.model.target_import import ImportDraft, Imported
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.paging import PageRequest
from opsjobs.store.target_import import Imports
from opsjobs.store.transaction import Database
from store.drafts import password
from store.test_inventory import inventory_on


async def take_in(database: Database, *entries: dict[str, Any], **how: Any) -> Imported:
    imported = await Imports(database, SystemClock()).take_in(
        ImportDraft(targets=[*entries], **how)
    )
    assert isinstance(imported, Imported)
    return imported


def outcomes(imported: Imported) -> list[str]:
    return [outcome.outcome for outcome in imported.outcomes]


async def hosts_by_name(inventory: TargetInventory) -> dict[str, str]:
    return {
        stored.target.name: stored.target.host
        for stored in (await inventory.list(PageRequest(limit=200))).items
    }


def host(number: int, **fields: Any) -> dict[str, Any]:
    return {"name": f"web-{number}", "host": f"10.0.0.{number}", **fields}


async def test_an_import_done_again_changes_nothing(database: Database) -> None:
    inventory = inventory_on(database)
    await inventory._vault.create(password("login"))
    entries = [
        host(
            n,
            labels={"env": "prod"},
            groups=["web"],
            credential="login",
            hostKeyPolicy="accept_new",
        )
        for n in (1, 2, 3)
    ]
    assert outcomes(await take_in(database, *entries)) == ["created"] * 3
    assert outcomes(await take_in(database, *entries)) == ["unchanged"] * 3
    (stored, *_) = (await inventory.list(PageRequest())).items
    assert (stored.credential_name, stored.target.version, list(stored.target.groups)) == (
        "login",
        1,
        ["web"],
    )
    assert (await database.fetch_one("select name from target_groups")) == {"name": "web"}


async def test_what_an_entry_does_not_mention_stays_as_it_is(database: Database) -> None:
    inventory = inventory_on(database)
    await take_in(database, host(1, labels={"env": "prod"}, slots=3, durable="required"))
    assert outcomes(await take_in(database, {"name": "web-1", "host": "10.0.0.9"})) == ["updated"]
    target = (await inventory.get("1")).target
    assert (target.host, dict(target.labels), target.slots, target.durable) == (
        "10.0.0.9",
        {"env": "prod"},
        3,
        "required",
    )
    assert outcomes(
        await take_in(database, {"name": "web-1", "host": "10.0.0.1"}, existing="skip")
    ) == ["skipped"]
    assert (await hosts_by_name(inventory))["web-1"] == "10.0.0.9"


async def test_a_bad_entry_is_refused_with_why_and_hinders_no_other(database: Database) -> None:
    imported = await take_in(
        database,
        host(1),
        {"name": "web-2"},
        host(3, port=0),
        host(4, credential="nobody"),
        host(1),
        {"host": "10.0.0.7"},
        host(5, color="red"),
        {"name": "a,b", "host": "x"},
        host(6),
    )
    assert outcomes(imported) == ["created", *["refused"] * 7, "created"]
    errors = [outcome.error or {} for outcome in imported.outcomes]
    assert [error.get("code") for error in errors[1:8]] == [
        "invalid",
        "invalid",
        "unknown_credential",
        "name_taken",
        "invalid",
        "invalid",
        "invalid",
    ]
    assert errors[2]["message"].startswith("/port: ")
    assert await hosts_by_name(inventory_on(database)) == {"web-1": "10.0.0.1", "web-6": "10.0.0.6"}


async def test_a_jump_host_may_come_after_those_behind_it_and_a_circle_is_refused(
    database: Database,
) -> None:
    imported = await take_in(
        database, host(1, jump="web-2"), host(2, jump="gate"), {"name": "gate", "host": "gate.example.org"}, host(4, jump="web-5"),
        host(5, jump="web-4"),
    )  # fmt: skip
    assert outcomes(imported)[:3] == ["created"] * 3
    assert sorted(outcomes(imported)[3:]) == ["refused", "refused"]
    assert (await inventory_on(database).get(imported.outcomes[0].id or "")).jump_name == "web-2"


async def test_a_dry_run_reports_the_changes_and_stores_nothing(database: Database) -> None:
    await take_in(database, host(1))
    imported = await take_in(
        database, host(1, port=2222), host(2), host(3, jump="web-9"), dry_run=True
    )
    told = imported.data()
    assert (told["updated"], told["created"], told["refused"], told["dry_run"]) == (1, 1, 1, True)
    assert await hosts_by_name(inventory_on(database)) == {"web-1": "10.0.0.1"}


async def test_a_dry_run_takes_no_ids(database: Database) -> None:
    first = await take_in(database, host(1, groups=["web"]))
    for _ in range(3):
        tried = await take_in(
            database,
            *(host(n, groups=["web"], jump="web-1" if n % 2 else None) for n in range(2, 40)),
            dry_run=True,
        )
        assert {(outcome.outcome, outcome.id) for outcome in tried.outcomes} == {("created", None)}
    last = await take_in(database, host(2, groups=["web", "db"]), host(3, jump="web-1"))
    assert [outcome.id for outcome in (*first.outcomes, *last.outcomes)] == ["1", "2", "3"]
    groups = await database.fetch("select id, name from target_groups order by id")
    assert [(row["id"], row["name"]) for row in groups] == [(1, "web"), (2, "db")]


async def test_a_thousand_are_one_request(database: Database) -> None:
    entries = [
        {
            "name": f"web-{n}",
            "host": f"10.0.{n // 250}.{n % 250}",
            "groups": ["web"],
            "labels": {"n": str(n)},
        }
        for n in range(1000)
    ]
    assert (await take_in(database, *entries)).data()["created"] == 1000
    assert (await take_in(database, *entries)).data()["unchanged"] == 1000


async def test_labels_and_groups_are_added_to_what_a_target_has(database: Database) -> None:
    inventory = inventory_on(database)
    await take_in(database, host(1, labels={"env": "prod", "rack": "r1"}, groups=["all-web"]))
    imported = await take_in(
        database, host(1, labels={"env": "dev", "team": "a"}, groups=["canaries"])
    )
    target = (await inventory.get("1")).target
    assert dict(target.labels) == {"env": "dev", "rack": "r1", "team": "a"}
    assert list(target.groups) == ["all-web", "canaries"]
    assert imported.data()["items"][0]["changes"] == {
        "groups": {"from": ["all-web"], "to": ["all-web", "canaries"]},
        "labels.env": {"from": "prod", "to": "dev"},
        "labels.team": {"from": None, "to": "a"},
    }
    assert outcomes(await take_in(database, host(1, labels={"team": "a"}, groups=["all-web"]))) == [
        "unchanged"
    ]


async def test_labels_and_groups_are_replaced_on_demand(database: Database) -> None:
    inventory = inventory_on(database)
    await take_in(database, host(1, labels={"env": "prod", "rack": "r1"}, groups=["web"]))
    imported = await take_in(
        database, host(1, labels={"env": "dev"}, groups=["db"]), labels="replace", groups="replace"
    )
    target = (await inventory.get("1")).target
    assert (dict(target.labels), list(target.groups)) == ({"env": "dev"}, ["db"])
    assert imported.outcomes[0].changes["labels.rack"] == {"from": "r1", "to": None}


async def test_an_import_reports_targets_of_the_same_address(database: Database) -> None:
    await take_in(database, host(1), host(2, jump="web-1"))
    imported = await take_in(
        database, {"name": "web01", "host": "10.0.0.1"}, {"name": "web02", "host": "10.0.0.2"}
    )
    assert [outcome.same_address for outcome in imported.outcomes] == [
        ["web-1"],
        (),
    ]  # behind a jump host it is another machine
    moved = await take_in(database, host(1, port=2222), host(3))
    assert [outcome.same_address for outcome in moved.outcomes] == [(), ()]


async def test_a_host_may_be_in_as_many_groups_as_kolla_ansible_has(database: Database) -> None:
    groups = [f"service-{number}" for number in range(132)]
    assert outcomes(await take_in(database, host(1, groups=groups))) == ["created"]
    assert outcomes(
        await take_in(database, host(2, groups=[f"g{number}" for number in range(501)]))
    ) == ["refused"]
