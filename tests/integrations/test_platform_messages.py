"""Notifications and audit events: each profile's body, field by field, at a service on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from kit.platform_services import MS, NG, V3, PlatformServices, platform_services
from opsjobs.clock import TurnedClock
from opsjobs.composition.platform import build_integrations
from opsjobs.composition.services import ConnectedService
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.services.client import ServiceRefused
from opsjobs.integrations.services.messages import (
    AuditService,
    NotificationService,
    ServiceNotification,
    audit_values,
)
from opsjobs.settings import load
from opsjobs.telemetry.metrics import Metrics

NOTIFICATION = ServiceNotification(
    id="b3c4",
    event="failed",
    recipient="17",
    channel_id="3",
    subject="[opsjobs] backup #12 failed on 2 of 5 targets",
    text="web-1: no space left",
    data={"execution_id": 512, "job_name": "backup"},
    timestamp="2026-11-28T21:00:00.000Z",
)
ROW: dict[str, Any] = {
    "seal": 812,
    "hash": "5a0c",
    "id": 900,
    "at": "2026-11-28T21:00:00.000000Z",
    "actor": "ci",
    "actor_kind": "api_key",
    "person": "ada",
    "address": "192.0.2.7",
    "request_id": "req-1",
    "action": "job.updated",
    "thing": "job",
    "thing_id": "3",
    "thing_name": "backup",
    "before": {"version": 1},
    "after": {"version": 2},
    "reason": None,
}
DETAILS = {
    "id": 812,
    "hash": "5a0c",
    "actor": "ci",
    "actor_kind": "api_key",
    "person": "ada",
    "address": "192.0.2.7",
    "request_id": "req-1",
    "resource_name": "backup",
    "before": {"version": 1},
    "after": {"version": 2},
    "reason": None,
}


@asynccontextmanager
async def connected(platform: PlatformServices, service: str) -> AsyncIterator[ConnectedService]:
    environ = {
        f"{service.upper()}_SERVICE_URL": platform.url(service),
        f"{service.upper()}_SERVICE_PROFILE": platform.generation,
        "OPSJOBS_SERVICE_TIMEOUT": "60",
    }
    clock = TurnedClock(datetime(2026, 11, 28, tzinfo=UTC))
    integrations = build_integrations(load(environ), clock, Metrics())
    found = integrations.get(service.upper())
    assert found is not None
    try:
        yield found
    finally:
        await integrations.close()


def notifier(service: ConnectedService) -> NotificationService:
    assert service.profile.notifications is not None
    return NotificationService(service.client, service.profile.notifications)


def auditor(service: ConnectedService) -> AuditService:
    assert service.profile.audit is not None
    return AuditService(service.client, service.profile.audit)


@pytest.mark.parametrize(
    ("generation", "path", "body", "header"),
    [
        (
            V3,
            "/api/v1/notifications",
            {
                "user_id": "17",
                "type": "job_failed",
                "title": "[opsjobs] backup #12 failed on 2 of 5 targets",
                "message": "web-1: no space left",
                "data": {"execution_id": 512, "job_name": "backup", "id": "b3c4"},
            },
            "x-correlation-id",
        ),
        (
            MS,
            "/api/v1/notifications/notifications/",
            {
                "notification_type": "job_failed",
                "recipient": "17",
                "subject": "[opsjobs] backup #12 failed on 2 of 5 targets",
                "message": "web-1: no space left",
                "priority": "high",
                "correlation_id": "b3c4",
            },
            "x-correlation-id",
        ),
        (
            NG,
            "/notifications",
            {
                "channel_id": "3",
                "recipient": "17",
                "subject": "[opsjobs] backup #12 failed on 2 of 5 targets",
                "message": "web-1: no space left",
                "metadata": {"execution_id": 512, "job_name": "backup", "id": "b3c4"},
            },
            "x-request-id",
        ),
    ],
)
async def test_a_notification_has_the_fields_of_the_generation(
    generation: str, path: str, body: dict[str, Any], header: str
) -> None:
    with platform_services(generation) as platform:
        async with connected(platform, "notification") as service:
            assert notifier(service).needs_channel_id is (generation == NG)
            assert await notifier(service).send(NOTIFICATION) == 201
        (call,) = platform.asked("notification")
    assert (call.method, call.path, call.body) == ("POST", path, body)
    assert call.headers[header] == "b3c4"
    assert call.headers["user-agent"] == "OpsConductor-Client/job-execution"


@pytest.mark.parametrize(
    ("generation", "body"),
    [
        (
            V3,
            {
                "user_id": "ada",
                "event_type": "JOB_UPDATED",
                "resource_type": "job",
                "resource_id": "3",
                "action": "updated",
                "details": DETAILS,
                "timestamp": "2026-11-28T21:00:00.000000Z",
                "service": "job-execution",
            },
        ),
        (
            MS,
            {
                "event_type": "job_updated",
                "event_category": "configuration",
                "event_severity": "info",
                "event_name": "job updated: backup",
                "resource_type": "job",
                "resource_id": "3",
                "user_id": "ada",
                "event_data": DETAILS,
                "success": True,
                "event_timestamp": "2026-11-28T21:00:00.000000Z",
            },
        ),
    ],
)
async def test_an_audit_event_has_the_fields_of_the_generation(
    generation: str, body: dict[str, Any]
) -> None:
    with platform_services(generation) as platform:
        async with connected(platform, "audit") as service:
            assert await auditor(service).send(ROW) == 201
        (call,) = platform.asked("audit")
    assert (call.method, call.path, call.body) == ("POST", "/api/v1/audit/events", body)
    assert call.headers["x-correlation-id"] == "audit-812"


def test_ng_has_no_audit_service_and_says_so() -> None:
    environ = {"AUDIT_SERVICE_URL": "http://127.0.0.1:9", "AUDIT_SERVICE_PROFILE": NG}
    clock = TurnedClock(datetime(2026, 11, 28, tzinfo=UTC))
    with pytest.raises(ValueError, match=r"AUDIT_SERVICE_PROFILE.*has no section 'audit'"):
        build_integrations(load(environ), clock, Metrics())


@pytest.mark.parametrize(
    ("action", "category", "severity", "success"),
    [
        ("login.failed", "authentication", "warning", False),
        ("user.logged_in", "authentication", "info", True),
        ("api_key.created", "authorization", "info", True),
        ("credential.rotated", "security", "warning", True),
        ("safety.overridden", "security", "critical", True),
        ("execution.launched", "execution", "info", True),
        ("approval.overridden", "execution", "warning", True),
        ("target.deleted", "configuration", "warning", True),
        ("schedule.updated", "configuration", "info", True),
    ],
)
def test_actions_have_a_category_a_severity_and_a_success(
    action: str, category: str, severity: str, success: bool
) -> None:
    values = audit_values({**ROW, "action": action, "thing_name": None, "thing_id": None})
    assert (values["category"], values["severity"], values["success"]) == (
        category,
        severity,
        success,
    )
    assert ":" not in values["event_name"]


async def test_a_refusal_is_told_apart_from_an_outage() -> None:
    with platform_services() as platform:
        async with connected(platform, "notification") as service:
            platform.faults["notification"] = "refused"
            with pytest.raises(ServiceRefused, match="401"):
                await notifier(service).send(NOTIFICATION)
            platform.faults["notification"] = "500"
            with pytest.raises(ServiceUnavailable, match="500"):
                await notifier(service).send(NOTIFICATION)
            platform.faults.clear()
            await notifier(service).send(NOTIFICATION)
    assert len(platform.notifications) == 1
