"""Capabilities of a target that follow from its platform, before a session is open."""

from __future__ import annotations

from typing import get_args

import pytest

from opsjobs.model.target import POSIX, Capabilities, Platform, capabilities_of


@pytest.mark.parametrize("platform", ["linux", "macos", "bsd"])
def test_posix_machines_can_do_everything(platform: str) -> None:
    assert capabilities_of(platform) == POSIX == Capabilities()


def test_a_network_device_takes_bare_lines_and_does_not_report_their_exit() -> None:
    can = capabilities_of("network")
    assert can.quoting == "posix"
    assert (can.posix_shell, can.environment, can.exit_status) == (False, False, False)


def test_windows_reads_lines_by_cmd_and_reports_their_exit() -> None:
    can = capabilities_of("windows")
    assert can.quoting == "cmd"
    assert can.environment
    assert can.exit_status
    assert not can.posix_shell


@pytest.mark.parametrize("platform", get_args(Platform))
def test_what_a_posix_shell_does_needs_one(platform: str) -> None:
    can = capabilities_of(platform)
    assert can.posix_shell or not (can.durable or can.become or can.process_groups)
