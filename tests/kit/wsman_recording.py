"""Recordings of WS-Management: written by a connection, free of secrets, and read again."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsjobs.model.target import Endpoint
from opsjobs.remote.winrm.connect import ConnectPhases, WinrmConnector
from opsjobs.remote.winrm.connection import Connection
from opsjobs.remote.winrm.http import HttpResponse, HttpStream
from opsjobs.remote.winrm.messages import WsmanMessage

BLOB = re.compile(
    r"(?<=>)(?P<data>[A-Za-z0-9+/=\s]+)(?=</(?:\w+:)?(?:Stream|Arguments|creationXml)>)"
)
"""Base64 in a message: output, input, and fragments of PSRP."""
_PLACES = re.compile(
    r"(?P<before>Machine=[\"']|<\w+:(?:To|Address|Owner|ClientIP)(?: [^>]*)?>)[^\"'<]*"
)
_ROLE = "role/anonymous"
SHORT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its response, both decrypted; a request of "" matches any."""

    action: str
    request: str
    status: int
    response: str
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Handshake:
    """One step of a login without its tokens: the scheme, the status and what was offered."""

    scheme: str
    status: int
    offered: tuple[str, ...]


@dataclass(slots=True)
class Recording:
    """All exchanges with one host, and the steps of the logins."""

    about: str
    handshakes: list[Handshake] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)

    def save(self, file: Path, secrets: Mapping[str, str]) -> None:
        """Write it with these secrets replaced, each by its word, and without places.

        Raises AssertionError if a secret is left.
        """
        clean = [_clean(exchange, secrets) for exchange in self.exchanges]
        text = _dump(replace_about(self, clean))
        for word, secret in secrets.items():
            assert not find_secret(text, secret), f"the recording holds the {word}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def replace_about(recording: Recording, exchanges: list[Exchange]) -> Recording:
    """Return the same recording with other exchanges."""
    return replace(recording, exchanges=exchanges)


def _dump(recording: Recording) -> str:
    lines = [f"# {line}" for line in recording.about.splitlines()]
    lines += [
        f"@ {step.scheme} {step.status} {','.join(step.offered)}" for step in recording.handshakes
    ]
    for one in recording.exchanges:
        lines += [f"=== {one.action}", one.request]
        lines += [f"--- {one.status}{' chunked' if one.chunked else ''}", one.response]
    return "\n".join(lines) + "\n"


def load(file: Path) -> Recording:
    """Read a recording."""
    recording, section = Recording(""), list[str]()
    heads: list[str] = []
    for line in [*file.read_text().removesuffix("\n").split("\n"), "=== end"]:
        if line.startswith(("=== ", "--- ")):
            _close(recording, heads, "\n".join(section))
            heads.append(line)
            section = []
        elif heads:
            section.append(line)
        elif line.startswith("# "):
            recording.about += line[2:] + "\n"
        elif line.startswith("@ "):
            scheme, status, offered = (line[2:] + " ").split(" ")[:3]
            recording.handshakes.append(
                Handshake(scheme, int(status), tuple(filter(None, offered.split(","))))
            )
    return recording


def _close(recording: Recording, heads: list[str], text: str) -> None:
    """Add the part that ends here: a request, or the response to the last one."""
    if not heads:
        return
    kind, _, words = heads.pop().partition(" ")
    if kind == "===":
        recording.exchanges.append(Exchange(words, text, 0, ""))
    else:
        status, _, how = words.partition(" ")
        last = recording.exchanges[-1]
        recording.exchanges[-1] = replace(
            last, status=int(status), response=text, chunked=how == "chunked"
        )


# --- secrets


def _clean(exchange: Exchange, secrets: Mapping[str, str]) -> Exchange:
    return replace(
        exchange,
        request=_hide(exchange.request, secrets),
        response=_hide(exchange.response, secrets),
    )


def _hide(text: str, secrets: Mapping[str, str]) -> str:
    """Replace secrets and places; in base64 by as many characters, because it contains lengths."""

    def place(found: re.Match[str]) -> str:
        whole = found[0]
        return whole if whole.endswith(_ROLE) else found["before"] + "somewhere"

    def blob(found: re.Match[str]) -> str:
        try:
            data = base64.b64decode(found["data"])
        except binascii.Error:
            return found[0]
        for secret in secrets.values():
            for form in _forms(secret):
                data = _pattern(form).sub(b"x" * len(form), data)
        return base64.b64encode(data).decode()

    text = BLOB.sub(blob, _PLACES.sub(place, text))
    for word, secret in secrets.items():
        text = _pattern(secret.encode()).sub(word.encode(), text.encode()).decode()
    return text


def _pattern(form: bytes) -> re.Pattern[bytes]:
    """Return the pattern of a form; a short one only matches as a whole word."""
    escaped = re.escape(form)
    if len(form) < SHORT_BYTES:
        escaped = rb"(?<![A-Za-z0-9])" + escaped + rb"(?![A-Za-z0-9])"
    return re.compile(escaped, re.IGNORECASE)


def _forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield secret.encode("utf-16-le")
    yield base64.b64encode(secret.encode()).rstrip(b"=")[:-1]


def find_secret(text: str, secret: str) -> bool:
    """Return True if the secret is in the text, or in base64 within it."""
    parts = [text.encode()]
    parts += [base64.b64decode(found["data"]) for found in BLOB.finditer(text)]
    return any(_pattern(form).search(part) for part in parts for form in _forms(secret))


# --- recording


class _RecordedStream(HttpStream):
    """Records the steps of a login, without their tokens, until the connection is logged in."""

    recording: Recording

    async def post(self, headers: Mapping[str, str], body: bytes, seconds: float) -> HttpResponse:
        response = await super().post(headers, body, seconds)
        if "Authorization" in headers and not body:
            offered = tuple(value.partition(" ")[0] for value in response.all("www-authenticate"))
            scheme = headers["Authorization"].partition(" ")[0]
            self.recording.handshakes.append(Handshake(scheme, response.status, offered))
        return response


class _RecordedConnection(Connection):
    """Records each request and its response in plain text."""

    recording: Recording
    _asked: WsmanMessage

    async def request(self, message: WsmanMessage) -> Any:
        self._asked = message
        return await super().request(message)

    def _read(self, response: HttpResponse, *, reused: bool) -> Any:
        self._note(response, "")
        return super()._read(response, reused=reused)

    def _open(self, response: HttpResponse) -> bytes:
        plain = super()._open(response)
        self.recording.exchanges.pop()
        self._note(response, plain.decode("utf-8-sig"))
        return plain

    def _note(self, response: HttpResponse, text: str) -> None:
        self.recording.exchanges.append(
            Exchange(
                self._asked.action.rpartition("/")[2],
                self._asked.render(self._url).decode(),
                response.status,
                text,
                any("chunked" in one for one in response.all("transfer-encoding")),
            )
        )


class RecordingConnector(WinrmConnector):
    """Connects like the real one, and records all traffic."""

    def __init__(self, recording: Recording, **options: Any) -> None:
        super().__init__(**options)
        self.recording = recording

    async def connect(self, endpoint: Endpoint, phases: ConnectPhases | None = None) -> Connection:
        made = await super().connect(endpoint, phases)
        made.__class__ = _RecordedConnection
        assert isinstance(made, _RecordedConnection), "it is one now"
        made.recording = self.recording
        return made

    def _dialled(self, target: Any, tls: Any) -> Any:
        return _recorded(super()._dialled(target, tls), self.recording)


class _recorded:  # noqa: N801  a context manager
    def __init__(self, inner: Any, recording: Recording) -> None:
        self._inner, self._recording = inner, recording

    async def __aenter__(self) -> Any:
        http, certificate = await self._inner.__aenter__()
        http.__class__ = _RecordedStream
        http.recording = self._recording
        return http, certificate

    async def __aexit__(self, *failure: Any) -> Any:
        return await self._inner.__aexit__(*failure)
