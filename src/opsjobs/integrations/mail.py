"""E-mail over SMTP: STARTTLS or TLS, login, one message for each recipient."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Literal

import aiosmtplib

from opsjobs.model.notification import is_email, one_line
from opsjobs.model.secret import Secret

SmtpTls = Literal["starttls", "tls", "off"]

# Replies that say something about the login, and not about the message.
_LOGIN_CODES = (530, 534, 535, 538)


class MailUnavailable(Exception):
    """The server cannot be reached, or does not accept the message now: send it again later."""


class MailRefused(Exception):
    """The server will never accept this message; `code` is that of its reply."""

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class SmtpOptions:
    """The server, and the sender of all messages."""

    host: str
    port: int
    sender: str
    """The address of the sender."""
    tls: SmtpTls = "starttls"
    """starttls: required before anything is sent; tls: from the first byte; off: neither."""
    username: str | None = None
    password: Secret | None = None
    ca_file: str | None = None
    """The certificates that the server's is checked with; None: those of the system."""
    timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Mail:
    """One message to one recipient."""

    id: str
    """The same whenever it is sent: it becomes the Message-ID."""
    to: str
    subject: str
    text: str
    at: datetime


class Mailer:
    """Sends messages, each over a connection of its own."""

    def __init__(self, options: SmtpOptions) -> None:
        self._options = options

    async def send(self, mail: Mail) -> str:
        """Send a message; return the server's reply.

        Raises MailUnavailable, MailRefused.
        """
        written = _write(mail, self._options.sender)
        try:
            async with asyncio.timeout(self._options.timeout_seconds):
                return await self._send(mail, written)
        except aiosmtplib.SMTPDataError as refused:
            raise self._failure(refused.code, refused.message, final=True) from None
        except aiosmtplib.SMTPRecipientsRefused as refused:
            first = refused.recipients[0]
            raise self._failure(first.code, first.message, final=True) from None
        except aiosmtplib.SMTPResponseException as answer:
            # At the greeting, HELO, STARTTLS, the login or MAIL FROM: not about this message.
            raise self._failure(answer.code, answer.message, final=False) from None
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as lost:
            why = one_line(str(lost)) or type(lost).__name__
            raise MailUnavailable(f"{self._name} cannot be used: {why}") from None

    @property
    def _name(self) -> str:
        return f"the mail server {self._options.host}:{self._options.port}"

    async def _send(self, mail: Mail, written: bytes) -> str:
        wanted = self._options
        client = aiosmtplib.SMTP(
            hostname=wanted.host,
            port=wanted.port,
            timeout=wanted.timeout_seconds,
            use_tls=wanted.tls == "tls",
            start_tls=wanted.tls == "starttls",
            cert_bundle=wanted.ca_file,
            local_hostname=_domain_of(wanted.sender),
        )
        try:
            await client.connect()
            if wanted.username is not None and wanted.password is not None:
                await client.login(wanted.username, wanted.password.reveal())
            _, reply = await client.sendmail(wanted.sender, [mail.to], written)
            return one_line(reply)
        finally:
            # After the reply to the message, the farewell does not matter.
            client.close()

    def _failure(self, code: int, message: str, *, final: bool) -> MailUnavailable | MailRefused:
        """Return the error for a reply. `final`: one of 500 and above is about this message."""
        words = f"{self._name} answers {code}: {one_line(message)}"
        # A refused login says something about the settings, not about the message.
        if code in _LOGIN_CODES:
            return MailUnavailable(f"{words}. Check OPSJOBS_SMTP_USERNAME and its password.")
        return MailRefused(words, code) if final and code >= 500 else MailUnavailable(words)


def _write(mail: Mail, sender: str) -> bytes:
    if not is_email(mail.to):
        raise MailRefused(f"{mail.to[:60]!r} is no e-mail address")
    message = EmailMessage(policy=SMTP)
    message["From"] = Address("opsjobs", addr_spec=sender)
    message["To"] = Address(addr_spec=mail.to)
    message["Subject"] = one_line(mail.subject)
    message["Date"] = mail.at
    message["Message-ID"] = f"<{mail.id}@{_domain_of(sender)}>"
    # No vacation replies, and no answers from mailing lists.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text, cte="quoted-printable")
    return message.as_bytes()


def _domain_of(address: str) -> str:
    return address.rpartition("@")[2]
