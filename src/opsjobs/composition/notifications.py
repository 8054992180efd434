"""Build the services of notifications and webhooks from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.clock import Clock
from opsjobs.composition.services import ConnectedService, Integrations
from opsjobs.engine.notification.channels import (
    NO_MAIL_SERVER,
    NO_SERVICE,
    AppriseDestination,
    EmailDestination,
    NotificationChannels,
    NoWebhookDestination,
    ServiceDestination,
)
from opsjobs.engine.notification.messages import ReceiverBook
from opsjobs.engine.notification.planner import NotificationPlanner
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.integrations.apprise_sender import HOW_TO_INSTALL, AppriseSender, is_installed
from opsjobs.integrations.caller_urls import WebhookClient
from opsjobs.integrations.mail import Mailer, SmtpOptions
from opsjobs.integrations.services.messages import NotificationService
from opsjobs.model.credential import Credential
from opsjobs.model.notification import NotificationChannel
from opsjobs.settings import MailSettings, Settings
from opsjobs.store.delivery_log import OutgoingDeliveries
from opsjobs.store.feeds import AuditFeed
from opsjobs.store.notifications import Notifications
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.webhooks import Webhooks
from opsjobs.telemetry.metrics import Metrics


def build_notifications(
    settings: Settings,
    integrations: Integrations,
    external_secrets: ExternalSecrets,
    metrics: Metrics,
    **kept: Any,
) -> dict[str, Any]:
    """Build the services of notifications and webhooks, by their names in Services.

    `kept`: the database, the vault and the clock.
    """
    database: Database = kept["database"]
    webhooks = Webhooks(database, settings.security.encryption_keys, kept["clock"])
    channels = _channels(
        settings,
        integrations,
        kept["vault"],
        external_secrets,
        clock=kept["clock"],
        webhooks=webhooks,
    )
    notifications = Notifications(database)
    return {
        "webhooks": webhooks,
        "webhook_client": WebhookClient(allow=settings.security.webhook_allow),
        "notifications": notifications,
        "notification_channels": channels,
        "notification_planner": _planner(settings, notifications, channels, metrics),
        "outgoing_deliveries": OutgoingDeliveries(database),
        "audit_feed": AuditFeed(database),
    }


def _channels(
    settings: Settings,
    integrations: Integrations,
    vault: Vault,
    external_secrets: ExternalSecrets,
    *,
    clock: Clock,
    webhooks: Webhooks,
) -> NotificationChannels:
    """Build the channels; those that the settings do not allow are closed, with the reason."""

    async def open_credential(name: str) -> Credential | None:
        credential = await vault.open_named(name)
        if credential is None:
            return None
        return await external_secrets.fetch(credential, "notification")

    mailer = _mailer(settings.mail)
    service = _service(integrations.get("NOTIFICATION"))
    destinations = (
        EmailDestination(mailer),
        ServiceDestination(service),
        AppriseDestination(AppriseSender(settings.security.apprise_allow), open_credential),
        NoWebhookDestination(),
    )
    return NotificationChannels(
        destinations,
        ReceiverBook(webhooks.uuids),
        vault,
        clock,
        closed=_closed(mailer, service),
        needs_channel_id=service is not None and service.needs_channel_id,
    )


def _planner(
    settings: Settings,
    notifications: Notifications,
    channels: NotificationChannels,
    metrics: Metrics,
) -> NotificationPlanner:
    """Build the planner; links lead to OPSJOBS_PUBLIC_URL."""
    base = settings.api.public_url

    def link(execution: int) -> str | None:
        return None if base is None else f"{base.rstrip('/')}/executions/{execution}"

    return NotificationPlanner(notifications, channels.receivers, metrics, link=link)


def _mailer(mail: MailSettings) -> Mailer | None:
    if mail.host is None or mail.sender is None:
        return None
    options = SmtpOptions(
        mail.host,
        mail.port,
        mail.sender,
        mail.tls,
        mail.username,
        mail.password,
        None if mail.ca_file is None else str(mail.ca_file),
        mail.timeout,
    )
    return Mailer(options)


def _service(connected: ConnectedService | None) -> NotificationService | None:
    if connected is None or connected.profile.notifications is None:
        return None
    return NotificationService(connected.client, connected.profile.notifications)


def _closed(
    mailer: Mailer | None, service: NotificationService | None
) -> Mapping[NotificationChannel, str]:
    closed = dict[NotificationChannel, str]()
    if mailer is None:
        closed[NotificationChannel.EMAIL] = NO_MAIL_SERVER
    if service is None:
        closed[NotificationChannel.SERVICE] = NO_SERVICE
    if not is_installed():
        closed[NotificationChannel.APPRISE] = (
            f"apprise is not installed. Install it: {HOW_TO_INSTALL}"
        )
    return closed
