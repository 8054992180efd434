"""Faults of the network to the machines: cuts at every byte of a start, silence, half-open.

Connections are also broken.
"""

from __future__ import annotations

from collections.abc import Callable

from chaos.fault_context import FaultContext
from chaos.runner import Fault
from chaos.verdicts import UNREACHABLE

CUT_STEP_BYTES = 64
ANSWER_STEP_BYTES = 8
PLACES = 60
"""Enough cuts for a start on an open connection and its response.

These are 3.7 KB with channel and payload, and 0.4 KB.
"""


def cut(*, answers: bool) -> Callable[[FaultContext], None]:
    """Cut starts over open connections, each a step later than the one before.

    Since all connections are open, the next bytes are a start.
    """

    def inject(context: FaultContext) -> None:
        step = ANSWER_STEP_BYTES if answers else CUT_STEP_BYTES
        addresses = context.cluster.addresses
        for first in {0, PLACES - len(addresses)}:
            context.warm_up(addresses)
            context.chance.shuffle(addresses)
            for place, address in enumerate(addresses, start=first):
                context.cluster.network.cut(address, place * step, answers=answers)
            context.launch(1.0, addresses, cancel=False)
            context.ended()

    return inject


def stalled(context: FaultContext) -> None:
    context.launch(2.0)
    context.begun()
    context.cluster.network.stall(context.some_addresses())
    context.pause(context.longer(3.0, 15.0))
    context.cancel()


def black_hole(context: FaultContext) -> None:
    context.launch(3.0)
    context.begun()
    context.cluster.network.black_hole(context.some_addresses())
    context.pause(context.longer(4.0, 30.0))
    context.cancel()


def resets(context: FaultContext) -> None:
    context.launch(3.0)
    context.begun(0.2)
    for _ in range(15):
        context.cluster.network.reset(context.some_addresses())
        context.pause(0.2)
    context.cancel()


def half_closed(context: FaultContext) -> None:
    context.launch(3.0)
    context.begun()
    context.cluster.network.half_close(context.some_addresses())
    context.pause(0.5)
    context.cancel()


def half_open(context: FaultContext) -> None:
    """The machines have lost the connections, the workers have not:

    their next bytes are answered by a reset.
    """
    context.launch(3.0)
    context.begun()
    context.cluster.network.half_open(context.some_addresses())
    context.pause(context.longer(3.0, 10.0))
    context.cancel()


def refused(context: FaultContext) -> None:
    """Refuse connections like sshd beyond MaxStartups; open ones break, too."""
    context.launch(3.0)
    context.begun()
    some = context.some_addresses()
    context.cluster.network.refuse(some)
    context.cluster.network.reset(some)
    context.pause(context.longer(2.0, 6.0))
    context.cancel()


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
