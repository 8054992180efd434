"""Callers who may launch and not read see their own executions, and nothing of others."""

from __future__ import annotations

from typing import Any

from api.kit import problem
from opsjobs.engine.events import EventAudience
from opsjobs.model.access import EVERYWHERE, OwnReach, Principal, Reach, Scope
from opsjobs.model.approval import ApprovalTerms
from opsjobs.model.identity import Identity
from opsjobs.store.executions import Ownership
from opsjobs.store.transaction import Database
from security.test_permission_matrix import NOBODYS_BODY, NOT_THERE, routes
from security.two_scopes import FOREIGN, STAGING, ScopedApp, principal_with, scoped_app

LAUNCHES = (
    *("jobs:read", "jobs:execute", "executions:cancel", "executions:retry"),
    *("dead_letters:manage", "approvals:decide"),
)


def launcher(name: str, scope: str = "", *more: str) -> Principal:
    """Return a caller who may launch and act on executions, without executions:read."""
    return principal_with(name, *((permission, scope) for permission in (*LAUNCHES, *more)))


async def launched(app: ScopedApp, headers: dict[str, str]) -> int:
    """Launch the job in staging and end it, with an approval and a dead letter; return its id."""
    job = app.things["job", STAGING]
    made = await app.http.post(f"/jobs/{job}/execute", json={}, headers=headers)
    assert made.status_code == 202, made.text
    execution: int = made.json()["id"]
    await app.services.ledger.request_approval(execution, "ask", ApprovalTerms(STAGING))
    cancelled = await app.http.post(f"/executions/{execution}/cancel", headers=headers)
    assert cancelled.status_code == 202, cancelled.text
    await app.services.database.fetch(
        "update target_runs set status = 'lost' where execution_id = %s returning id", [execution]
    )
    return execution


async def test_lists_counts_and_searches_hold_what_the_caller_launched(database: Database) -> None:
    async with scoped_app(database) as app:
        lea, max_ = app.admit(launcher("lea")), app.admit(launcher("max"))
        ours, theirs = await launched(app, lea), await launched(app, max_)
        job, target = app.things["job", STAGING], app.things["target", STAGING]
        name = (await app.http.get(f"/jobs/{job}")).json()["name"]

        async def found(path: str, headers: dict[str, str] = lea) -> Any:
            answer = await app.http.get(path, headers=headers)
            assert answer.status_code == 200, f"{path}: {answer.text}"
            return answer.json()

        for query in (
            *("", "?page=1&size=10", f"?q={name[:5]}", f"?target={target}", "?label=env=staging"),
            *("?status=cancelled", "?sort=created_at", "?created_after=2020-01-01T00:00:00Z"),
            *("?requested_by=lea", f"?job_id={job}", "?limit=1"),
        ):
            page = await found(f"/executions{query}")
            assert [one["id"] for one in page["items"]] == [ours], query
            assert (page["next"], page.get("total") or 1) == (None, 1), query
        assert (await found("/executions?requested_by=max"))["items"] == []
        facets = await found("/executions?facets=requested_by&facets=status")
        assert facets["facets"] == {"requested_by": {"lea": 1}, "status": {"cancelled": 1}}
        assert [one["id"] for one in (await found("/executions", max_))["items"]] == [theirs]
        of_job = await found(f"/jobs/{job}/executions")
        assert [one["id"] for one in of_job["items"]] == [ours]
        (shown,) = (await found(f"/jobs?id={job}&recent=9"))["items"]
        assert [one["id"] for one in shown["recent"]] == [ours]
        asked = (await found("/approvals?page=1"))["items"]
        assert [one["execution_id"] for one in asked] == [ours]
        letters = await found("/dead-letters?page=1")
        assert [one["execution_id"] for one in letters["items"]] == [ours]
        assert letters["total"] == 1
        day = (await found("/stats"))["periods"][1]
        assert day["executions"]["total"] == 1
        assert [one["executions"] for one in day["busiest_jobs"]] == [1]


async def test_what_others_launched_is_answered_as_what_is_not_there(database: Database) -> None:
    async with scoped_app(database) as app:
        lea, max_ = app.admit(launcher("lea")), app.admit(launcher("max"))
        ours, theirs = await launched(app, lea), await launched(app, max_)
        (asked,) = [
            one["id"] for one in (await app.http.get("/approvals", headers=max_)).json()["items"]
        ]
        document = (await app.http.get("/openapi.json")).json()
        tried = 0
        for route in routes(document):
            if not route.has_object or route.noun not in ("execution", "approval", "artifact"):
                continue
            if route.permission not in (*LAUNCHES, "executions:read"):
                continue
            refs = [str({"execution": theirs, "approval": asked}.get(route.noun, NOT_THERE))]
            for ref in (*refs, app.things[route.noun, FOREIGN], NOT_THERE):
                body = b"" if route.method == "GET" else NOBODYS_BODY
                type_ = {"Content-Type": "application/json"} if body else {}
                status = await app.status(route.method, route.at(ref), {**lea, **type_}, body)
                assert status == 404, f"{route.method} {route.at(ref)}"
            if route.noun == "execution":
                body = b"" if route.method == "GET" else NOBODYS_BODY
                type_ = {"Content-Type": "application/json"} if body else {}
                at = route.at(str(ours))
                status = await app.status(route.method, at, {**lea, **type_}, body)
                # The group does not exist. 422: a query that the route needs is missing.
                if route.method == "GET" and "{digest}" not in at:
                    assert status in (200, 422), f"{at}: {status}"
                assert status not in (401, 403, 500), f"{route.method} {at}"
            tried += 1
        assert tried >= 20
        (foreign, missing) = [
            (await app.http.get(f"/executions/{ref}", headers=lea))
            .json()["detail"]
            .replace(ref, "…")
            for ref in (str(theirs), NOT_THERE)
        ]
        assert foreign == missing
        shown = (await app.http.get(f"/executions/{ours}", headers=lea)).json()
        assert shown["can"] == ["retry"]


async def test_dead_letters_of_others_are_answered_as_those_that_are_not_there(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        lea, max_ = app.admit(launcher("lea")), app.admit(launcher("max"))
        ours, theirs = await launched(app, lea), await launched(app, max_)
        letters = (await app.http.get("/dead-letters")).json()["items"]
        letter = {one["execution_id"]: one["id"] for one in letters}
        assert len(letter) == 4

        async def ask(verb: str, headers: dict[str, str] = lea, **wish: Any) -> Any:
            reason = {"reason": "because"}
            return await app.http.post(
                f"/dead-letters/{verb}", json={**wish, **reason}, headers=headers
            )

        for verb in ("revive", "discard"):
            for ids in ([letter[theirs]], [int(NOT_THERE)]):
                problem(await ask(verb, ids=ids), 404, "dead_letter_not_found")
        revived = (await ask("revive", filter={})).json()
        assert [one["parent"] for one in revived["executions"]] == [ours]
        assert not revived["more"]
        assert (await ask("discard", filter={})).json() == {"discarded": []}
        # A letter must be within both scopes: that of this right, and that of reading.
        second = await launched(app, lea)
        (added,) = [
            one["id"]
            for one in (await app.http.get("/dead-letters", headers=lea)).json()["items"]
            if one["execution_id"] == second
        ]
        reads, manages = ("executions:read", "env=foreign"), ("dead_letters:manage", "env=staging")
        half = principal_with("lea", ("jobs:execute", ""), reads, manages)
        answer = await ask("discard", app.admit(half), filter={})
        assert answer.json() == {"discarded": [added]}
        # They do not learn either that another caller answered that letter.
        assert (await ask("discard", max_, ids=[letter[theirs]])).status_code == 200
        for who in (half, launcher("lea")):
            again = await ask("revive", app.admit(who), ids=[letter[theirs]])
            problem(again, 404, "dead_letter_not_found")


async def test_a_right_to_launch_takes_away_no_right_to_cancel(database: Database) -> None:
    cancels = (("executions:cancel", ""), ("executions:read", "env=staging"))
    launches = (("jobs:read", ""), ("jobs:execute", ""))
    async with scoped_app(database) as app:
        foreign = f"/executions/{app.things['execution', FOREIGN]}/cancel"
        type_ = {"Content-Type": "application/json"}
        for grants, wanted in (
            (cancels, 422),
            ((*cancels, *launches), 422),
            # A caller who sees only their own executions cancels only those.
            ((cancels[0], *launches), 404),
        ):
            headers = {**app.admit(principal_with("mia", *grants)), **type_}
            status = await app.status("POST", foreign, headers, NOBODYS_BODY)
            assert status == wanted, grants


async def test_what_one_launched_is_seen_within_the_scope_of_that_right_only(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        staging = app.admit(launcher("lea", "env=staging"))
        ours = await launched(app, staging)
        for scope, seen in (("env=staging", [ours]), ("env=elsewhere", []), ("", [ours])):
            lea = app.admit(launcher("lea", scope))
            listed = (await app.http.get("/executions", headers=lea)).json()["items"]
            assert [one["id"] for one in listed] == seen, scope
            status = await app.status("GET", f"/executions/{ours}", lea)
            assert status == (200 if seen else 404), scope
        # Another identity of the same name launched nothing.
        key = app.admit(principal_with("lea", *((one, "") for one in LAUNCHES), kind="api_key"))
        assert (await app.http.get("/executions", headers=key)).json()["items"] == []
        # A scope in which executions may be read adds those of others.
        both = app.admit(
            principal_with(
                "lea", *((one, "") for one in LAUNCHES), ("executions:read", "env=foreign")
            )
        )
        listed = (await app.http.get("/executions?page=1", headers=both)).json()
        others = int(app.things["execution", FOREIGN])
        assert [one["id"] for one in listed["items"]] == [ours, others]
        assert listed["total"] == 2


async def test_a_preview_is_compared_with_executions_that_the_caller_sees(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        lea, max_ = app.admit(launcher("lea")), app.admit(launcher("max"))
        reads = (("jobs:read", ""), ("executions:read", ""))
        ben = app.admit(principal_with("ben", *reads, ("jobs:execute", "env=staging")))
        eva = app.admit(launcher("eva", "", "targets:read"))
        web, more = [await app.target(name, STAGING) for name in ("web-a", "web-b")]
        far = await app.target("far-a", FOREIGN)
        job = await app.job("patch", STAGING, web, more, far)

        async def executed(headers: dict[str, str], *targets: str) -> int:
            body = {"targets": {"ids": [*targets]}}
            made = await app.http.post(f"/jobs/{job}/execute", json=body, headers=headers)
            assert made.status_code == 202, made.text
            execution: int = made.json()["id"]
            await app.http.post(f"/executions/{execution}/cancel", headers=headers)
            return execution

        async def previewed(headers: dict[str, str], verb: str = "execute") -> list[Any]:
            body = {"targets": {"ids": [web]}, "dry_run": True}
            answer = await app.http.post(f"/jobs/{job}/{verb}", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            changes = answer.json()["changes"]
            removed = sorted(changes["removed"])
            return [changes["since"], changes["added"], removed, answer.json()["estimate"]]

        theirs = await executed(max_, web, more, far)
        await database.fetch(
            "update target_runs set status = 'succeeded', claimed_at = finished_at - interval "
            "'2 s' where execution_id = %s returning id",
            [theirs],
        )
        nothing = {"seconds": None, "executions": 0}
        taken = {"seconds": 2.0, "executions": 1}
        assert await previewed(lea) == [None, ["web-a"], [], nothing]
        assert await previewed(eva, "preview") == [None, ["web-a"], [], nothing]
        assert await previewed(max_) == [theirs, [], ["far-a", "web-b"], taken]
        # Within a scope no other targets are named.
        assert await previewed(ben) == [theirs, [], ["web-b"], taken]
        ours = await executed(lea, more)
        assert await previewed(lea) == [ours, ["web-a"], ["web-b"], nothing]
        assert await previewed(max_) == [theirs, [], ["far-a", "web-b"], taken]


async def test_a_retry_by_others_is_a_number(database: Database) -> None:
    async with scoped_app(database) as app:
        lea = app.admit(launcher("lea"))
        max_ = app.admit(launcher("max", "", "executions:read"))
        ours = await launched(app, lea)

        async def retried(headers: dict[str, str], status: int, **more: bool) -> Any:
            body = {"which": "unsuccessful", **more}
            path = f"/executions/{ours}/retry"
            answer = await app.http.post(path, json=body, headers=headers)
            assert answer.status_code == status, answer.text
            return answer.json()

        theirs = (await retried(max_, 202))["id"]
        said = f"Execution {ours} was already retried for these targets, by"
        repeat = "say `again: true` (--again) to repeat this one"
        assert (await retried(lea, 409))["detail"] == (
            f"{said} {theirs}. You may not see the last of those: {repeat}, "
            "or ask a caller who may see it."
        )
        shown = (await retried(lea, 200, dry_run=True))["retries"]
        assert shown == [{"id": theirs, "status": None}]
        again = (await retried(lea, 202, again=True))["id"]
        assert (await retried(lea, 409))["detail"] == (
            f"{said} {theirs}, {again} (queued). Retry the last of those if it failed, or {repeat}."
        )
        shown = (await retried(max_, 200, dry_run=True))["retries"]
        assert [one["status"] for one in shown] == ["queued", "queued"]


def test_events_of_an_execution_reach_its_launcher_stored_or_not() -> None:
    mine = EventAudience.of_execution(Ownership({"env": "prod"}, Identity("user", "lea")))
    bare = EventAudience.of_execution(Ownership({}, Identity("user", "lea")))
    for audience in (mine, EventAudience.from_data(mine.data()), bare):
        assert audience.admits(launcher("lea"))
        assert not audience.admits(launcher("max"))
        assert audience.admits(principal_with("vic", ("viewer", "")))
    assert mine.admits(launcher("lea", "env=prod"))
    assert not mine.admits(launcher("lea", "env=staging"))
    assert not bare.admits(launcher("lea", "env=prod"))
    assert not bare.admits(principal_with("vic", ("viewer", "env=prod")))
    assert launcher("lea").reach("executions:read").own is not None
    staging = Scope.parse("env=staging")
    operator = principal_with("ben", ("operator", "env=staging")).reach("executions:read")
    assert operator == Reach((staging,)), "a list of their own would add nothing"
    more = principal_with("ben", ("operator", "env=staging"), ("jobs:execute", "env=prod"))
    own = OwnReach(more.identity, (Scope.parse("env=prod"),))
    assert more.reach("executions:read") == Reach((staging,), own)
    everything = principal_with("ada", ("admin", "")).reach("executions:read")
    assert everything == Reach((EVERYWHERE,)), "who sees everything needs no list of their own"
