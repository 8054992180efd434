"""The channels of an installation: check the recipients of rules, try a channel, and send.

The destinations are those of the deliveries of all channels, apart from webhooks.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.clock import Clock
from opsjobs.engine.delivery.sender import Destination
from opsjobs.engine.notification.messages import (
    APPRISE,
    EMAIL,
    NO_WEBHOOK,
    SERVICE,
    ReceiverBook,
    store_form,
)
from opsjobs.integrations.apprise_sender import (
    AppriseBusy,
    AppriseRefused,
    AppriseSender,
    AppriseUnavailable,
)
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.mail import Mail, Mailer, MailRefused, MailUnavailable
from opsjobs.integrations.services.client import ServiceRefused
from opsjobs.integrations.services.messages import NotificationService, ServiceNotification
from opsjobs.model.access import Principal
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.delivery import (
    RESPONSE_CHARACTERS_MAX,
    Delivery,
    DeliveryStatus,
    RetryPlan,
    SendOutcome,
)
from opsjobs.model.errors import FieldError, Invalid, RemoteFailure
from opsjobs.model.execution import moment
from opsjobs.model.notification import NotificationChannel, NotificationEvent, NotificationRule
from opsjobs.model.notification_message import NotificationFacts, render
from opsjobs.model.secret import Secret
from opsjobs.store.paging import PageRequest
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.rows import StoredCredential

_CHANNEL_ID = (
    "This Notification Service sends over channels of its own. Write the id of one as channel_id."
)


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one message that was sent to try a channel."""

    to: str
    outcome: SendOutcome

    def data(self) -> dict[str, object]:
        """Return an item of the answer of POST /notifications/test."""
        response = self.outcome.response
        return {
            "to": self.to,
            "delivered": self.outcome.status is DeliveryStatus.DELIVERED,
            "code": self.outcome.code,
            "response": None if response is None else response[:RESPONSE_CHARACTERS_MAX],
            "error": self.outcome.error,
        }


class NotificationChannels:
    """The channels with their destinations.

    `closed`: the reasons why channels cannot be used in this installation. `needs_channel_id`: True
    if rules of the Notification Service have to name a channel of it.
    """

    def __init__(
        self,
        destinations: Sequence[Destination],
        receivers: ReceiverBook,
        vault: Vault,
        clock: Clock,
        *,
        closed: Mapping[NotificationChannel, str],
        needs_channel_id: bool,
    ) -> None:
        self.destinations = tuple(destinations)
        self.receivers = receivers
        self._vault = vault
        self._clock = clock
        self._closed = closed
        self._needs_channel_id = needs_channel_id

    async def check(
        self, rules: Mapping[str, NotificationRule], *, webhook_owner: Principal | None
    ) -> None:
        """Raise Invalid if rules name a recipient that does not exist or cannot be used.

        `rules`: by their pointers into the body. `webhook_owner`: as in `find_faults`.
        """
        faults = [
            fault
            for at, rule in rules.items()
            for fault in await self.find_faults(rule, at, webhook_owner=webhook_owner)
        ]
        if faults:
            raise Invalid(faults[0].code, faults[0].detail, errors=faults)

    async def find_faults(
        self,
        rule: NotificationRule,
        at: str,
        *,
        webhook_owner: Principal | None,
        sees_credentials: bool = True,
    ) -> Sequence[FieldError]:
        """Return a fault for a channel that cannot be used, or for each unknown name.

        Credentials are not looked up if the caller may not see them. `webhook_owner`: None for a
        caller who may use all webhooks, else the caller, who may use its own only.
        """
        if (reason := self._closed.get(rule.channel)) is not None:
            return [FieldError(f"{at}/channel", reason, "channel_unavailable")]
        match rule.channel:
            case NotificationChannel.SERVICE if self._needs_channel_id and rule.channel_id is None:
                return [FieldError(f"{at}/channel_id", _CHANNEL_ID, "channel_id_missing")]
            case NotificationChannel.WEBHOOK:
                return await self._webhook_faults(rule, at, webhook_owner)
            case NotificationChannel.APPRISE if sees_credentials:
                return await self._credential_faults(rule, at)
        return []

    async def _webhook_faults(
        self, rule: NotificationRule, at: str, owner: Principal | None
    ) -> Sequence[FieldError]:
        existing = await self.receivers.existing_webhooks(rule.to, owner)
        return [
            FieldError(
                f"{at}/to/{position}",
                f"There is no webhook {name!r}. Create it first, or name another one.",
                "unknown_webhook",
            )
            for position, name in enumerate(rule.to)
            if name not in existing
        ]

    async def _credential_faults(self, rule: NotificationRule, at: str) -> Sequence[FieldError]:
        faults = []
        for position, name in enumerate(rule.to):
            page = await self._vault.list(PageRequest(limit=1, filters={"name": [name]}))
            if (found := _credential_fault(name, page.items)) is not None:
                code, detail = found
                faults.append(FieldError(f"{at}/to/{position}", detail, code))
        return faults

    async def try_out(self, rule: NotificationRule, *, webhooks: Destination) -> Sequence[Trial]:
        """Send a message of this rule to each of its recipients now, once; return the results.

        `webhooks`: the destination of webhooks, which has messages of others, too.
        """
        now = self._clock.now()
        facts = NotificationFacts(
            NotificationEvent.COMPLETED,
            now,
            "a test of notifications",
            status="completed",
            reason="POST /notifications/test",
        )
        message = store_form(render(facts, rule), rule, str(uuid.uuid4()), "test", now)
        by_name = {each.name: each for each in (webhooks, *self.destinations)}
        trials = []
        for to, receiver in zip(
            rule.to, await self.receivers.find(rule.channel, rule.to), strict=True
        ):
            delivery = Delivery(0, receiver, message, 1, 0.0, 0.0)
            trials.append(Trial(to, await _attempt(by_name.get(receiver.destination), delivery)))
        return trials


async def _attempt(destination: Destination | None, delivery: Delivery) -> SendOutcome:
    if destination is None:
        return SendOutcome.refuse(f"There is no channel {delivery.receiver.destination!r} here.")
    return await destination.send(delivery)


def _credential_fault(name: str, found: Sequence[StoredCredential]) -> tuple[str, str] | None:
    if not found:
        return (
            "unknown_credential",
            f"There is no credential {name!r}. Create it (type secret), or name another one.",
        )
    if found[0].type is not CredentialType.SECRET:
        return (
            "not_a_secret",
            (
                f"The credential {name!r} is of type {found[0].type.value}, a login. Name one of "
                "type secret, whose value is a URL of apprise."
            ),
        )
    return None


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
