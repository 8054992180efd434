"""Point 8: an approval is for the machines as they were then, until the turn of each comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from opsjobs.engine.launching.target_pinning import PinCheck, parse_step_pins, pin_steps
from opsjobs.model.action import FrozenJob
from opsjobs.model.errors import Invalid
from opsjobs.model.target import HostKeyPolicy, Target, TargetDraft, Transport
from opsjobs.model.target_fingerprint import Hop, Pins, holds
from opsjobs.model.target_fingerprint import pin as pin_of
from opsjobs.store.transaction import Database
from security.app_with_approvers import AppWithApprovers, app_with_approvers

APPROVED: dict[str, Any] = {"approval": {"approvers": 1}}


async def refusals(app: AppWithApprovers, execution: int) -> str | None:
    """Return the refusal that a worker gets which has just claimed the run on web-1, or None."""
    spec = (await app.services.ledger.load_specs([execution]))[execution]
    endpoint = (await app.services.inventory.endpoints(["1"]))["1"]
    return await PinCheck().find_refusal(spec, {}, 1, endpoint)


@pytest.mark.parametrize("door", ["execute", "run", "retry", "trigger", "step", "override", "free"])
async def test_every_door_pins_the_machines_that_somebody_is_asked_about(
    database: Database, door: str
) -> None:
    async with app_with_approvers(database) as app:
        fields: dict[str, Any] = {} if door == "free" else {"policy": APPROVED}
        if door == "step":
            fields = {
                "actions": [
                    {"type": "command", "command": "uptime"},
                    {"type": "approval", "key": "go"},
                ]
            }
        job = await app.job(**fields)
        path, body = await app.launch_request(door, job, **fields)
        if door == "override":
            body = {"override_safety": True, "reason": "alone on call"}
        execution = (await app.http.post(path, json=body)).json()["id"]
        assert await refusals(app, execution) is None
        await app.services.inventory.replace(
            "1", TargetDraft(name="web-1", host="10.0.0.1", groups=["web"])
        )
        assert await refusals(app, execution) is None
        await app.services.inventory.replace("1", TargetDraft(name="web-1", host="10.6.6.6"))
        told = await refusals(app, execution)
        assert told is None if door == "free" else "version 1 then, 3 now" in (told or "")


async def test_the_targets_of_its_steps_are_pinned_and_in_what_is_approved_and_are_not_without_end(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        await app.machine("db-1", labels={"role": "db"})
        await app.job("inner")

        def steps(*targets: dict[str, Any]) -> list[dict[str, Any]]:
            return [
                {"type": "job", "key": f"s{n}", "job": "inner", "targets": t}
                for n, t in enumerate(targets)
            ]

        job = await app.job(
            actions=steps({"selector": "role=db"}, {"ids": ["db-1"]}), policy=APPROVED
        )
        execution = (await app.execute(job))["id"]
        spec = (await app.services.ledger.load_specs([execution]))[execution]
        frozen = [FrozenJob.model_validate(action) for action in spec.actions]
        assert [list(parse_step_pins(action)) for action in frozen] == [["2"], ["2"]]
        (asked,) = (await app.http.get("/approvals")).json()["items"]
        shown = (await app.http.get(f"/approvals/{asked['id']}")).json()["would_run"]["actions"]
        assert [(action["job"], "pins" in action) for action in shown] == [("inner", False)] * 2
        inventory, vault = app.services.inventory, app.services.vault
        with pytest.raises(Invalid, match="more than 1 targets"):
            await pin_steps(spec.actions, inventory, vault, max_targets=1)
        gone = [{**spec.actions[0], "targets": {"ids": ["db-7"]}}]
        assert (await pin_steps(gone, inventory, vault, max_targets=1))[0]["pins"] == {}


async def test_a_jump_host_that_was_moved_is_another_way(database: Database) -> None:
    async with app_with_approvers(database) as app:
        await app.machine("gate")
        await app.services.inventory.replace(
            "1", TargetDraft(name="web-1", host="10.0.0.1", jump="gate")
        )
        execution = await app.execute(await app.job(policy=APPROVED))
        assert await refusals(app, execution["id"]) is None
        await app.services.inventory.replace("2", TargetDraft(name="gate", host="10.6.6.6"))
        assert "jump hosts" in (await refusals(app, execution["id"]) or "")


async def test_a_login_that_is_somebody_else_by_now_is_not_what_was_approved_and_a_new_secret_is(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        login = {"name": "web-pw", "type": "password", "username": "deploy", "password": "first"}
        assert (await app.http.post("/credentials", json=login)).status_code == 201
        await app.services.inventory.replace(
            "1", TargetDraft(name="web-1", host="10.0.0.1", credential="web-pw")
        )
        execution = await app.execute(await app.job(policy=APPROVED))
        for changed, same in (({"password": "second"}, True), ({"username": "root"}, False)):
            login |= changed
            put = await app.http.put("/credentials/1", json=login, headers={"If-Match": "*"})
            assert put.status_code == 200, put.text
            assert (await refusals(app, execution["id"]) is None) is same


def pin(way: list[Target]) -> bytes:
    """Return the pin of machines that all have the same login."""
    return pin_of([Hop(target, "deploy") for target in way])


def same_as(pinned: bytes, way: list[Target], login: str = "deploy") -> bool:
    """Return True if the pin matches."""
    return holds(pinned, [Hop(target, login) for target in way])


WEB = Target(
    "1", "web-1", "10.0.0.1", 22, Transport.SSH, labels={"env": "test"}, host_keys=["ssh-ed25519 A"]
)
GATE = Target("2", "gate", "10.0.0.2", 22, Transport.SSH)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"host": "10.0.0.3"}, False),
        ({"port": 2222}, False),
        ({"transport": Transport.LOCAL}, False),
        ({"platform": "windows"}, False),
        ({"credential": "7"}, False),
        ({"host_keys": ["ssh-ed25519 B"]}, False),
        ({"host_keys": []}, False),
        ({"host_key_policy": HostKeyPolicy.UNCHECKED}, False),
        ({"labels": {"env": "prod"}}, False),
        (
            {
                "name": "web-one",
                "groups": ["web"],
                "slots": 1,
                "zone": "far",
                "durable": "off",
                "version": 7,
            },
            True,
        ),
    ],
)
def test_a_pin_is_of_all_that_decides_which_machine_it_is(
    changed: dict[str, Any], same: bool
) -> None:
    assert same_as(pin([WEB, GATE]), [replace(WEB, **changed), GATE]) is same
    assert same_as(pin([GATE, WEB]), [GATE, replace(WEB, **changed)]) is (
        same or set(changed) == {"labels"}
    )
    assert not same_as(pin([WEB, GATE]), [WEB])
    assert not same_as(pin([WEB]), [WEB], "root")


def test_a_first_host_key_is_no_change_where_any_is_accepted() -> None:
    new = replace(
        WEB, host_key_policy=HostKeyPolicy.ACCEPT_NEW, host_keys=["@revoked ssh-ed25519 X"]
    )
    seen, other = (
        replace(new, host_keys=[*new.host_keys, "ssh-ed25519 A"]),
        replace(new, host_keys=["ssh-ed25519 A"]),
    )
    assert same_as(pin([new]), [seen])
    assert not same_as(pin([new]), [other]), "what was revoked is not any more"
    assert not same_as(pin([seen]), [new]), "the key that was known is not any more"


def test_pins_are_told_apart_by_position() -> None:
    targets = [replace(WEB, version=n, port=n) for n in (1, 2, 70_000)]
    pins = Pins.from_targets(targets, b"".join(pin([target]) for target in targets))
    assert [pins.version(n) for n in (1, 2, 3)] == [1, 2, 70_000]
    assert [pins.digest(n) for n in (1, 2, 3)] == [pin([target]) for target in targets]
    assert (Pins().version(1), Pins().digest(1), Pins.from_targets(targets).digest(1)) == (
        None,
        None,
        None,
    )
