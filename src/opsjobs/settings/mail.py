"""Settings of e-mail: the mail server, and the sender of notifications."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from opsjobs.model.notification import is_email
from opsjobs.model.secret import Secret
from opsjobs.settings.types import (
    ABSOLUTE_PATH,
    choice,
    from_text,
    hidden,
    matching,
    seconds,
    text,
    whole,
)
from opsjobs.settings.variables import SettingsGroup, setting


def _email(text: str) -> str:
    if not is_email(text):
        raise ValueError("write an e-mail address, such as opsjobs@example.org")
    return text


class MailSettings(SettingsGroup):
    """The mail server; without a host there is no e-mail."""

    host: Annotated[
        str | None,
        text(
            r"[A-Za-z0-9_.:-]{1,253}",
            "write a host name or an IP address, such as mail.example.org",
        ),
    ] = setting(
        "OPSJOBS_SMTP_HOST", None, "Mail server for notifications by e-mail. Not set: no e-mail."
    )
    port: Annotated[int, whole(1, 65_535)] = setting(
        "OPSJOBS_SMTP_PORT", "587", "Its port: 587 with starttls, usually 465 with tls."
    )
    tls: Annotated[Literal["starttls", "tls", "off"], choice("starttls", "tls", "off")] = setting(
        "OPSJOBS_SMTP_TLS",
        "starttls",
        "Encryption: starttls (demanded before anything is sent), tls (from the first byte) or "
        "off.",
    )
    username: Annotated[
        str | None, text(r"[^\x00-\x1f]{1,320}", "write the user name alone, on one line")
    ] = setting("OPSJOBS_SMTP_USERNAME", None, "User name for the mail server. Not set: no login.")
    password: Annotated[
        Secret | None, hidden(matching(r"[^\x00-\x1f]{1,1024}", "write the password alone"))
    ] = setting("OPSJOBS_SMTP_PASSWORD", None, "Its password.", secret=True)
    sender: Annotated[str | None, from_text(_email)] = setting(
        "OPSJOBS_SMTP_FROM", None, "Address of the sender. Required with OPSJOBS_SMTP_HOST."
    )
    ca_file: Annotated[Path | None, ABSOLUTE_PATH] = setting(
        "OPSJOBS_SMTP_CA_FILE",
        None,
        "CA certificates (PEM) that verify the mail server's certificate. Not set: those of the "
        "system.",
    )
    timeout: Annotated[float, seconds(1, 14)] = setting(
        "OPSJOBS_SMTP_TIMEOUT", "10s", "Time limit of sending one message."
    )


def faults(mail: MailSettings, *, production: bool) -> Iterator[str]:
    """Return a sentence for each contradiction between these settings."""
    if mail.host is not None and mail.sender is None:
        yield "OPSJOBS_SMTP_FROM is not set, and OPSJOBS_SMTP_HOST is: write the sender's address."
    if (mail.username is None) != (mail.password is None):
        yield (
            "OPSJOBS_SMTP_USERNAME and OPSJOBS_SMTP_PASSWORD belong together: set both, or neither."
        )
    if mail.tls == "off" and mail.password is not None and production:
        yield (
            "OPSJOBS_SMTP_TLS is off, and ENVIRONMENT is production: the password would cross the "
            "network unencrypted. Use starttls or tls."
        )
