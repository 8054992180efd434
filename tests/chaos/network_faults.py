"""The network between workers and machines: cut at every place of a start, silent, torn, half open."""

from __future__ import annotations

from collections.abc import Callable

from chaos.judge import UNREACHABLE
from chaos.play import Fault
from chaos.scene import Scene

CUT_STEP_BYTES = 64
ANSWER_STEP_BYTES = 8
PLACES = 60
"""So many cuts reach beyond a start on an open connection (3.7 KB with its channel and payload) and its answer (0.4 KB)."""


def cut(*, answers: bool) -> Callable[[Scene], None]:
    """Every connection is open; then the next bytes are a start, and each breaks a step later than the one before."""

    def inject(scene: Scene) -> None:
        step = ANSWER_STEP_BYTES if answers else CUT_STEP_BYTES
        addresses = scene.stage.addresses
        for first in {0, PLACES - len(addresses)}:
            scene.warm_up(addresses)
            scene.chance.shuffle(addresses)
            for place, address in enumerate(addresses, start=first):
                scene.stage.network.cut(address, place * step, answers=answers)
            scene.launch(1.0, addresses, cancel=False)
            scene.ended()

    return inject


def stalled(scene: Scene) -> None:
    scene.launch(2.0)
    scene.begun()
    scene.stage.network.stall(scene.some_addresses())
    scene.pause(scene.longer(3.0, 15.0))
    scene.cancel()


def black_hole(scene: Scene) -> None:
    scene.launch(3.0)
    scene.begun()
    scene.stage.network.black_hole(scene.some_addresses())
    scene.pause(scene.longer(4.0, 30.0))
    scene.cancel()


def resets(scene: Scene) -> None:
    scene.launch(3.0)
    scene.begun(0.2)
    for _ in range(15):
        scene.stage.network.reset(scene.some_addresses())
        scene.pause(0.2)
    scene.cancel()


def half_closed(scene: Scene) -> None:
    scene.launch(3.0)
    scene.begun()
    scene.stage.network.half_close(scene.some_addresses())
    scene.pause(0.5)
    scene.cancel()


def half_open(scene: Scene) -> None:
    """The machines have forgotten the connections, the workers have not; what they send afterwards is answered by a reset."""
    scene.launch(3.0)
    scene.begun()
    scene.stage.network.half_open(scene.some_addresses())
    scene.pause(scene.longer(3.0, 10.0))
    scene.cancel()


def refused(scene: Scene) -> None:
    """As sshd beyond MaxStartups does it; what is open breaks, too."""
    scene.launch(3.0)
    scene.begun()
    some = scene.some_addresses()
    scene.stage.network.refuse(some)
    scene.stage.network.reset(some)
    scene.pause(scene.longer(2.0, 6.0))
    scene.cancel()


_AWAY = frozenset({UNREACHABLE})

FAULTS = (
    Fault(
        "start cut",
        "the connection breaks at every 64th byte of what is sent for a start",
        cut(answers=False),
        _AWAY,
    ),
    Fault(
        "answer cut",
        "the connection breaks at every 8th byte of the answer to a start",
        cut(answers=True),
        _AWAY,
    ),
    Fault(
        "network stalled", "nothing comes through for 15 s, all of it afterwards", stalled, _AWAY
    ),
    Fault(
        "black hole",
        "nothing comes through for 30 s, and those connections never again",
        black_hole,
        _AWAY,
    ),
    Fault("resets", "every 0.2 s half of all connections are reset", resets, _AWAY),
    Fault("half-closed", "the machines' side of half the connections ends", half_closed, _AWAY),
    Fault(
        "half-open",
        "half the machines have lost their connections, and the workers do not know",
        half_open,
        _AWAY,
    ),
    Fault("refused", "half the machines reset what is open and whoever comes", refused, _AWAY),
)
