"""Point 4: selections do not reveal how many invisible machines and groups there are."""

from __future__ import annotations

from typing import Any

from api.kit import problem
from opsjobs.model.access import Scope
from opsjobs.model.access_bounds import out_of_sight
from opsjobs.model.selection import parse_selector
from opsjobs.store.transaction import Database
from security.two_scopes import STAGING, principal_with, scoped_app

UNSEEN: tuple[dict[str, Any], ...] = (
    {"selector": "env=prod,role=vault"},
    {"selector": "env=prod,role=nothing"},
    {"groups": ["pci"]},
    {"groups": ["nope"]},
    {"groups": ["pci", "nope"]},
    {"groups": ["empty"]},
)


async def test_what_is_not_seen_is_neither_counted_nor_told_from_what_is_not_there(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        mine = app.things["target", STAGING]
        for name in ("prod-1", "prod-2"):
            await app.target(name, None, labels={"env": "prod", "role": "vault"}, groups=["pci"])
        await app.made("/target-groups", {"name": "empty"})
        job = await app.job("mine", STAGING, mine)
        view = app.admit(principal_with("vera", ("viewer", "env=staging")))
        ben = app.admit(principal_with("ben", ("developer", "env=staging")))
        told: dict[str, set[str]] = {}
        body = {
            "name": "q",
            "tags": ["env=staging"],
            "actions": [{"type": "command", "command": "id"}],
        }
        for unseen in UNSEEN:
            of_action = {
                **body,
                "actions": [{**body["actions"][0], "targets": unseen}],
                "targets": {"ids": [mine]},
            }
            for what, wrong in (("job", {**body, "targets": unseen}), ("action", of_action)):
                answer = (await app.http.post("/jobs/validate", json=wrong, headers=view)).json()
                told.setdefault(f"validate {what}", set()).add(
                    str((answer["errors"], answer["warnings"]))
                )
                made = problem(
                    await app.http.post("/jobs", json=wrong, headers=ben), 403, "out_of_reach"
                )
                told.setdefault(f"create {what}", set()).add(made["detail"])
            run = {"actions": body["actions"], "targets": unseen}
            told.setdefault("run", set()).add(
                problem(await app.http.post("/run", json=run, headers=ben), 403, "out_of_reach")[
                    "detail"
                ]
            )
            for path, who in ((f"/jobs/{job}/preview", view), (f"/jobs/{job}/execute", ben)):
                refused = problem(
                    await app.http.post(path, json={"targets": unseen}, headers=who),
                    403,
                    "out_of_reach",
                )
                told.setdefault(path, set()).add(refused["detail"])
        for path, words in told.items():
            assert len(words) == 1, (path, words)
            assert out_of_sight().detail in next(iter(words)), path
        # Visible targets outside of the caller's scope are named, without the number of invisible
        # ones there.
        eve = app.admit(
            principal_with(
                "eve",
                ("targets:read", "env=staging"),
                ("targets:read", "env=foreign"),
                ("operator", "env=staging"),
            )
        )
        run = {"actions": body["actions"], "targets": {"selector": "env"}}
        detail = problem(await app.http.post("/run", json=run, headers=eve), 403, "out_of_reach")[
            "detail"
        ]
        assert "foreign" in detail
        assert "targets selected" not in detail
        # Within the caller's scope nothing is hidden: a selection without matches may be stored.
        later = {**body, "targets": {"selector": "env=staging,role=new"}}
        assert (await app.http.post("/jobs", json=later, headers=ben)).status_code == 201


def test_a_selector_keeps_to_a_scope_only_where_it_says_so() -> None:
    for scope, selector, kept in (
        ("env=staging", "env=staging,role=db", True),
        ("env in (staging,dev)", "env=dev", True),
        ("env in (staging,dev)", "env in (dev,prod)", False),
        ("env=staging", "env!=staging", False),
        ("env=staging", "env", False),
        ("env=staging", "role=db", False),
        ("canary", "canary=yes", True),
        ("canary", "!canary", False),
        ("env=staging,canary", "env=staging", False),
    ):
        assert Scope.parse(scope).covers(parse_selector(selector)) is kept, (scope, selector)
