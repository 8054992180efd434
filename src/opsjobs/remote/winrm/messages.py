"""WS-Management messages: requests as text, and what responses and faults say.

Built for what Windows hosts send (2008 R2 to current): prefixes are never assumed, a fault may
have its code in any of three places, and an exit code may be signed or not.
"""

from __future__ import annotations

import base64
import binascii
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from opsjobs.model.action_base import signed_exit_code

SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
CMD = f"{SHELL}/cmd"
CONFIG = "http://schemas.microsoft.com/wbem/wsman/1/config"
TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"

ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"

CREATE, DELETE, GET = f"{TRANSFER}/Create", f"{TRANSFER}/Delete", f"{TRANSFER}/Get"
COMMAND, RECEIVE = f"{SHELL}/Command", f"{SHELL}/Receive"
SEND, SIGNAL = f"{SHELL}/Send", f"{SHELL}/Signal"
RECONNECT = f"{SHELL}/Reconnect"
CTRL_C, TERMINATE = f"{SHELL}/signal/ctrl_c", f"{SHELL}/signal/Terminate"

POWERSHELL = "http://schemas.microsoft.com/powershell"
CONFIGURATION = "Microsoft.PowerShell"
"""The session configuration that every host has."""
STOP_PIPELINE = "powershell/signal/crtl_c"  # it is spelt so

ENVELOPE_BYTES = 512_000
"""The maximum size of a response that is asked for."""
ENVELOPE_BYTES_LEAST = 32 << 10
"""The smallest maximum size of a request that a host can be set to."""
RESPONSE_BYTES_MAX = 8 << 20
FAULT_CHARACTERS_MAX = 1_000
"""The longest text of a fault that is repeated: providers may add whole objects."""

_NAMESPACES = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "p": "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
    "rsp": SHELL,
}
_OPENING = " ".join(f'xmlns:{name}="{uri}"' for name, uri in _NAMESPACES.items())
_ANONYMOUS = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
_ESCAPED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"} | {
    "\r": "&#13;",
    "\n": "&#10;",
    "\t": "&#9;",
}
_SPECIAL = re.compile('[&<>"\r\n\t]')
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


_MUST_COMPLY = {"protocolversion": ' MustComply="true"'}


class ProtocolError(Exception):
    """A response that is not WS-Management."""


def escape(text: str) -> str:
    """Return the text for an XML element or attribute.

    Raises ValueError for a character that XML cannot carry.
    """
    if (bad := _FORBIDDEN.search(text)) is not None:
        raise ValueError(f"WinRM cannot carry the control character {bad[0]!r}")
    return _SPECIAL.sub(lambda found: _ESCAPED[found[0]], text)


@dataclass(frozen=True, slots=True)
class WsmanMessage:
    """A request to the service; repeated with the same id, it is the same request."""

    action: str
    resource: str
    body: str = ""
    shell: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 20.0
    """The time after which the host responds in any case (OperationTimeout)."""
    id: UUID = field(default_factory=uuid4)

    def render(self, url: str) -> bytes:
        """Return the whole envelope. Raises ValueError for text that XML cannot carry."""
        options = "".join(
            f'<w:Option Name="{name}"{_MUST_COMPLY.get(name, "")}>{escape(value)}</w:Option>'
            for name, value in self.options.items()
        )
        return (
            f"<s:Envelope {_OPENING}><s:Header>"
            f"<a:To>{escape(url)}</a:To>"
            f'<a:ReplyTo><a:Address s:mustUnderstand="true">{_ANONYMOUS}</a:Address></a:ReplyTo>'
            f'<a:Action s:mustUnderstand="true">{self.action}</a:Action>'
            f'<w:ResourceURI s:mustUnderstand="true">{escape(self.resource)}</w:ResourceURI>'
            f'<w:MaxEnvelopeSize s:mustUnderstand="true">{ENVELOPE_BYTES}</w:MaxEnvelopeSize>'
            f"<a:MessageID>uuid:{str(self.id).upper()}</a:MessageID>"
            '<w:Locale xml:lang="en-US" s:mustUnderstand="false"/>'
            '<p:DataLocale xml:lang="en-US" s:mustUnderstand="false"/>'
            f"<w:OperationTimeout>PT{self.seconds:.3f}S</w:OperationTimeout>"
            + (f"<w:OptionSet>{options}</w:OptionSet>" if options else "")
            + (
                f'<w:SelectorSet><w:Selector Name="ShellId">{escape(self.shell)}</w:Selector>'
                "</w:SelectorSet>"
                if self.shell is not None
                else ""
            )
            + f"</s:Header><s:Body>{self.body}</s:Body></s:Envelope>"
        ).encode()


def create_shell(
    shell: str,
    name: str,
    *,
    environment: Mapping[str, str],
    folder: str | None,
    idle_seconds: float,
) -> WsmanMessage:
    """Return the request for a cmd shell with an id of ours, without a profile, in UTF-8.

    An empty name is left out.
    """
    variables = "".join(
        f'<rsp:Variable Name="{escape(variable)}">{escape(value)}</rsp:Variable>'
        for variable, value in environment.items()
    )
    body = (
        f'<rsp:Shell ShellId="{shell}"{_name_attribute(name)}>'
        + (f"<rsp:Environment>{variables}</rsp:Environment>" if variables else "")
        + (
            f"<rsp:WorkingDirectory>{escape(folder)}</rsp:WorkingDirectory>"
            if folder is not None
            else ""
        )
        + f"<rsp:IdleTimeOut>PT{idle_seconds:.3f}S</rsp:IdleTimeOut>"
        "<rsp:InputStreams>stdin</rsp:InputStreams>"
        "<rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>"
    )
    options = {"WINRS_NOPROFILE": "TRUE", "WINRS_CODEPAGE": "65001"}
    return WsmanMessage(CREATE, CMD, body, options=options)


def start_command(shell: str, command: str, line: str) -> WsmanMessage:
    """Return the request to start a line in cmd, under a command id of ours."""
    body = (
        f'<rsp:CommandLine CommandId="{command}"><rsp:Command>{escape(line)}</rsp:Command>'
        "</rsp:CommandLine>"
    )
    options = {"WINRS_CONSOLEMODE_STDIN": "FALSE", "WINRS_SKIP_CMD_SHELL": "FALSE"}
    return WsmanMessage(COMMAND, CMD, body, shell, options)


def receive(shell: str, command: str, seconds: float) -> WsmanMessage:
    """Return the request for output, which the host holds until there is some, or time is up."""
    body = (
        f'<rsp:Receive><rsp:DesiredStream CommandId="{command}">stdout stderr'
        "</rsp:DesiredStream></rsp:Receive>"
    )
    options = {"WSMAN_CMDSHELL_OPTION_KEEPALIVE": "TRUE"}
    return WsmanMessage(RECEIVE, CMD, body, shell, options, seconds)


def send_input(shell: str, command: str, data: bytes, *, end: bool) -> WsmanMessage:
    """Return the request that writes to standard input, and closes it if `end`."""
    mark = ' End="TRUE"' if end else ""
    body = (
        f'<rsp:Send><rsp:Stream Name="stdin" CommandId="{command}"{mark}>'
        f"{base64.b64encode(data).decode()}</rsp:Stream></rsp:Send>"
    )
    return WsmanMessage(SEND, CMD, body, shell)


def signal(shell: str, command: str, code: str) -> WsmanMessage:
    """Return the request that signals a command: CTRL_C or TERMINATE."""
    body = f'<rsp:Signal CommandId="{command}"><rsp:Code>{code}</rsp:Code></rsp:Signal>'
    return WsmanMessage(SIGNAL, CMD, body, shell)


def get_config() -> WsmanMessage:
    """Return the request for the configuration of the service."""
    return WsmanMessage(GET, CONFIG)


def list_shells(at_most: int) -> WsmanMessage:
    """Return the request for the shells of the host, all in one response."""
    body = (
        f'<n:Enumerate xmlns:n="{ENUMERATION}"><w:OptimizeEnumeration/>'
        f"<w:MaxElements>{at_most}</w:MaxElements></n:Enumerate>"
    )
    return WsmanMessage(f"{ENUMERATION}/Enumerate", SHELL, body)


def delete_shell(shell: str, resource: str = CMD) -> WsmanMessage:
    """Return the request that ends a shell, and the commands in it."""
    return WsmanMessage(DELETE, resource, shell=shell)


# --- requests for runspace pools; their resource is that of the configuration


def configuration_uri(name: str | None) -> str:
    """Return the resource of a session configuration."""
    return f"{POWERSHELL}/{name or CONFIGURATION}"


def create_pool(
    shell: str, name: str, resource: str, opening: bytes, idle_seconds: float
) -> WsmanMessage:
    """Return the request for a runspace pool with an id of ours. An empty name is left out."""
    body = (
        f'<rsp:Shell ShellId="{shell}"{_name_attribute(name)}>'
        f"<rsp:IdleTimeOut>PT{idle_seconds:.3f}S</rsp:IdleTimeOut>"
        "<rsp:InputStreams>stdin pr</rsp:InputStreams>"
        "<rsp:OutputStreams>stdout</rsp:OutputStreams>"
        f'<creationXml xmlns="{POWERSHELL}">{base64.b64encode(opening).decode()}</creationXml>'
        "</rsp:Shell>"
    )
    return WsmanMessage(CREATE, resource, body, options={"protocolversion": "2.3"})


def _name_attribute(name: str) -> str:
    return f' Name="{escape(name)}"' if name else ""


def start_pipeline(shell: str, command: str, data: bytes) -> WsmanMessage:
    """Return the request that starts a pipeline with the first fragment of it."""
    body = (
        f'<rsp:CommandLine CommandId="{command}"><rsp:Command/>'
        f"<rsp:Arguments>{base64.b64encode(data).decode()}</rsp:Arguments></rsp:CommandLine>"
    )
    return WsmanMessage(COMMAND, CMD, body, shell)


def receive_output(shell: str, command: str | None, seconds: float) -> WsmanMessage:
    """Return the request for the output of a pipeline, or of its pool."""
    target = f' CommandId="{command}"' if command is not None else ""
    body = f"<rsp:Receive><rsp:DesiredStream{target}>stdout</rsp:DesiredStream></rsp:Receive>"
    options = {"WSMAN_CMDSHELL_OPTION_KEEPALIVE": "TRUE"}
    return WsmanMessage(RECEIVE, CMD, body, shell, options, seconds)


def send_objects(shell: str, command: str, data: bytes) -> WsmanMessage:
    """Return the request that sends fragments to a pipeline."""
    return send_input(shell, command, data, end=False)


def reconnect(shell: str) -> WsmanMessage:
    """Return the request that reconnects a pool that the host has disconnected."""
    return WsmanMessage(RECONNECT, CMD, shell=shell)


# --- responses


@dataclass(frozen=True, slots=True)
class FaultDetail:
    """The code of a fault, if it has one, and its words."""

    code: int | None
    text: str
    subcode: str = ""

    def __str__(self) -> str:
        """Return the words, with the number or the name by which the fault can be looked up."""
        name = str(self.code) if self.code is not None else self.subcode
        return f"{self.text.rstrip('.')} (WinRM fault {name or 'without a code'})"


@dataclass(frozen=True, slots=True)
class Received:
    """A response to Receive: pieces in their order, and the end of the command."""

    pieces: tuple[tuple[str, bytes], ...]
    done: bool
    exit_code: int | None


def parse(data: bytes) -> ET.Element:
    """Return the envelope of a response, which is in UTF-8 or UTF-16. Raises ProtocolError."""
    try:
        text = data.decode("utf-16" if data[:2] in _UTF16_MARKS else "utf-8-sig")
    except UnicodeDecodeError:
        raise ProtocolError("it is not XML in UTF-8 or UTF-16") from None
    # A document type could expand to any size.
    if "<!DOCTYPE" in text:
        raise ProtocolError("it is XML with a document type, which no host sends")
    try:
        found = ET.fromstring(text)  # noqa: S314  without a document type, see above
    except ET.ParseError as error:
        raise ProtocolError(f"it is not XML: {error}") from None
    if _local(found) != "Envelope":
        raise ProtocolError(f"it is not a SOAP envelope, but {_local(found)}")
    return found


def fault_in(envelope: ET.Element) -> FaultDetail | None:
    """Return the fault of a response; None if it has none."""
    body = _child(envelope, "Body")
    fault = _child(body, "Fault") if body is not None else None
    if fault is None:
        return None
    numbers = [_fault_number(element) for element in fault.iter()]
    codes = [number for number in numbers if number is not None]
    subcode = ""
    for element in fault.iter():
        if _local(element) == "Subcode" and (value := _child(element, "Value")) is not None:
            subcode = _text(value).rpartition(":")[2]
    return FaultDetail(codes[0] if codes else None, _fault_words(fault), subcode)


def _fault_number(element: ET.Element) -> int | None:
    """Return the code that this element of a fault holds, as unsigned 32 bits."""
    match _local(element):
        case "WSManFault" | "ProviderFault":
            written = element.get("Code", "")
        case "error_Code":  # of an MSFT_WmiError, with which quotas are reported
            written = _text(element)
        case "MessageID":  # of the same, as `HRESULT 0x803381a6`
            written = _text(element).rpartition(" ")[2]
        case _:
            return None
    try:
        return int(written, 0) % (1 << 32)
    except ValueError:
        return None


def _fault_words(fault: ET.Element) -> str:
    """Return the first words of a fault that say something, on one line."""
    for wanted in ("Message", "error_Message", "Text"):
        for element in fault.iter():
            if _local(element) == wanted:
                words = " ".join(" ".join(element.itertext()).split())
                if words:
                    return words[:FAULT_CHARACTERS_MAX]
    return "it gives no reason"


def received_in(envelope: ET.Element) -> Received:
    """Return the content of a response to Receive. Raises ProtocolError."""
    response = _find(envelope, "ReceiveResponse")
    pieces: list[tuple[str, bytes]] = []
    done, exit_code = False, None
    for element in response:
        name = _local(element)
        if name == "Stream" and element.text:
            pieces.append((element.get("Name", "stdout"), _decode(element.text)))
        elif name == "CommandState" and element.get("State", "").endswith("/Done"):
            done = True
            code = _child(element, "ExitCode")
            exit_code = _exit_code(_text(code)) if code is not None else None
    return Received(tuple(pieces), done, exit_code)


def command_id_in(envelope: ET.Element) -> str:
    """Return the id under which the host started the command. Raises ProtocolError."""
    return _text(_find(_find(envelope, "CommandResponse"), "CommandId"))


def shell_id_in(envelope: ET.Element) -> str:
    """Return the id of the shell that the host created. Raises ProtocolError.

    Old hosts name it only in the selectors, new ones in the shell as well.
    """
    for element in envelope.iter():
        if _local(element) == "Selector" and element.get("Name") == "ShellId":
            return _text(element)
    return _text(_find(envelope, "ShellId"))


def shells_in(envelope: ET.Element) -> list[tuple[str, str, str]]:
    """Return id, name and resource of each shell in a response to `list_shells`.

    Raises ProtocolError.
    """
    items = _find(_find(envelope, "EnumerateResponse"), "Items")
    return [
        (
            _attribute(shell, "ShellId"),
            _attribute(shell, "Name"),
            _attribute(shell, "ResourceUri") or CMD,
        )
        for shell in items
        if _local(shell) == "Shell"
    ]


def envelope_bytes_in(envelope: ET.Element) -> int | None:
    """Return the maximum size of a request, of a response to `get_config`; None without one."""
    text = _text(_find(envelope, "MaxEnvelopeSizekb"))
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return max(int(text) << 10, ENVELOPE_BYTES_LEAST)


def _exit_code(text: str) -> int | None:
    """Return an exit code as signed 32 bits, as Windows shows it."""
    try:
        return signed_exit_code(int(text, 0))
    except ValueError:
        return None


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except binascii.Error as error:
        raise ProtocolError(f"a stream is not base64: {error}") from None


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element) -> str:
    return (element.text or "").strip()


def _attribute(element: ET.Element, name: str) -> str:
    """Return the value of an attribute or a child of this name; "" if there is none."""
    child = _child(element, name)
    return _text(child) if child is not None else element.get(name, "")


def _child(element: ET.Element | None, name: str) -> ET.Element | None:
    children: Iterable[ET.Element] = element if element is not None else ()
    return next((child for child in children if _local(child) == name), None)


def _find(element: ET.Element, name: str) -> ET.Element:
    found = next((child for child in element.iter() if _local(child) == name), None)
    if found is None:
        raise ProtocolError(f"it has no {name}")
    return found
