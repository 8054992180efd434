"""Point 23: an address that a caller names is only requested if it is public, in any spelling."""

from __future__ import annotations

import pytest

from engine.test_parameter_choices import refusal
from opsjobs.clock import SystemClock
from opsjobs.integrations.caller_urls import Choices
from opsjobs.model.addresses import AddressPolicy, is_public
from opsjobs.model.errors import Invalid, RemoteFailure
from opsjobs.model.parameter import ParameterDraft

PRIVATE = [
    "127.0.0.1", "127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1",
    "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]",
    "localhost", "100.64.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
async def test_no_spelling_of_a_private_address_is_asked(host: str) -> None:
    said = await refusal(f"http://{host}:9/versions", Choices(SystemClock()))
    assert "refuses connections" not in said
    assert "public" in said or "resolve" in said or "name" in said, said


SPECIAL = [
    "168.63.129.16", "192.0.0.192", "100.100.100.200", "64:ff9b:1::a9fe:a9fe", "fec0::1", "5f00::1", "3fff::1", "fe80::1",
    "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:169.254.169.254", "fd00:ec2::254", "2600::5efe:a9fe:a9fe", "224.0.0.1", "ff02::1",
    "240.0.0.1", "255.255.255.255",
]  # fmt: skip


@pytest.mark.parametrize("address", SPECIAL)
def test_special_addresses_are_refused_to_targets_and_to_choices_alike(
    address: str,
) -> None:
    assert not is_public(address)
    with pytest.raises(RemoteFailure) as refused:
        AddressPolicy()(address)
    assert address not in refused.value.message


def test_public_addresses_are_public_however_they_are_written() -> None:
    for address in ("1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"):
        assert is_public(address), address
        AddressPolicy()(address)


async def test_a_refusal_does_not_tell_what_a_name_leads_to_nor_whether_it_is_there() -> None:
    inside = await refusal("http://localhost:9/versions", Choices(SystemClock()))
    nowhere = await refusal("http://no-such-host.invalid:9/versions", Choices(SystemClock()))
    assert inside.replace("localhost", "x") == nowhere.replace("no-such-host.invalid", "x")
    assert "127.0.0.1" not in inside
    assert "::1" not in inside


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org:99999/", "http://example.org:-1/", "http://example.org:0/", "http://example.org:x/", "http://exa\r\nmple.org/", "http://example.org/a\nb",
        "http://example.org/a b", "http://a..b/", "http://[::1/", "http:///x", "http://-x/", "http://ex\u00e4mple.org/", "ftp://example.org/",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_asked_is_refused_where_it_is_written(url: str) -> None:
    with pytest.raises(ValueError, match="not an address for choices"):
        ParameterDraft(name="version", type="choice", choices_url=url)


async def test_one_that_was_stored_before_is_refused_in_words_too() -> None:
    asked = ParameterDraft(name="version", type="choice", choices_url="http://example.org/")
    for url in ("http://example.org:99999/", "http://a..b/"):
        with pytest.raises(Invalid):
            await Choices(SystemClock()).fetch_all([asked.model_copy(update={"choices_url": url})])
