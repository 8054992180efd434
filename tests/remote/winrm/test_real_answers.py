"""Responses in the form of real hosts, from Server 2008 R2 on, over a real socket.

They were written by hand, after what is known of real ones: their namespaces and prefixes, their
omissions, and the several forms of a fault. None of them was recorded.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from contract.conftest import collect
from kit.wsman_recording import Exchange
from kit.wsman_replay import ANY_PIPELINE, ANY_POOL, ReplayedHost, replayed
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.winrm import host as hosts
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.http import HttpResponse
from opsjobs.remote.winrm.login import _challenges, _token
from opsjobs.remote.winrm.pool import WinrmPool

SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
FAULT = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
SHELL_ID, COMMAND_ID = (
    "0A1B2C3D-0000-4000-8000-00000000AAAA",
    "0A1B2C3D-0000-4000-8000-00000000BBBB",
)


def envelope(body: str, prefix: str = "s") -> str:
    return (
        f'<{prefix}:Envelope xml:lang="en-US" xmlns:{prefix}="http://www.w3.org/2003/05/soap-envelope" '
        'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
        'xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" '
        f'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:rsp="{SHELL}" '
        'xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd">'
        f"<{prefix}:Header><a:Action>{SHELL}/Response</a:Action><a:To>http://schemas.xmlsoap.org/ws/"
        f"2004/08/addressing/role/anonymous</a:To></{prefix}:Header>"
        f"<{prefix}:Body>{body}</{prefix}:Body></{prefix}:Envelope>"
    )


def fault(detail: str, subcode: str = "w:InternalError", reason: str = "It failed. ") -> str:
    return envelope(
        f"<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>{subcode}</s:Value>"
        f'</s:Subcode></s:Code><s:Reason><s:Text xml:lang="">{reason}</s:Text></s:Reason>'
        f"<s:Detail>{detail}</s:Detail></s:Fault>"
    )


def wsman_fault(code: int | str, text: str, machine: str = "win-1") -> str:
    return (
        f"<f:WSManFault xmlns:f='{FAULT}' Code='{code}' Machine='{machine}'>"
        f"<f:Message>{text}</f:Message></f:WSManFault>"
    )


CREATED_2008 = envelope(
    "<x:ResourceCreated><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
    f"</a:Address><a:ReferenceParameters><w:ResourceURI>{SHELL}/cmd</w:ResourceURI><w:SelectorSet>"
    f"<w:Selector Name='ShellId'>uuid:{SHELL_ID}</w:Selector></w:SelectorSet>"
    "</a:ReferenceParameters></x:ResourceCreated>"
)
CREATED_NOW = envelope(
    "<x:ResourceCreated><a:Address>https://win-1:5986/wsman</a:Address><a:ReferenceParameters>"
    f"<w:ResourceURI>{SHELL}/cmd</w:ResourceURI><w:SelectorSet>"
    f'<w:Selector Name="ShellId">{SHELL_ID}</w:Selector></w:SelectorSet></a:ReferenceParameters>'
    f'</x:ResourceCreated><rsp:Shell xmlns:rsp="{SHELL}"><rsp:ShellId>{SHELL_ID}</rsp:ShellId>'
    "<rsp:Owner>ada</rsp:Owner><rsp:IdleTimeOut>PT7200.000S</rsp:IdleTimeOut><rsp:InputStreams>"
    "stdin</rsp:InputStreams><rsp:OutputStreams>stdout\n\tstderr</rsp:OutputStreams>"
    "<rsp:ShellRunTime>P0DT0H0M1S</rsp:ShellRunTime></rsp:Shell>"
)
STARTED = envelope(
    f"<rsp:CommandResponse><rsp:CommandId>{COMMAND_ID}</rsp:CommandId></rsp:CommandResponse>"
)
TIMED_OUT = fault(
    wsman_fault(2150858793, "The WS-Management service cannot complete the operation within the "
                "time specified in OperationTimeout.  "),
    "w:TimedOut",
)  # fmt: skip


def stream(name: str, data: bytes, more: str = "") -> str:
    text = base64.encodebytes(data).decode()  # some hosts break their lines
    return f'<rsp:Stream Name="{name}" CommandId="{COMMAND_ID}"{more}>{text}</rsp:Stream>'


def received(*parts: str, state: str = "Running", code: str | None = None) -> str:
    exit_code = f"<rsp:ExitCode>{code}</rsp:ExitCode>" if code is not None else ""
    ends = f'<rsp:CommandState CommandId="{COMMAND_ID}" State="{SHELL}/CommandState/{state}">{exit_code}</rsp:CommandState>'
    return envelope(
        f"<rsp:ReceiveResponse>{''.join(parts)}{ends if state else ''}</rsp:ReceiveResponse>"
    )


def said(action: str, response: str, status: int = 200, *, chunked: bool = False) -> Exchange:
    return Exchange(action, "", status, response, chunked)


BEGUN = [said("Command", STARTED, chunked=True), said("Send", envelope("<rsp:SendResponse/>"))]
AFTERWARDS = [
    said("Signal", envelope("<rsp:SignalResponse/>")),
    said("Delete", envelope("")),
]


async def run(
    exchanges: list[Exchange], command: str = "echo x", **options: Any
) -> tuple[bytes, bytes, RemoteExit, ReplayedHost]:
    """Run a command on a host with these responses."""
    async with replayed(exchanges, **options) as (host, endpoint):
        pool = WinrmPool(WinrmConnector())
        try:
            async with pool.session(endpoint) as session:
                out, err, end = await collect(await session.start(command))
        finally:
            await pool.close()
        assert host.unexpected == []
        return out, err, end, host


async def test_server_2008_chooses_the_ids_and_names_a_shell_in_its_selector_only() -> None:
    exchanges = [
        said("Create", CREATED_2008),
        *BEGUN,
        said("Receive", TIMED_OUT, 500),
        said("Receive", received(stream("stdout", b"one\r\n"), state="")),
        said("Receive", received(stream("stderr", b"careful"), stream("stdout", b"two"))),
        said("Receive", received(state="Done", code="3")),
        *AFTERWARDS,
    ]
    out, err, end, host = await run(exchanges)
    assert (out, err, end) == (b"one\r\ntwo", b"careful", RemoteExit(3))
    asked = [request for request in host.requests if "Receive" in request]
    assert all(f"uuid:{SHELL_ID}" in request and COMMAND_ID in request for request in asked)


async def test_answers_come_in_chunks_with_empty_streams_and_marks() -> None:
    nil = (
        '<rsp:Stream Name="stdout" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:nil="true"/>'
    )
    ends = (
        f'<rsp:Stream Name="stdout" CommandId="{COMMAND_ID}" End="true"></rsp:Stream>'
        f'<rsp:Stream Name="stderr" CommandId="{COMMAND_ID}" End="true"/>'
    )
    many = "".join(stream("stdout", bytes([n])) for n in range(256))
    exchanges = [
        said("Create", "\ufeff" + CREATED_NOW, chunked=True),
        *BEGUN,
        said("Receive", received(nil, state="Pending")),
        said("Receive", received(many, nil), chunked=True),
        said("Receive", received(ends, state="Done", code="3221225786"), chunked=True),
        *AFTERWARDS,
    ]
    out, err, end, _ = await run(exchanges)
    assert (out, err, end.code) == (bytes(range(256)), b"", -1073741510)


async def test_an_end_without_an_exit_code_is_lost() -> None:
    exchanges = [
        said("Create", CREATED_NOW),
        *BEGUN,
        said("Receive", received(state="Done")),
        AFTERWARDS[1],
    ]
    with pytest.raises(RemoteFailure, match="did not say how") as lost:
        await run(exchanges)
    assert lost.value.code is ErrorCode.LOST


QUOTA_OF_WMI = (
    "<p:MSFT_WmiError b:IsCIM_Error='true' xmlns:b='http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd' "
    "xmlns:p='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/MSFT_WmiError' "
    "xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'><p:CIMStatusCode>27</p:CIMStatusCode>"
    "<p:CIMStatusCodeDescription xsi:nil='true'/><p:Message>This user is allowed a maximum number "
    "of 30 concurrent shells. </p:Message><p:MessageID>HRESULT 0x803381a5</p:MessageID>"
    "<p:OtherErrorType xsi:nil='true'/>{code}</p:MSFT_WmiError>"
)


@pytest.mark.parametrize(
    "refusal",
    [
        wsman_fault(2150859173, "This user is allowed a maximum number of 30 concurrent shells."),
        wsman_fault(
            2150859174, "This user is allowed a maximum number of 15 concurrent operations."
        ),
        QUOTA_OF_WMI.format(code="<p:error_Code>2150859173</p:error_Code>"),
        QUOTA_OF_WMI.format(code="<p:error_Code xsi:nil='true'/>"),
    ],
    ids=["shells", "operations", "wmi", "wmi-without-a-code"],
)
async def test_a_host_at_a_quota_is_asked_again(
    refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "QUOTA_PAUSE_SECONDS", 0.01)
    exchanges = [
        said("Create", fault(refusal, "w:QuotaLimit"), 500),
        said("Create", fault(refusal, "w:QuotaLimit"), 500),
        said("Create", CREATED_NOW),
        *BEGUN,
        said("Receive", received(state="Done", code="0")),
        *AFTERWARDS,
    ]
    assert (await run(exchanges))[2] == RemoteExit(0)


PROVIDER = "<f:ProviderFault provider='Shell cmd plugin' path='%systemroot%\\winrscmd.dll'{more}>{text}</f:ProviderFault>"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (fault(wsman_fault(2150858999, "A new kind of fault. ")), 500,
         "A new kind of fault (WinRM fault 2150858999)."),
        (fault(wsman_fault(2147942402, PROVIDER.format(more="", text="No such file. "), "")), 500,
         "No such file (WinRM fault 2147942402)."),
        (fault(f"<f:Message xmlns:f='{FAULT}'>" + PROVIDER.format(
            more=" Code='2150859113' Machine='win-1'", text="<f:Message>Not allowed. </f:Message>"
        ) + "</f:Message>"), 500, "Not allowed (WinRM fault 2150859113)."),
        (fault(wsman_fault(2150858817, "The XML is invalid. ")), 500,
         "The XML is invalid (WinRM fault 2150858817)."),  # without a name, too
        (fault(f"<w:FaultDetail>{SHELL}/x</w:FaultDetail>{wsman_fault(2150858767, 'Bad header.')}"),
         500, "Bad header (WinRM fault 2150858767)."),
        (fault("", reason="instance name parameter is missing"), 500,
         "instance name parameter is missing (WinRM fault InternalError)."),
        (fault(wsman_fault("-2144108387", " "), reason=" "), 500,
         "it gives no reason (WinRM fault 2150858909)."),
        ("", 500, "HTTP status 500 without a message."),
        ("<html>Service Unavailable</html>", 503,
         "HTTP status 503: the WinRM service is stopped or overloaded."),
        ("<html>Not Found</html>", 404,
         "HTTP status 404: there is no WinRM service at this address and port."),
        ("<html>Bad Request", 400, "HTTP status 400: it is not XML"),
        ("<!DOCTYPE html><html></html>", 200, "XML with a document type"),
        (envelope("<rsp:OtherResponse/>"), 200, "it has no ShellId"),
    ],
)  # fmt: skip
async def test_what_is_refused_or_not_understood_is_said_with_its_number(
    answer: str, status: int, words: str
) -> None:
    with pytest.raises(RemoteFailure) as refused:
        await run([said("Create", answer, status)] * 2)
    assert words in refused.value.message
    assert refused.value.code is ErrorCode.CONNECTION_LOST


async def test_a_user_without_rights_is_told_what_to_ask_for() -> None:
    with pytest.raises(RemoteFailure) as refused:
        await run(
            [said("Create", fault(wsman_fault(5, "Access is denied. "), "w:AccessDenied"), 500)]
        )
    assert refused.value.code is ErrorCode.AUTH_FAILED
    assert "(Access is denied (WinRM fault 5)). Add the user to the group" in refused.value.message


# --- logins


def challenge(*headers: str) -> HttpResponse:
    return HttpResponse(401, tuple(("www-authenticate", header) for header in headers), b"")


def test_schemes_are_found_in_one_header_or_in_several() -> None:
    ladder = ("Negotiate", "Kerberos", 'Basic realm="WSMAN"', "CredSSP")
    names = [scheme for scheme, _ in _challenges(challenge(*ladder))]
    assert names == ["Negotiate", "Kerberos", "Basic", "CredSSP"]
    assert [scheme for scheme, _ in _challenges(challenge(", ".join(ladder)))] == names
    digest = challenge('Digest realm="a, b", qop="auth", Negotiate')
    assert [scheme for scheme, _ in _challenges(digest)] == ["Digest", "Negotiate"]
    token = base64.b64encode(b"NTLMSSP\0...").decode()
    for found in (
        challenge(f"Negotiate {token}", "Kerberos"),
        challenge(f"Negotiate {token}, Kerberos"),
    ):
        assert _token(found, "Negotiate") == b"NTLMSSP\0..."
    assert _token(challenge("Negotiate"), "Negotiate") is None


# --- PSRP, by hand: MS-PSRP 2.2.1 and 2.2.4


def message(kind: int, xml: str, *, pipeline: bool = True) -> bytes:
    target = ANY_PIPELINE.bytes_le if pipeline else bytes(16)
    header = struct.pack("<II", 1, kind) + ANY_POOL.bytes_le + target
    return header + b"\xef\xbb\xbf" + xml.encode()


def fragments(number: int, data: bytes, size: int) -> list[bytes]:
    """Return one object in fragments of at most this size."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [
        struct.pack(">QQBI", number, at, (at == 0) | (at == len(pieces) - 1) << 1, len(piece))
        + piece
        for at, piece in enumerate(pieces)
    ]


CAPABILITY = (
    '<Obj RefId="0"><MS><Version N="protocolversion">{protocol}</Version>'
    '<Version N="PSVersion">2.0</Version><Version N="SerializationVersion">'
    "1.1.0.1</Version></MS></Obj>"
)
PRIVATE_DATA = (
    '<Obj RefId="0"><MS><Obj N="ApplicationPrivateData" RefId="1"><TN RefId="0"><T>'
    "System.Management.Automation.PSPrimitiveDictionary</T><T>"
    "System.Collections.Hashtable</T><T>System.Object</T></TN><DCT/></Obj></MS></Obj>"
)
OPENED = '<Obj RefId="0"><MS><I32 N="RunspaceState">2</I32></MS></Obj>'
WARNING = (
    '<Obj RefId="0"><TN RefId="0"><T>System.Management.Automation.WarningRecord</T><T>'
    "System.Management.Automation.InformationalRecord</T><T>System.Object</T></TN>"
    '<ToString>low disk</ToString><MS><S N="InformationalRecord_Message">low disk</S>'
    '<B N="InformationalRecord_SerializeInvocationInfo">false</B></MS></Obj>'
)
ERROR = (
    '<Obj RefId="0"><TN RefId="0"><T>System.Management.Automation.ErrorRecord</T><T>'
    'System.Object</T></TN><ToString>broken</ToString><MS><B N="SerializeExtendedInfo">'
    'false</B><Obj N="Exception" RefId="1"><TN RefId="1"><T>'
    "System.Management.Automation.RuntimeException</T><T>System.Exception</T><T>"
    'System.Object</T></TN><ToString>broken</ToString><Props><S N="Message">broken</S>'
    '</Props></Obj><Nil N="TargetObject"/><S N="FullyQualifiedErrorId">'
    'WriteErrorException</S><Nil N="InvocationInfo"/><I32 N="ErrorCategory_Category">'
    '0</I32><S N="ErrorCategory_Activity">Write-Error</S><S N="ErrorCategory_Reason">'
    'WriteErrorException</S><S N="ErrorCategory_TargetName"/>'
    '<S N="ErrorCategory_TargetType"/><S N="ErrorCategory_Message">NotSpecified</S></MS>'
    "</Obj>"
)
PROGRESS = (
    '<Obj RefId="0"><MS><S N="Activity">Copying</S><I32 N="ActivityId">0</I32>'
    '<S N="StatusDescription">3 of 4</S><S N="CurrentOperation"></S>'
    '<I32 N="ParentActivityId">-1</I32><I32 N="PercentComplete">75</I32>'
    '<Obj N="Type" RefId="1"><TN RefId="0"><T>'
    "System.Management.Automation.ProgressRecordType</T><T>System.Enum</T><T>"
    "System.ValueType</T><T>System.Object</T></TN><ToString>Processing</ToString><I32>"
    '0</I32></Obj><I32 N="SecondsRemaining">-1</I32></MS></Obj>'
)
PROCESS = (
    '<Obj RefId="0"><TN RefId="0"><T>'
    "Deserialized.System.ServiceProcess.ServiceController</T></TN><ToString>"
    'Spooler</ToString><Props><S N="Name">Spooler</S><Nil N="Site"/></Props></Obj>'
)
COMPLETED = '<Obj RefId="0"><MS><I32 N="PipelineState">4</I32></MS></Obj>'


def pipeline_on(protocol: str) -> list[Exchange]:
    """Run a pipeline on a host of this version of PSRP.

    Its objects arrive in small, uneven fragments.
    """
    opening = [
        *fragments(
            1, message(0x00010002, CAPABILITY.format(protocol=protocol), pipeline=False), 400
        ),
        *fragments(2, message(0x00021009, PRIVATE_DATA, pipeline=False), 90),
        *fragments(3, message(0x00021005, OPENED, pipeline=False), 400),
    ]
    records = [
        (0x00041004, "<S>gr\u00fc\u00dfe _x000D__x000A_\U0001f600</S>"),
        (0x00041009, WARNING),
        (0x00041005, ERROR),
        (0x00041010, PROGRESS),
        (0x00041004, PROCESS),
        (0x00041004, "<Nil/>"),
        (0x00041006, COMPLETED),
    ]
    whole = [
        piece
        for number, (kind, xml) in enumerate(records, start=4)
        for piece in fragments(number, message(kind, xml), 64)
    ]
    pool = "".join(
        stream("stdout", piece).replace(f' CommandId="{COMMAND_ID}"', "") for piece in opening
    )
    sent = [whole[:1], whole[1:7], [b"".join(whole[7:30])], whole[30:]]
    return [
        said("Create", CREATED_2008.replace(f"{SHELL}/cmd", "http://schemas.microsoft.com/powershell/Microsoft.PowerShell")),
        said("Receive", TIMED_OUT, 500),
        said("Receive", envelope(f"<rsp:ReceiveResponse>{pool}</rsp:ReceiveResponse>")),
        said("Get", fault(wsman_fault(5, "Access is denied. "), "w:AccessDenied"), 500),
        said("Command", STARTED),
        *(said("Receive", received(*(stream("stdout", one) for one in pieces), state=state), chunked=True)
          for pieces, state in zip(sent[:-1], ("", "Pending", "Running"), strict=True)),
        said("Receive", received(*(stream("stdout", one) for one in sent[-1]), state="Done", code="0")),
        said("Delete", envelope("")),
    ]  # fmt: skip


@pytest.mark.parametrize("protocol", ["2.1", "2.2", "2.3"])
async def test_a_pipeline_is_followed_under_the_id_that_the_host_gave_it(protocol: str) -> None:
    out, err, end, host = await run(pipeline_on(protocol), "Get-Service", engine="psrp")
    assert out.decode() == "gr\u00fc\u00dfe \r\n\U0001f600\nSpooler\n\n"
    assert err.decode().splitlines() == [
        "WARNING: low disk",
        "broken",
        "    + FullyQualifiedErrorId : WriteErrorException",
        "PROGRESS: Copying: 3 of 4 (75 %)",
    ]
    assert end == RemoteExit(0)
    asked = [one for one in host.requests if "DesiredStream CommandId" in one]
    assert len(asked) == 4
    assert all(COMMAND_ID in request for request in asked)
