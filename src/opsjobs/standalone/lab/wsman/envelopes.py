"""The messages of the stand-in, as a Windows host reads and writes them."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from uuid import uuid4
from xml.sax.saxutils import escape

SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
NAMESPACES = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "x": TRANSFER,
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "rsp": SHELL,
    "p": "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
}
FAULT = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
_OPENING = " ".join(f'xmlns:{name}="{uri}"' for name, uri in NAMESPACES.items())
_DURATION = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?")
_ENVELOPE_BYTES_DEFAULT = 153_600


@cache
def tag(name: str) -> str:
    """Return the full name of an element from a short one, such as rsp:Shell.

    ElementTree resolves prefixes in Python at each search, and finds full names in C.
    """
    prefix, _, local = name.partition(":")
    return f"{{{NAMESPACES[prefix]}}}{local}"


class WsmanRefusal(Exception):
    """A fault that answers a request."""

    def __init__(self, code: int, text: str, subcode: str = "w:InternalError") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.subcode = subcode


@dataclass(frozen=True, slots=True)
class LabRequest:
    """A request that was read."""

    action: str
    resource: str
    message_id: str
    shell_id: str | None
    seconds: float
    envelope_bytes: int
    body: ET.Element


def read_request(data: bytes) -> LabRequest:
    """Return the request in an envelope. Raises WsmanRefusal."""
    try:
        envelope = ET.fromstring(data)  # noqa: S314  of a client on the same machine
    except ET.ParseError as error:
        raise WsmanRefusal(
            2150858752, f"The request is not XML: {error}.", "w:SchemaError"
        ) from None
    header = envelope.find(tag("s:Header"))
    body = envelope.find(tag("s:Body"))
    if header is None or body is None:
        raise WsmanRefusal(2150858752, "The request has no header or no body.", "w:SchemaError")
    texts = {part.tag: (part.text or "").strip() for part in reversed(header)}
    selectors = {
        found.get("Name"): (found.text or "").strip()
        for selector_set in header.findall(tag("w:SelectorSet"))
        for found in selector_set.findall(tag("w:Selector"))
    }
    size = texts.get(tag("w:MaxEnvelopeSize"), "")
    return LabRequest(
        texts.get(tag("a:Action"), ""),
        texts.get(tag("w:ResourceURI"), ""),
        texts.get(tag("a:MessageID"), ""),
        selectors.get("ShellId"),
        read_duration(texts.get(tag("w:OperationTimeout"), ""), 60.0),
        int(size) if size.isdigit() else _ENVELOPE_BYTES_DEFAULT,
        body,
    )


def read_duration(text: str, default: float) -> float:
    """Return the seconds of a duration such as PT1M20S."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return default
    hours, minutes, seconds = found.groups()
    return int(hours or 0) * 3600.0 + int(minutes or 0) * 60.0 + float(seconds or 0)


def respond(request: LabRequest, body: str) -> bytes:
    """Return the envelope of a response."""
    return _envelope(f"{request.action}Response", request.message_id, body)


def respond_fault(request: LabRequest | None, refusal: WsmanRefusal) -> bytes:
    """Return the envelope of a fault, in the form of a Windows host."""
    text = escape(refusal.text)
    body = (
        f"<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>{refusal.subcode}"
        f'</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">{text} </s:Text>'
        f'</s:Reason><s:Detail><f:WSManFault xmlns:f="{FAULT}" Code="{refusal.code}" '
        f'Machine="lab.local"><f:Message>{text} </f:Message></f:WSManFault></s:Detail></s:Fault>'
    )
    action = f"{NAMESPACES['w'].removesuffix('/wsman.xsd')}/fault"
    return _envelope(action, request.message_id if request is not None else "", body)


def _envelope(action: str, relates_to: str, body: str) -> bytes:
    return (
        f'<s:Envelope xml:lang="en-US" {_OPENING}><s:Header><a:Action>{action}</a:Action>'
        f"<a:MessageID>uuid:{str(uuid4()).upper()}</a:MessageID>"
        "<a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To>"
        f"<a:RelatesTo>{escape(relates_to)}</a:RelatesTo></s:Header><s:Body>{body}</s:Body>"
        "</s:Envelope>"
    ).encode()


def creation(shell_id: str, owner: str, resource: str, url: str, name: str) -> str:
    """Return the body of the response to Create."""
    return (
        f"<x:ResourceCreated><a:Address>{escape(url)}</a:Address><a:ReferenceParameters>"
        f"<w:ResourceURI>{escape(resource)}</w:ResourceURI><w:SelectorSet>"
        f'<w:Selector Name="ShellId">{shell_id}</w:Selector></w:SelectorSet>'
        f"</a:ReferenceParameters></x:ResourceCreated>{shell_body(shell_id, owner, resource, name)}"
    )


def shell_body(shell_id: str, owner: str, resource: str, name: str) -> str:
    """Return the description of a shell."""
    return (
        f"<rsp:Shell><rsp:ShellId>{shell_id}</rsp:ShellId><rsp:Name>{escape(name)}</rsp:Name>"
        f"<rsp:ResourceUri>{escape(resource)}"
        f"</rsp:ResourceUri><rsp:Owner>{escape(owner)}</rsp:Owner>"
        "<rsp:ClientIP>127.0.0.1</rsp:ClientIP><rsp:IdleTimeOut>PT7200.000S</rsp:IdleTimeOut>"
        "<rsp:InputStreams>stdin</rsp:InputStreams>"
        "<rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>"
    )


def received_objects(command_id: str, pieces: Sequence[tuple[str, bytes]], *, done: bool) -> str:
    """Return the body of the response to Receive for a pipeline, or for a pool ("")."""
    target = f' CommandId="{command_id}"' if command_id else ""
    streams = "".join(
        f'<rsp:Stream Name="{name}"{target}>{base64.b64encode(data).decode()}</rsp:Stream>'
        for name, data in pieces
    )
    state = f'<rsp:CommandState{target} State="{SHELL}/CommandState/Done"/>' if done else ""
    return f"<rsp:ReceiveResponse>{streams}{state}</rsp:ReceiveResponse>"


def received(command_id: str, pieces: Sequence[tuple[str, bytes]], exit_code: int | None) -> str:
    """Return the body of the response to Receive; `exit_code` if the command has ended."""
    streams = "".join(
        f'<rsp:Stream Name="{name}" CommandId="{command_id}">{base64.b64encode(data).decode()}'
        "</rsp:Stream>"
        for name, data in pieces
    )
    if exit_code is None:
        state = f'<rsp:CommandState CommandId="{command_id}" State="{SHELL}/CommandState/Running"/>'
    else:
        ends = "".join(
            f'<rsp:Stream Name="{name}" CommandId="{command_id}" End="true"></rsp:Stream>'
            for name in ("stdout", "stderr")
        )
        state = (
            f'{ends}<rsp:CommandState CommandId="{command_id}" State="{SHELL}/CommandState/Done">'
            f"<rsp:ExitCode>{exit_code}</rsp:ExitCode></rsp:CommandState>"
        )
    return f"<rsp:ReceiveResponse>{streams}{state}</rsp:ReceiveResponse>"
