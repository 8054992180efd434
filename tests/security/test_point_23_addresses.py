"""Point 23: an address that a caller names is asked only where it is public, however it is spelt. (Webhooks are not built yet.)"""

from __future__ import annotations

import pytest

from engine.test_choices import refusal
from opsjobs.clock import SystemClock
from opsjobs.peers.choices import Choices

PRIVATE = [
    "127.0.0.1", "127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1",
    "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]",
    "localhost", "100.64.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
async def test_point_23_no_spelling_of_a_private_address_is_asked(host: str) -> None:
    said = await refusal(f"http://{host}:9/versions", Choices(SystemClock()))
    assert "refuses connections" not in said
    assert "public" in said or "resolve" in said or "name" in said, said
