"""Faults of connections to Windows hosts, and of their WinRM service: broken, cut, killed."""

from __future__ import annotations

from chaos.fault_context import FaultContext
from chaos.runner import Fault
from chaos.verdicts import UNREACHABLE

CUT_STEP_BYTES = 4096
PLACES = 24
"""As many cuts as the login and a start (some 60 KB with the helper script) need."""


def resets(context: FaultContext) -> None:
    context.launch(4.0)
    context.begun(0.2)
    for _ in range(15):
        context.cluster.network.reset(context.cluster.windows.addresses)
        context.pause(0.3)
    context.cancel()


def cut(context: FaultContext) -> None:
    """Each start breaks a step later than the one before."""
    addresses = context.cluster.windows.addresses
    for first in range(0, PLACES, len(addresses)):
        for place, address in enumerate(addresses, start=first):
            context.cluster.network.cut(address, place * CUT_STEP_BYTES, answers=False)
        context.launch_on_windows(1.0)
        context.ended()


def service_killed(context: FaultContext) -> None:
    """Twice: its shells are gone, and processes outside of them continue."""
    context.launch(5.0)
    context.begun(0.2)
    for _ in range(2):
        context.moment(1.5)
        context.cluster.windows.kill()
        context.pause(context.longer(0.5, 3.0))
        context.cluster.windows.start()
    context.cancel()


_AWAY = frozenset({UNREACHABLE})

FAULTS = (
    Fault(
        "WinRM reset",
        "RST on all connections to the Windows hosts, again and again",
        resets,
        _AWAY,
    ),
    Fault(
        "WinRM cut",
        "connections to the Windows hosts break at every step of a login and a start",
        cut,
        _AWAY,
    ),
    Fault(
        "WinRM service killed",
        "SIGKILL of the Windows hosts' service while commands run, twice",
        service_killed,
        _AWAY,
    ),
)
