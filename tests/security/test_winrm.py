"""Point 15: WinRM: no Basic over http. There is no WinRM yet: nothing is claimed, and this fails when there is."""

from __future__ import annotations

from opsjobs.model.target import Transport


def test_there_is_no_winrm_that_could_speak_basic_over_http() -> None:
    words = "there is a transport winrm now: prove here, in place of this, that it never speaks Basic over http"
    assert "winrm" not in {transport.value for transport in Transport}, words
