"""Messages in the forms that Windows hosts send, and those that must be refused."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

import pytest

from opsjobs.remote.winrm import messages
from opsjobs.remote.winrm.host import ENVELOPE_OVERHEAD_BYTES
from opsjobs.remote.winrm.messages import ProtocolError
from opsjobs.remote.winrm.sealing import SPNEGO, SealingError, is_sealed, seal, unseal

SOAP = "http://www.w3.org/2003/05/soap-envelope"
SHELL = messages.SHELL
FAULT = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"


def envelope(body: str, prefix: str = "s") -> bytes:
    return (
        f'<{prefix}:Envelope xml:lang="en-US" xmlns:{prefix}="{SOAP}" xmlns:rsp="{SHELL}" '
        f'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><{prefix}:Header/>'
        f"<{prefix}:Body>{body}</{prefix}:Body></{prefix}:Envelope>"
    ).encode()


def fault(detail: str, reason: str = "It failed. ") -> messages.FaultDetail:
    found = messages.fault_in(
        messages.parse(
            envelope(
                "<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode>"
                "<s:Value>w:TimedOut</s:Value></s:Subcode></s:Code>"
                f'<s:Reason><s:Text xml:lang="en-US">{reason}</s:Text></s:Reason>'
                f"<s:Detail>{detail}</s:Detail></s:Fault>"
            )
        )
    )
    assert found is not None
    return found


def test_a_fault_has_its_code_in_the_fault_of_ws_management() -> None:
    found = fault(
        f'<f:WSManFault xmlns:f="{FAULT}" Code="2150858793" Machine="win-1"><f:Message>The '
        "operation\n  timed out. </f:Message></f:WSManFault>"
    )
    assert found == messages.FaultDetail(2150858793, "The operation timed out.", "TimedOut")


@pytest.mark.parametrize(
    ("said", "found"),
    [("500", 500 << 10), ("0", 32 << 10), ("1", 32 << 10), ("²", None), ("9" * 5_000, None)],
)
def test_the_size_of_envelopes_leaves_room_for_input(said: str, found: int | None) -> None:
    body = f"<c:MaxEnvelopeSizekb xmlns:c='urn:c'>{said}</c:MaxEnvelopeSizekb>"
    assert messages.envelope_bytes_in(messages.parse(envelope(body))) == found
    assert messages.ENVELOPE_BYTES_LEAST > ENVELOPE_OVERHEAD_BYTES


def test_a_fault_of_a_provider_is_nested() -> None:
    inner = f'<f:WSManFault xmlns:f="{FAULT}" Code="2150859113" Machine="b"><f:Message>Inner words. </f:Message></f:WSManFault>'
    found = fault(
        f'<f:WSManFault xmlns:f="{FAULT}" Code="2150859010" Machine="a"><f:Message>'
        f'<f:ProviderFault provider="Shell cmd plugin" path="%systemroot%\\winrscmd.dll">{inner}'
        "</f:ProviderFault></f:Message></f:WSManFault>"
    )
    assert (found.code, found.text) == (2150859010, "Inner words.")


def test_a_quota_may_be_reported_by_wmi() -> None:
    found = fault(
        '<p:MSFT_WmiError b:IsCIM_Error="true" '
        'xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/microsoft/windows/management/MSFT_WmiError" '
        'xmlns:b="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd">'
        "<p:CIMStatusCode>27</p:CIMStatusCode><p:error_Category>30</p:error_Category>"
        "<p:error_Code>2150859174</p:error_Code><p:error_Type>HRESULT</p:error_Type>"
        "<p:Message>The maximum number of operations has been exceeded. </p:Message>"
        "</p:MSFT_WmiError>"
    )
    assert (found.code, found.text) == (
        2150859174,
        "The maximum number of operations has been exceeded.",
    )


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("-2144108503", 2150858793),
        ("0x80338029", 2150858793),
        ("995", 995),
        ("", None),
        ("many", None),
    ],
)
def test_codes_are_read_however_they_are_written(written: str, code: int | None) -> None:
    assert fault(f'<f:WSManFault xmlns:f="{FAULT}" Code="{written}"/>').code == code


def test_a_fault_without_a_detail_has_its_reason() -> None:
    assert fault("", "Bad request. ") == messages.FaultDetail(None, "Bad request.", "TimedOut")
    assert fault("", " ").text == "it gives no reason"


def received(inner: str) -> messages.Received:
    body = f"<rsp:ReceiveResponse>{inner}</rsp:ReceiveResponse>"
    return messages.received_in(messages.parse(envelope(body)))


def stream(name: str, data: bytes, more: str = "") -> str:
    text = base64.b64encode(data).decode()
    return f'<rsp:Stream Name="{name}" CommandId="A"{more}>{text}</rsp:Stream>'


def test_output_is_read_in_its_order_and_empty_ends_are_nothing() -> None:
    found = received(
        stream("stdout", b"a\0\xff")
        + stream("stderr", b"b")
        + stream("stdout", b"c")
        + '<rsp:Stream Name="stdout" CommandId="A" End="true"></rsp:Stream>'
        + '<rsp:Stream Name="stderr" CommandId="A" End="true"/>'
        + f'<rsp:CommandState CommandId="A" State="{SHELL}/CommandState/Done">'
        "<rsp:ExitCode>0</rsp:ExitCode></rsp:CommandState>"
    )
    assert found == messages.Received(
        (("stdout", b"a\0\xff"), ("stderr", b"b"), ("stdout", b"c")), True, 0
    )


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("0", 0),
        ("3010", 3010),
        ("-1", -1),
        ("4294967295", -1),
        ("3221225786", -1073741510),
        ("-1073741510", -1073741510),
        ("", None),
    ],
)
def test_exit_codes_are_signed_numbers_of_32_bits(written: str, code: int | None) -> None:
    found = received(
        f'<rsp:CommandState CommandId="A" State="{SHELL}/CommandState/Done">'
        f"<rsp:ExitCode>{written}</rsp:ExitCode></rsp:CommandState>"
    )
    assert (found.done, found.exit_code) == (True, code)


def test_a_running_command_is_not_done() -> None:
    state = f'<rsp:CommandState CommandId="A" State="{SHELL}/CommandState/Running"/>'
    assert received(stream("stdout", b"x") + state).done is False


def test_prefixes_are_not_assumed() -> None:
    data = envelope(
        f'<CommandResponse xmlns="{SHELL}"><CommandId>ABC</CommandId></CommandResponse>', "SOAP-ENV"
    )
    assert messages.command_id_in(messages.parse(data)) == "ABC"


def test_a_shell_is_named_by_its_selector_or_by_itself() -> None:
    old = '<w:SelectorSet><w:Selector Name="ShellId">OLD</w:Selector></w:SelectorSet>'
    new = "<rsp:Shell><rsp:ShellId>NEW</rsp:ShellId></rsp:Shell>"
    assert messages.shell_id_in(messages.parse(envelope(old))) == "OLD"
    assert messages.shell_id_in(messages.parse(envelope(new))) == "NEW"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>Service Unavailable</html>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>",
        "<?xml version='1.0' encoding='utf-16'?><x/>".encode("utf-16"),
        b"\xff\xfe",
        b"<s:Envelope>",
    ],
)
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.parse(data)


@pytest.mark.parametrize("body", ["", "<rsp:ReceiveResponse/>", "<rsp:SendResponse/>"])
def test_a_response_of_another_kind_has_no_command(body: str) -> None:
    with pytest.raises(ProtocolError):
        messages.command_id_in(messages.parse(envelope(body)))


def test_texts_survive_xml() -> None:
    text = "a<b>&\"'\r\n\tü€😀 c"
    line = messages.start_command("S", "C", text).render("http://127.0.0.1:5985/wsman")
    found = messages.parse(line)
    assert [e.text for e in found.iter() if e.tag.endswith("}Command")] == [text]
    with pytest.raises(ValueError, match="control character"):
        messages.start_command("S", "C", "a\x1b").render("http://x")


# --- encrypted messages


@dataclass(frozen=True, slots=True)
class Wrapped:
    header: bytes
    data: bytes
    padding_length: int = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.header, self.data, self.padding_length))


class Mirror:
    """A cipher that reverses the bytes."""

    def wrap_winrm(self, data: bytes) -> Wrapped:
        return Wrapped(b"signature", data[::-1])

    def unwrap_winrm(self, header: bytes, data: bytes) -> bytes:
        assert header == b"signature"
        return data[::-1]


@pytest.mark.parametrize(
    "message", [b"x", b"--Encrypted Boundary\r\n" * 3, bytes(range(256)) * 300]
)
def test_a_message_is_sealed_and_opened(message: bytes) -> None:
    kind, body = seal(Mirror(), SPNEGO, message)
    assert is_sealed(kind)
    assert unseal(Mirror(), body) == message


def test_hosts_write_separators_in_other_ways() -> None:
    message = b"answer"
    part = struct.pack("<i", 9) + b"signature" + message[::-1]
    body = (
        b"-- Encrypted Boundary\r\nContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
        b"OriginalContent: type=application/soap+xml;charset=UTF-8; Length=6\r\n"
        b"-- Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n"
        + part
        + b"-- Encrypted Boundary--\r\n"
    )
    assert unseal(Mirror(), body) == message


def test_what_is_cut_off_or_has_another_length_is_refused() -> None:
    _, body = seal(Mirror(), SPNEGO, b"answer")
    assert unseal(Mirror(), body) == b"answer"
    for bad in (
        b"",
        body.replace(b"Length=6", b"Length=5"),
        body.replace(b"Length=6", b""),
        body[:200],
        body.replace(struct.pack("<i", 9), struct.pack("<i", -1)),
    ):
        with pytest.raises(SealingError):
            unseal(Mirror(), bad)
    for size in range(len(body) - 24):
        with pytest.raises(SealingError):
            unseal(Mirror(), body[:size])
