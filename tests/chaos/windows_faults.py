"""The way to Windows hosts, and their WinRM service: connections torn and cut, the service killed."""

from __future__ import annotations

from chaos.judge import UNREACHABLE
from chaos.play import Fault
from chaos.scene import Scene

CUT_STEP_BYTES = 4096
PLACES = 24
"""So many cuts reach beyond the login and a start (some 60 KB with the helper script)."""


def resets(scene: Scene) -> None:
    scene.launch(4.0)
    scene.begun(0.2)
    for _ in range(15):
        scene.stage.network.reset(scene.stage.windows.addresses)
        scene.pause(0.3)
    scene.cancel()


def cut(scene: Scene) -> None:
    """Each start breaks a step later than the one before."""
    addresses = scene.stage.windows.addresses
    for first in range(0, PLACES, len(addresses)):
        for place, address in enumerate(addresses, start=first):
            scene.stage.network.cut(address, place * CUT_STEP_BYTES, answers=False)
        scene.launch_on_windows(1.0)
        scene.ended()


def service_killed(scene: Scene) -> None:
    """Twice: its shells are gone, and what runs outside of them goes on."""
    scene.launch(5.0)
    scene.begun(0.2)
    for _ in range(2):
        scene.moment(1.5)
        scene.stage.windows.kill()
        scene.pause(scene.longer(0.5, 3.0))
        scene.stage.windows.start()
    scene.cancel()


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
