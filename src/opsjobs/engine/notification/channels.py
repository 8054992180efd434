"""Channels of notifications: the destinations of their deliveries, apart from webhooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from opsjobs.engine.notification.receivers import APPRISE, EMAIL, NO_WEBHOOK, SERVICE
from opsjobs.integrations.apprise_sender import (
    AppriseBusy,
    AppriseRefused,
    AppriseSender,
    AppriseUnavailable,
)
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.mail import Mail, Mailer, MailRefused, MailUnavailable
from opsjobs.integrations.services.client import ServiceRefused
from opsjobs.integrations.services.notifications import NotificationService, ServiceNotification
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.delivery import Delivery, RetryPlan, SendOutcome
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import moment
from opsjobs.model.secret import Secret

NO_MAIL_SERVER = "No mail server is configured. Set OPSJOBS_SMTP_HOST and OPSJOBS_SMTP_FROM."
NO_SERVICE = "No Notification Service is connected. Set NOTIFICATION_SERVICE_URL."
RETRY = RetryPlan(first_seconds=10.0, longest_seconds=1_800.0, give_up_seconds=3 * 86_400.0)
BUSY_SECONDS = 5.0
"""The pause of a message for which no process of apprise was free."""
# These say something about the settings or the address, which a person can correct meanwhile.
_CORRECTABLE = frozenset({401, 403, 404, 405})

OpenCredential = Callable[[str], Awaitable[Credential | None]]
"""Return the credential of this name with its secrets, also those of an external store."""


class EmailDestination:
    """E-mail: the key of a receiver is the address."""

    name = EMAIL
    retry = RETRY

    def __init__(self, mailer: Mailer | None) -> None:
        self._mailer = mailer

    async def send(self, delivery: Delivery) -> SendOutcome:
        """Send one message to one address."""
        if self._mailer is None:
            return SendOutcome.retry(NO_MAIL_SERVER)
        message = delivery.message
        mail = Mail(
            message.id,
            delivery.receiver.key,
            message.body["subject"],
            message.body["text"],
            message.at,
        )
        try:
            return SendOutcome.delivered(response=await self._mailer.send(mail))
        except MailUnavailable as away:
            return SendOutcome.retry(str(away))
        except MailRefused as refused:
            return SendOutcome.refuse(str(refused), code=refused.code)


class ServiceDestination:
    """The platform's Notification Service: the key of a receiver is its recipient."""

    name = SERVICE
    retry = RETRY

    def __init__(self, service: NotificationService | None) -> None:
        self._service = service

    async def send(self, delivery: Delivery) -> SendOutcome:
        """Send one message to one recipient."""
        if self._service is None:
            return SendOutcome.retry(NO_SERVICE)
        message = delivery.message
        notification = ServiceNotification(
            message.id,
            message.body["data"]["event"],
            delivery.receiver.key,
            message.body["channel_id"],
            message.body["subject"],
            message.body["text"],
            message.body["data"],
            moment(message.at) or "",
        )
        try:
            return SendOutcome.delivered(code=await self._service.send(notification))
        except ServiceRefused as refused:
            if refused.status in _CORRECTABLE:
                return SendOutcome.retry(str(refused), code=refused.status)
            return SendOutcome.refuse(str(refused), code=refused.status)
        except ServiceUnavailable as away:
            return SendOutcome.retry(str(away), code=away.status)


class AppriseDestination:
    """Services of apprise: the key of a receiver is a credential, whose value is the URL."""

    name = APPRISE
    retry = RETRY

    def __init__(self, sender: AppriseSender, open_credential: OpenCredential) -> None:
        self._sender = sender
        self._open_credential = open_credential

    async def send(self, delivery: Delivery) -> SendOutcome:
        """Send one message to one URL."""
        name, body = delivery.receiver.key, delivery.message.body
        try:
            credential = await self._open_credential(name)
        except RemoteFailure as closed:
            return SendOutcome.retry(closed.message)
        if credential is None:
            return SendOutcome.retry(f"There is no credential {name!r}. Create it, of type secret.")
        fault = _find_fault(credential, body["data"])
        if fault is not None or credential.value is None:
            return SendOutcome.retry(fault or f"The credential {name!r} has no value.")
        return await self._deliver(credential.value, body)

    async def _deliver(self, url: Secret, body: Mapping[str, Any]) -> SendOutcome:
        try:
            await self._sender.send(url, body["subject"], body["text"])
        except AppriseBusy as busy:
            return SendOutcome.postpone(str(busy), after_seconds=BUSY_SECONDS)
        except AppriseUnavailable as away:
            return SendOutcome.retry(str(away))
        except AppriseRefused as refused:
            return SendOutcome.refuse(str(refused))
        return SendOutcome.delivered()


def _find_fault(credential: Credential, data: dict[str, Any]) -> str | None:
    """Return why a credential cannot be used for this notification; None if it can."""
    if credential.fault is not None:
        return credential.fault
    if credential.type is not CredentialType.SECRET:
        return f"The credential {credential.name!r} is a login. Name one of type secret."
    job_id = data.get("job_id")
    if credential.bound.has_places or not credential.bound.holds_job(job_id):
        return f"The credential {credential.name!r} is bound to other targets or jobs."
    return None


class NoWebhookDestination:
    """Webhooks that a rule names and that do not exist: the key of a receiver is the name."""

    name = NO_WEBHOOK
    retry = RETRY

    async def send(self, delivery: Delivery) -> SendOutcome:
        """Refuse the delivery, so that it is listed."""
        name = delivery.receiver.key
        return SendOutcome.refuse(f"There is no webhook {name!r}. Create it, or change the rule.")
