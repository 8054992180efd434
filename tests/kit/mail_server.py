"""An SMTP server on loopback: aiosmtpd with STARTTLS or TLS, and a login."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from kit.certificates import self_signed
from kit.loop_thread import in_thread

USER, PASSWORD = "opsjobs", "correct horse"


@dataclass(frozen=True)
class ReceivedMail:
    """A message that the server has accepted."""

    sender: str
    recipients: list[str]
    content: bytes
    encrypted: bool
    user: str | None


@dataclass
class MailServer:
    """The server; `replies` are its replies to some recipients in place of 250."""

    port: int
    ca_file: Path
    tls: bool = False
    received: list[ReceivedMail] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def authenticate(
        self, _server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        user = data.login.decode()
        self.logins.append(user)
        good = (user, data.password.decode()) == (USER, PASSWORD)
        return AuthResult(success=good, handled=good, auth_data=user)

    # aiosmtpd calls its handlers by these names.
    async def handle_RCPT(  # noqa: N802
        self,
        _server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if address in self.replies:
            return self.replies[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        content = envelope.original_content
        assert content is not None
        assert envelope.mail_from is not None
        self.received.append(
            ReceivedMail(
                envelope.mail_from,
                list(envelope.rcpt_tos),
                content,
                self.tls or session.ssl is not None,
                session.auth_data if session.authenticated else None,
            )
        )
        self.arrived.set()
        return "250 OK kept"


@asynccontextmanager
async def mail_server(
    folder: Path, *, tls: bool = False, starttls: bool = True, port: int = 0
) -> AsyncIterator[MailServer]:
    """Run a mail server; it requires encryption and a login if it offers them."""
    chain, key = self_signed(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    server = MailServer(port, chain, tls=tls)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: SMTP(
            server,
            hostname="mail.example.org",
            tls_context=context if starttls and not tls else None,
            require_starttls=starttls and not tls,
            auth_required=starttls and not tls,
            # aiosmtpd does not see TLS that starts with the first byte
            auth_require_tls=not tls,
            authenticator=server.authenticate,
            loop=loop,
        ),
        "127.0.0.1",
        port,
        ssl=context if tls else None,
    )
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()


@contextmanager
def mail_server_thread(folder: Path) -> Iterator[MailServer]:
    """Run a mail server in a thread of its own, for tests without an event loop."""
    with in_thread(mail_server(folder)) as (server, _):
        yield server
