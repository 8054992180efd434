"""Selections of targets: matches, exclusions, and the labels to select by."""

from __future__ import annotations

from typing import Any

import httpx2

from api.kit import ApiClient, api_client, job, problem
from opsjobs.store.transaction import Database
from security.two_scopes import FOREIGN, STAGING, principal_with, scoped_app


async def fleet(ada: ApiClient) -> None:
    """Create web-1, web-2 and db-1 in production, web-3 in test."""
    for name, env, groups in (
        ("web-1", "prod", ["web"]),
        ("web-2", "prod", ["web"]),
        ("web-3", "test", ["web"]),
        ("db-1", "prod", ["db"]),
    ):
        body = {"name": name, "host": name, "labels": {"env": env}, "groups": groups}
        assert (await ada.http.post("/targets", json=body)).status_code == 201


async def resolved(http: httpx2.AsyncClient, targets: dict[str, Any], **more: Any) -> Any:
    answer = await http.post("/targets/resolve", json={"targets": targets}, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def names(answer: dict[str, Any]) -> list[str]:
    return [item["name"] for item in answer["items"]]


async def test_a_selection_is_counted_named_and_summed_up_by_labels(database: Database) -> None:
    async with api_client(database) as ada:
        await fleet(ada)
        found = await resolved(
            ada.http, {"ids": ["db-1"], "groups": ["web"], "exclude": ["web-2", "db-1"]}
        )
        assert (found["count"], found["excluded"], names(found)) == (2, 2, ["web-1", "web-3"])
        assert (found["refusals"], found["platforms"]) == ([], {"linux": 2})
        assert found["labels"] == [
            {
                "key": "env",
                "targets": 2,
                "values": [{"value": "prod", "targets": 1}, {"value": "test", "targets": 1}],
                "more": 0,
            }
        ]
        first = await resolved(ada.http, {"groups": ["web"]}, params={"limit": 2})
        assert (first["count"], names(first)) == (3, ["web-1", "web-2"])
        rest = await resolved(ada.http, {"groups": ["web"]}, params={"cursor": first["next"]})
        assert (rest["count"], names(rest), rest["next"]) == (3, ["web-3"], None)


async def test_unknown_entries_are_reasons_and_the_others_are_found(database: Database) -> None:
    async with api_client(database) as ada:
        await fleet(ada)
        selection = {"ids": ["web-1", "web-9"], "groups": ["gone"], "exclude": ["web-8"]}
        found = await resolved(ada.http, selection)
        assert names(found) == ["web-1"]
        assert {(one["pointer"], one["code"]) for one in found["refusals"]} == {
            ("/targets/ids/1", "unknown_target"),
            ("/targets/groups/0", "unknown_target"),
            ("/targets/exclude/0", "unknown_target"),
        }
        nothing = await resolved(ada.http, {"selector": "env=none"})
        assert [one["code"] for one in nothing["refusals"]] == ["no_targets"]
        many = await resolved(ada.http, {"ids": [f"web-{n}" for n in range(500)]})
        assert (many["count"], len(many["refusals"])) == (0, 100)
        wrong = await ada.http.post("/targets/resolve", json={"targets": {"selector": "env=,,"}})
        problem(wrong, 422, "invalid")


async def test_exclusions_hold_for_jobs_and_for_one_execution(database: Database) -> None:
    async with api_client(database) as ada:
        await fleet(ada)
        targets = {"groups": ["web"], "exclude": ["web-3"]}
        made = (await ada.http.post("/jobs", json=job(targets=targets))).json()
        assert made["targets"]["exclude"] == ["web-3"]

        async def runs_on(body: dict[str, Any]) -> Any:
            path = f"/jobs/{made['id']}/execute"
            answer = await ada.http.post(path, json={**body, "dry_run": True})
            shown = answer.json()
            return [t["name"] for t in shown["targets"]] if answer.is_success else shown

        assert await runs_on({}) == ["web-1", "web-2"]
        assert await runs_on({"targets": {"exclude": ["web-1"]}}) == ["web-2"]
        assert await runs_on({"targets": {"selector": "env=prod", "exclude": ["db-1"]}}) == [
            "web-1",
            "web-2",
        ]
        unknown = await runs_on({"targets": {"exclude": ["web-9"]}})
        assert (unknown["code"], unknown["errors"][0]["pointer"]) == (
            "unknown_target",
            "/targets/exclude/0",
        )
        assert (await ada.http.delete("/targets/3")).status_code == 204
        assert (await runs_on({}))["code"] == "unknown_target"


async def test_an_exclusion_means_the_target_that_the_caller_sees(database: Database) -> None:
    """An invisible target whose id is the name of a visible one does not replace it."""
    async with scoped_app(database) as all_:
        ben = {"headers": all_.admit(principal_with("ben", ("operator", "env=staging")))}
        hidden = all_.things["target", FOREIGN]
        named, other = await all_.target(hidden, STAGING), all_.things["target", STAGING]
        made = await all_.job("both", STAGING, named, other)
        answer = await all_.http.post(
            f"/jobs/{made}/execute",
            json={"targets": {"exclude": [hidden]}, "dry_run": True},
            **ben,
        )
        assert [target["id"] for target in answer.json()["targets"]] == [other], answer.text


async def test_labels_are_counted_by_key_and_value(database: Database) -> None:
    async with api_client(database) as ada:
        await fleet(ada)
        found = (await ada.http.get("/targets/labels")).json()["labels"]
        assert found == [
            {
                "key": "env",
                "targets": 4,
                "values": [{"value": "prod", "targets": 3}, {"value": "test", "targets": 1}],
                "more": 0,
            }
        ]
        some = (await ada.http.get("/targets/labels?key=env&q=TE")).json()["labels"]
        assert some[0]["values"] == [{"value": "test", "targets": 1}]
        assert (await ada.http.get("/targets/labels?key=role")).json() == {"labels": []}
        problem(await ada.http.get("/targets/labels?q=%00"), 422, "invalid")
        problem(await ada.http.get("/targets/labels?key=,"), 422, "invalid")


async def test_targets_out_of_sight_are_neither_named_nor_counted(database: Database) -> None:
    async with scoped_app(database) as all_:
        ben = {"headers": all_.admit(principal_with("ben", ("operator", "env=staging")))}
        labels = (await all_.http.get("/targets/labels", **ben)).json()["labels"]
        assert [one["values"] for one in labels] == [[{"value": "staging", "targets": 1}]]
        hidden = (await all_.http.get("/targets?selector=env=foreign")).json()["items"][0]["name"]
        for selection in ({"ids": [hidden]}, {"ids": ["not-there"]}):
            found = await resolved(all_.http, selection, **ben)
            told = found["refusals"][0]["detail"].replace(selection["ids"][0], "…")
            assert (found["count"], told) == (0, "There is no target '…'.")
        every = await resolved(all_.http, {"selector": "env"}, **ben)
        none = await resolved(all_.http, {"selector": "env=foreign"}, **ben)
        absent = await resolved(all_.http, {"selector": "env=absent"}, **ben)
        assert (every["count"], len(every["items"])) == (1, 1)
        assert [one["code"] for one in every["refusals"]] == ["out_of_reach"]
        assert none == absent
        assert "foreign" not in f"{every}{none}"


async def test_a_viewer_is_told_that_a_launch_would_be_refused(database: Database) -> None:
    async with scoped_app(database) as all_:
        eve = {
            "headers": all_.admit(
                principal_with("eve", ("viewer", ""), ("operator", "env=staging"))
            )
        }
        found = await resolved(all_.http, {"selector": "env"}, **eve)
        assert found["count"] == 2
        assert "in which you hold jobs:execute" in found["refusals"][0]["detail"]
