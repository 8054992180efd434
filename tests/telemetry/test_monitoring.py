"""Metrics, alert rules and the dashboard: well-formed, bounded, and consistent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase
from ruamel.yaml import YAML

from api.kit import api_client
from engine.harness import harness, until
from opsjobs.api.system import OTHER_ZONES, ZONES_SHOWN_MAX, fleet_gauges
from opsjobs.engine.background.event_publisher import ExecutionMeter
from opsjobs.engine.loop import LoopLagMonitor
from opsjobs.remote.session import RemoteExit
from opsjobs.store.outbox import Outbox
from opsjobs.store.system_status import Queue, SystemStatus, Upkeep
from opsjobs.store.transaction import Database
from opsjobs.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
RULE_FILES = ("alerts.yml", "recording.yml")
# Each label, and the bound of its values. A new one needs a bound.
BOUNDED_BY = {
    "code": "ErrorCode",
    "decision": "constants of the planner of notifications",
    "destination": "constants of the destinations of deliveries",
    "direction": "upload, download",
    "event": "NotificationEvent",
    "method": "the methods of HTTP, and `other`",
    "outcome": "constants of the client of services",
    "reason": "constants of the safety check",
    "result": "constants of the notifier",
    "route": "the routes of the application, and `none`",
    "rule": "FiringRule",
    "service": "constants of the integrations",
    "state": "open, idle, wanted",
    "status": "RunStatus, ExecutionStatus; three digits of HTTP",
    "step": "constants of the upkeep",
    "type": "JobType, and `unknown`",
    "where": "constants of the code",
}


def promtool(*arguments: str, given: str | None = None) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("this machine cannot check rules: promtool is not installed (Debian: promtool)")
    done = subprocess.run(
        [program, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=MONITORING,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def families(metrics: Metrics) -> Iterator[MetricWrapperBase]:
    for collector in metrics.registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            yield collector


def rules() -> list[dict[str, Any]]:
    found = []
    for name in RULE_FILES:
        for group in YAML(typ="safe").load(MONITORING / name)["groups"]:
            found += group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def expressions() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [*(rule["expr"] for rule in rules()), *panels]


async def test_the_page_of_the_api_is_clean(database: Database) -> None:
    async with api_client(database) as ada:
        ada.services.system_status = SystemStatus(database)
        await ada.http.get("/jobs")
        page = (await ada.http.get("/metrics")).text
    assert "opsjobs_workers_capacity" in page
    promtool("check", "metrics", given=page)


def test_the_rules_are_clean_and_fire_when_they_should() -> None:
    promtool("check", "rules", *RULE_FILES)
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yml")))


def test_every_metric_that_a_rule_or_a_panel_names_exists() -> None:
    documented = set(
        re.findall(r"`(opsjobs_[a-z_]+)`", (ROOT / "docs/reference/metrics.md").read_text())
    )
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for expression in expressions():
        for name in re.findall(r"\bopsjobs[a-z0-9_:]+", expression):
            plain = re.sub(r"_(bucket|count|sum)$", "", name)
            assert name in recorded or plain in documented, (name, expression)
    labels = {label for metric in families(Metrics()) for label in metric._labelnames}
    used = {
        label for expression in expressions() for label in re.findall(r"(\w+)[=!]~?\"", expression)
    }
    assert used <= labels | {"zone", "job", "service", "state"}


def test_every_alert_says_what_to_do_and_where_to_read_more() -> None:
    page = (ROOT / "docs/operations/alerts.md").read_text()
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) == len(re.findall(r"^### ", page, re.MULTILINE)) >= 20
    for alert in alerts:
        notes, name = alert["annotations"], alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert len(notes["description"].split()) > 8, name
        assert notes["runbook_url"] == f"docs/operations/alerts.md#{name.lower()}"
        section = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
        told = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda m: m[1].upper(), notes["description"])
        assert told in section, name


def test_commands_that_alerts_name_exist() -> None:
    reference = (ROOT / "docs/reference/cli.md").read_text()
    text = " ".join(rule["annotations"]["description"] for rule in rules() if "alert" in rule)
    for command in re.findall(r"opsjobs ([a-z-]+(?: (?:list|trust|reset|firings))?)", text):
        assert f"### `opsjobs {command}`" in reference, command


def test_the_dashboard_has_panels_that_do_not_overlap() -> None:
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) >= 20
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"


def test_every_label_has_a_bound() -> None:
    labels = {label for metric in families(Metrics()) for label in metric._labelnames}
    assert labels <= set(BOUNDED_BY), "say in BOUNDED_BY what bounds the values of a new label"


async def test_hostile_requests_make_no_series(database: Database) -> None:
    async with api_client(database) as ada:
        for n in range(50):
            await ada.http.request(f"M{n}", f"/jobs/{n}")
            await ada.http.get(f"/nothing/{n}")
            await ada.http.get(f"/jobs/name-{n}", headers={"x-request-id": f"r-{n}"})
        series = {
            (sample.labels["method"], sample.labels["route"])
            for family in ada.services.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "opsjobs_http_request_seconds_count"
        }
    assert series <= {
        ("other", "none"),
        ("GET", "none"),
        ("GET", "/jobs/{id}"),
        ("other", "/jobs/{id}"),
    }


def test_zones_beyond_a_hundred_are_added_up() -> None:
    queues = [Queue(f"zone-{n}", 1, 2, 3, float(n), 1) for n in range(500)]
    page = fleet_gauges({}, queues, [], Upkeep({}, 0, 0.0, 0.0, 1, 5, 0, 0)).decode()
    zones = set(re.findall(r'zone="([^"]+)"', page))
    assert len(zones) == ZONES_SHOWN_MAX + 1
    assert f'opsjobs_queue_runs{{zone="{OTHER_ZONES}",state="ready"}} 800' in page
    assert f'opsjobs_workers_alive{{zone="{OTHER_ZONES}"}} 400' in page


async def test_ended_executions_are_counted_by_status_and_type(database: Database) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([RemoteExit(0)]).reply([RemoteExit(1)], to="false")
        async with on.worker():
            await on.run("true", 1)
            await on.run("false", 1)
            await on.run(["true", "true"], 1)
        meter = ExecutionMeter(database, on.metrics)
        outbox = Outbox(database)
        for shard in await outbox.find_shards():
            async with outbox.batch(shard, limit=100) as (facts, _):
                await meter.count(facts)
        registry = on.metrics.registry

        def ended(status: str, kind: str) -> float | None:
            labels = {"status": status, "type": kind}
            return registry.get_sample_value("opsjobs_executions_finished_total", labels)

        assert (ended("completed", "command"), ended("failed", "command")) == (1, 1)
        assert ended("completed", "composite") == 1
        durations = {"type": "command"}
        assert registry.get_sample_value("opsjobs_execution_seconds_count", durations) == 2
        runs = {"status": "succeeded", "type": "composite"}
        assert registry.get_sample_value("opsjobs_runs_finished_total", runs) == 1
        assert registry.get_sample_value("opsjobs_run_queue_seconds_count") == 3


async def test_the_lag_of_the_event_loop_is_sampled() -> None:
    metrics = Metrics()
    monitor = LoopLagMonitor(metrics, interval_seconds=0.01)
    monitor.start()
    sample = metrics.registry.get_sample_value
    await until(lambda: (sample("opsjobs_event_loop_lag_seconds_count") or 0) >= 2)
    await monitor.stop()
