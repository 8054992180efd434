"""GET /stats: executions of the last hour, day and week, with and without hourly sums."""

from __future__ import annotations

from collections import Counter
from typing import Any

from api.kit import problem
from api.live import LiveApi, live_api
from opsjobs.store.statistics import GROWTH, Statistics
from opsjobs.store.transaction import Database
from security.two_scopes import principal_with, scoped_app

# Some executions in each hour of 10 days, of two jobs and none, in two halves; the newest is half
# an hour old.
_EXECUTIONS = """
with made as (
  insert into job_executions (uuid, job_id, job_version, number, log_day, status, "window",
    priority, total, succeeded, failed, lost, created_at, started_at, finished_at)
  select gen_random_uuid(), case when n % 5 = 0 then null else 1 + n % 2 end,
    case when n % 5 = 0 then null else 1 end, n, current_date, status, 5, 5, 2,
    case when status = 'completed' then 2 when status = 'partial' then 1 else 0 end,
    case when status = 'failed' then 2 else 0 end, case when status = 'partial' then 1 else 0 end,
    at - interval '3 s' - n % 7 * interval '1 s', at - interval '2 s' - n % 7 * interval '1 s', at
  from (select n, opsjobs_now() - interval '30 min' - n / 4 * interval '1 hour' as at,
      case when n % 3 = 0 then 'failed' when n % 4 = 0 then 'partial' else 'completed' end as status
    from generate_series(0, 959) n) x
  returning id, number
)
insert into execution_specs (execution_id, job_name, actions, policy, triggered_by, requested_by,
  labels)
select id, 'job', '[]', '{}', 'api', 'ada',
  jsonb_build_object('env', case when number % 2 = 0 then 'staging' else 'prod' end) from made"""


async def furnish(on: LiveApi) -> None:
    """Two jobs, and the executions of ten days; it is twenty minutes past, so that no hour ends meanwhile."""
    async with on.services.database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = date_trunc('hour', now()) + interval '20 min' - now()"
        )
    await on.targets("web-1")
    for name in ("nightly", "hourly"):
        body = {
            "name": name,
            "actions": [{"command": "uptime"}],
            "targets": {"ids": ["web-1"]},
        }
        assert (await on.http.post("/jobs", json=body)).status_code == 201
    async with on.services.database.connection() as connection:
        await connection.execute(_EXECUTIONS)
        await connection.execute(
            "update statistics_progress set counted_until = counted_until - interval '9 days'"
        )


async def test_the_figures_are_the_same_before_and_after_hours_are_counted(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await furnish(api)
        first = (await api.http.get("/stats")).json()
        before, hours = first["periods"], first["hours"]
        day = next(period for period in before if period["period"] == "day")
        totals = Counter[str]()
        for hour in hours:
            totals.update(hour["by_status"])
        assert totals == day["executions"]["by_status"]
        assert [hour["hour"] for hour in hours] == sorted({hour["hour"] for hour in hours})
        assert len(hours) == 24
        statistics = Statistics(database)
        counted = 0
        while await statistics.count_hour():
            counted += 1
        assert counted == 8 * 24
        last = (await api.http.get("/stats")).json()
        after = last["periods"]
        assert (after[1:], last["hours"]) == (before[1:], hours)
        hour, day, week = after
        assert (hour["period"], day["period"], week["period"]) == ("hour", "day", "week")
        assert hour["executions"] == {
            "total": 4,
            "by_status": {"completed": 2, "failed": 2},
        }
        assert hour["runs"] == {"total": 8, "by_status": {"succeeded": 4, "failed": 4}}
        assert (hour["success_share"], hour["run_success_share"]) == (0.5, 0.5)
        assert day["executions"]["total"] == 4 * 24
        assert week["executions"]["total"] == 4 * 168
        assert week["executions"]["total"] == sum(
            kind["executions"]["total"] for kind in week["job_types"]
        )
        assert [kind["job_type"] for kind in week["job_types"]] == ["ad_hoc", "command"]
        assert {job["job_name"] for job in week["busiest_jobs"]} == {"nightly", "hourly", "ad-hoc"}
        assert week["busiest_jobs"] == sorted(
            week["busiest_jobs"], key=lambda job: (-job["executions"], job["job_name"])
        )


async def test_quantiles_are_within_five_per_cent(database: Database) -> None:
    async with live_api(database) as api:
        await furnish(api)
        while await Statistics(database).count_hour():
            pass
        week = (await api.http.get("/stats")).json()["periods"][2]
        # They ran 2 to 8 seconds, equally often, and waited one second.
        error = GROWTH**0.5
        for found, exact in (
            (week["duration_seconds"]["median"], 5),
            (week["duration_seconds"]["p95"], 8),
            (week["queue_seconds"]["median"], 1),
        ):
            assert exact / error - 0.01 <= found <= exact * error + 0.01


async def test_a_scope_counts_what_lies_within_it(database: Database) -> None:
    async with live_api(database) as api:
        await furnish(api)
        body = {"name": "ben", "grants": [{"role": "viewer", "scope": "env=staging"}]}
        token = (await api.http.post("/api-keys", json=body)).json()["token"]
        ben = {"Authorization": f"Bearer {token}"}
        for _ in range(2):
            mine = (await api.http.get("/stats", headers=ben)).json()["periods"]
            everything = (await api.http.get("/stats")).json()["periods"]
            for few, all_ in zip(mine, everything, strict=True):
                assert few["executions"]["total"] * 2 == all_["executions"]["total"]
            while await Statistics(database).count_hour():
                pass
        nothing = {"name": "eve", "grants": [{"role": "viewer", "scope": "env=elsewhere"}]}
        token = (await api.http.post("/api-keys", json=nothing)).json()["token"]
        none = await api.http.get("/stats", headers={"Authorization": f"Bearer {token}"})
        assert [p["executions"]["total"] for p in none.json()["periods"]] == [0, 0, 0]
        assert none.json()["periods"][2]["success_share"] is None


async def test_a_caller_without_the_permission_gets_no_figures(database: Database) -> None:
    async with scoped_app(database) as all_:
        headers = all_.admit(principal_with("clerk", ("system:read", "")))
        problem(await all_.http.get("/stats", headers=headers), 403, "forbidden")
        version: dict[str, Any] = (await all_.http.get("/version", headers=headers)).json()
        assert set(version) == {"version", "python", "schema_needed"}
