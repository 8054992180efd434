"""Several faults at once, by chance."""

from __future__ import annotations

from collections.abc import Callable

from chaos.fault_context import FaultContext
from chaos.runner import Fault
from chaos.verdicts import UNREACHABLE
from e2e.cluster import WORKERS

BLOWS = 10


def storm(context: FaultContext) -> None:
    """Ten blows, a few tenths of a second apart, at random victims."""
    context.launch(5.0)
    context.begun(0.2)
    blows: tuple[Callable[[FaultContext], None], ...] = (
        _kill_worker, _freeze_worker, _reset, _stall, _kill_api, _drop_redis, _kill_session, _restart_sshd,
    )  # fmt: skip
    for _ in range(BLOWS):
        context.chance.choice(blows)(context)
        context.moment(0.8)
    context.cancel()


def _kill_worker(context: FaultContext) -> None:
    name = context.chance.choice(WORKERS)
    if context.cluster.running[name].alive:
        context.cluster.running[name].kill()
    context.cluster.spawn(name)


def _freeze_worker(context: FaultContext) -> None:
    frozen = context.worker()
    if frozen.alive:
        frozen.freeze()
        context.moment(1.0)
        frozen.thaw()


def _reset(context: FaultContext) -> None:
    context.cluster.network.reset(context.some_addresses())


def _stall(context: FaultContext) -> None:
    context.cluster.network.stall(context.some_addresses())
    context.moment(1.0)
    context.cluster.network.heal()


def _kill_api(context: FaultContext) -> None:
    if context.cluster.running["api"].alive:
        context.cluster.running["api"].kill()
    context.cluster.spawn("api")


def _drop_redis(context: FaultContext) -> None:
    if context.cluster.valkey.running:
        context.cluster.kill_server(context.cluster.valkey)
    else:
        context.cluster.valkey.start()


def _kill_session(context: FaultContext) -> None:
    context.soon(context.cluster.kill_a_backend, 0.0)


def _restart_sshd(context: FaultContext) -> None:
    machine = context.machine()
    machine.stop_sshd(sessions=True)
    machine.start_sshd()


FAULTS = (Fault("storm", "ten of these at once, by chance", storm, frozenset({UNREACHABLE})),)
