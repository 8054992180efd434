"""E-mail against a real SMTP server with STARTTLS, TLS and a login."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from kit.mail_server import MailServer, mail_server
from opsjobs.integrations.mail import Mail, Mailer, MailRefused, MailUnavailable, SmtpOptions
from opsjobs.model.secret import Secret

AT = datetime(2026, 11, 28, 21, 0, tzinfo=UTC)
MAIL = Mail("0193-1", "ada@example.org", "[opsjobs] backup failed", "web-1: no space left\n", AT)


def options(server: MailServer, **changes: object) -> SmtpOptions:
    wanted = SmtpOptions(
        "localhost",
        server.port,
        "opsjobs@example.org",
        username="opsjobs",
        password=Secret("correct horse"),
        ca_file=str(server.ca_file),
        timeout_seconds=60,
    )
    return replace(wanted, **changes)  # type: ignore[arg-type]


async def test_a_message_arrives_over_starttls_after_the_login(tmp_path: Path) -> None:
    async with mail_server(tmp_path) as server:
        reply = await Mailer(options(server)).send(MAIL)
        (got,) = server.received
        assert reply.startswith("OK")
        assert (got.sender, got.recipients) == ("opsjobs@example.org", ["ada@example.org"])
        assert (got.encrypted, got.user) == (True, "opsjobs")
        read = message_from_bytes(got.content, policy=default)
        assert read["Subject"] == "[opsjobs] backup failed"
        assert read["To"] == "ada@example.org"
        assert read["From"] == "opsjobs <opsjobs@example.org>"
        assert read["Message-ID"] == "<0193-1@example.org>"
        assert read["Auto-Submitted"] == "auto-generated"
        assert read["Date"].datetime == AT
        assert read.get_content().replace("\r\n", "\n") == "web-1: no space left\n"


async def test_a_message_sent_twice_has_the_same_message_id(tmp_path: Path) -> None:
    async with mail_server(tmp_path) as server:
        mailer = Mailer(options(server))
        await mailer.send(MAIL)
        await mailer.send(MAIL)
        ids = {message_from_bytes(got.content)["Message-ID"] for got in server.received}
        assert len(server.received) == 2
        assert ids == {"<0193-1@example.org>"}


async def test_tls_from_the_first_byte(tmp_path: Path) -> None:
    async with mail_server(tmp_path, tls=True) as server:
        await Mailer(options(server, tls="tls")).send(MAIL)
        assert server.received[0].encrypted


async def test_nothing_is_sent_to_a_server_without_starttls(tmp_path: Path) -> None:
    async with mail_server(tmp_path, starttls=False) as server:
        with pytest.raises(MailUnavailable, match="STARTTLS"):
            await Mailer(options(server)).send(MAIL)
        assert server.received == []
        assert server.logins == []


async def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    async with mail_server(tmp_path) as server:
        with pytest.raises(MailUnavailable, match="certificate"):
            await Mailer(options(server, ca_file=None)).send(MAIL)
        assert server.received == []


async def test_a_wrong_password_is_retried_and_named(tmp_path: Path) -> None:
    async with mail_server(tmp_path) as server:
        with pytest.raises(MailUnavailable, match=r"535.*OPSJOBS_SMTP_USERNAME") as refused:
            await Mailer(options(server, password=Secret("wrong"))).send(MAIL)
        assert "wrong" not in str(refused.value)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("550 no such mailbox", MailRefused),
        ("451 try later", MailUnavailable),
        ("452 full", MailUnavailable),
    ],
)
async def test_a_reply_decides_if_it_is_sent_again(
    tmp_path: Path, reply: str, error: type[Exception]
) -> None:
    async with mail_server(tmp_path) as server:
        server.replies["ada@example.org"] = reply
        with pytest.raises(error, match=reply.partition(" ")[2]):
            await Mailer(options(server)).send(MAIL)


@pytest.mark.parametrize(
    ("verb", "reply", "error"),
    [
        ("greeting", "554 no service here", MailUnavailable),
        ("EHLO", "550 not with that name", MailUnavailable),
        ("STARTTLS", "554 no keys", MailUnavailable),
        ("MAIL", "550 unknown sender", MailUnavailable),
        ("MAIL", "553 sender not allowed", MailUnavailable),
        ("RCPT", "550 no such mailbox", MailRefused),
        ("RCPT", "550 no mailb\udcf6x", MailRefused),
        ("DATA", "554 not that message", MailRefused),
    ],
)
async def test_only_a_reply_about_the_message_is_final(
    verb: str, reply: str, error: type[Exception]
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = reply if verb == "greeting" else "220 mail"
        writer.write(f"{greeting}\r\n".encode())
        while line := await reader.readline():
            said = line.split()[0].decode().upper()
            answer = "250-mail\r\n250 STARTTLS" if said == "EHLO" else "250 OK"
            if said == verb or (verb, said) == ("EHLO", "HELO"):
                answer = reply
            writer.write(f"{answer}\r\n".encode(errors="surrogateescape"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        tls = "starttls" if verb == "STARTTLS" else "off"
        wanted = SmtpOptions("127.0.0.1", port, "opsjobs@example.org", tls=tls, timeout_seconds=60)
        said = reply.partition(" ")[2].replace("\udcf6", " ")
        with pytest.raises(error, match=said) as answered:
            await Mailer(wanted).send(MAIL)
        assert str(answered.value).encode(), "a byte that is no UTF-8 comes into no answer of ours"


async def test_a_server_that_is_down_is_unavailable(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # so that nobody else comes to listen there
        port = taken.getsockname()[1]
        wanted = SmtpOptions("127.0.0.1", port, "opsjobs@example.org")
        with pytest.raises(MailUnavailable, match=f"127.0.0.1:{port} cannot be used"):
            await Mailer(wanted).send(MAIL)


async def test_a_silent_server_is_given_up() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        wanted = SmtpOptions("127.0.0.1", port, "opsjobs@example.org", timeout_seconds=1)
        with pytest.raises(MailUnavailable):
            await Mailer(wanted).send(MAIL)


@pytest.mark.parametrize(
    "subject", ["a\r\nBcc: ben@example.org", "a\nBcc: ben@example.org", "a\u2028Bcc: x", "a\x0bB"]
)
async def test_no_subject_adds_a_header(tmp_path: Path, subject: str) -> None:
    async with mail_server(tmp_path) as server:
        await Mailer(options(server)).send(replace(MAIL, subject=subject))
        read = message_from_bytes(server.received[0].content, policy=default)
        assert read["Bcc"] is None
        assert read["Subject"].startswith("a B")
        assert server.received[0].recipients == ["ada@example.org"]


@pytest.mark.parametrize(
    "to", ["ada@example.org\r\nBcc: ben@example.org", "ada@example.org, ben@example.org", "ada"]
)
async def test_no_recipient_adds_another(tmp_path: Path, to: str) -> None:
    async with mail_server(tmp_path) as server:
        with pytest.raises(MailRefused, match="no e-mail address"):
            await Mailer(options(server)).send(replace(MAIL, to=to))
        assert server.received == []


async def test_a_text_of_dots_long_lines_and_other_letters_arrives_whole(
    tmp_path: Path,
) -> None:
    async with mail_server(tmp_path) as server:
        text = ".\n..\nZoë: " + "x" * 5_000 + "\n.\nend\n"
        await Mailer(options(server)).send(replace(MAIL, text=text, subject="Zoë's backup"))
        read = message_from_bytes(server.received[0].content, policy=default)
        assert read.get_content().replace("\r\n", "\n") == text
        assert read["Subject"] == "Zoë's backup"
